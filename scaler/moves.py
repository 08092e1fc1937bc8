"""When workers sit in the wrong group: weights changed, a higher tier helped out and is needed no more, a weight became 0.

They are replaced first and released then. Nothing is remembered for it; each decision sees the same from what is here:

    extra    more are hot than wanted. They go from where there is too much
    owed     of these, as many as replacements are on their way for elsewhere: they stay until those are ready
    targets  groups that get a replacement now: while some group is a whole worker or more from its share, from the fullest to
             the one that lacks most; few at once, and only for who has been in the wrong place for a while

A group within one worker of its share is left as it is, so nothing moves for a fraction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import floor

import msgspec

from schemas.ids import GroupId
from schemas.states import WorkerState

from .buying import Buyer
from .groups import Standing
from .scene import Scene
from .shares import Shares
from .types import WorkerFact

_GRAIN = 1e-9
#: After so many refusals of the market in a row the pauses between tries of a move grow no more.
_MOST_PAUSES = 12

#: Stands for all groups of a tier in which cost decides: they have one share together.
ANY = GroupId(-1)


class Moves(msgspec.Struct, frozen=True):
    owed: int = 0  #: hot workers above what is wanted that stay until their replacements are ready
    targets: tuple[GroupId, ...] = ()  #: where a replacement is to be started; ANY: wherever cost says
    excess: tuple[WorkerFact, ...] = ()  #: who could give up their place


class _Tally:
    """Who has how many workers too many, in its own size; counted on paper."""

    def __init__(self, standings: Mapping[GroupId, Standing], shares: Shares) -> None:
        self._over = {group_id: -shares.lack(group_id) / shares.size(group_id) for group_id in standings}
        self._size = {group_id: shares.size(group_id) for group_id in standings}
        if shares.by_cost:
            free = [group_id for group_id in standings if shares.is_free(group_id)]
            self._over[ANY], self._size[ANY] = self._over[free[0]] * self._size[free[0]], 1.0
            for group_id in free:
                del self._over[group_id]

    def fullest(self) -> tuple[GroupId, float]:
        group_id = max(self._over, key=lambda group_id: (self._over[group_id], group_id))
        return group_id, self._over[group_id]

    def emptiest(self) -> tuple[GroupId, float]:
        group_id = min(self._over, key=lambda group_id: (self._over[group_id], group_id))
        return group_id, -self._over[group_id]

    def size(self, group_id: GroupId) -> float:
        return self._size[group_id]

    def takes(self, group_id: GroupId, workers: int) -> None:
        self._over[group_id] += workers


def planned(
    scene: Scene, standings: Mapping[GroupId, Standing], shares: Shares, counted: list[WorkerFact], work: float, buyer: Buyer
) -> Moves:
    """What sits in the wrong place among `counted`, the hot workers that stay. They are worth `work` average ones."""
    tally = _Tally(standings, shares)
    if not standings or tally.fullest()[1] < 0.5 or not (scene.roster.coming or _is_off(tally)):
        return Moves()
    coming = Counter([_place(shares, w) for w in counted if w.state is not WorkerState.READY])
    extra: Counter[GroupId] = Counter()
    there = Counter([_place(shares, w) for w in counted])
    while True:
        group_id, over = tally.fullest()
        work -= tally.size(group_id)
        if over <= _GRAIN or work < shares.wanted - _GRAIN or extra[group_id] >= there[group_id]:
            break
        extra[group_id] += 1
        tally.takes(group_id, -1)
    owed = min(
        sum(max(0, many - coming[group_id]) for group_id, many in extra.items()),
        sum(max(0, many - extra[group_id]) for group_id, many in coming.items()),
    )
    at_once = max(1, floor(scene.policy.move_share * shares.wanted)) - owed
    if at_once <= 0 or not _is_off(tally):
        return Moves(owed=owed)
    settled = _settled(scene, shares, counted, buyer)
    left = Counter(_place(shares, w) for w in settled) - extra
    targets: list[GroupId] = []
    while len(targets) < at_once and _is_off(tally):
        (fullest, _), (emptiest, _) = tally.fullest(), tally.emptiest()
        if left[fullest] <= 0 or not _is_inviting(scene, standings, shares, buyer, emptiest):
            break
        left[fullest] -= 1
        tally.takes(fullest, -1)
        tally.takes(emptiest, 1)
        targets.append(emptiest)
    return Moves(owed=owed, targets=tuple(targets), excess=tuple(settled))


def late(scene: Scene, standings: Mapping[GroupId, Standing], buyer: Buyer) -> float:
    """How many of those on their way below an opened tier would not be there before it: they do not count meanwhile."""
    soonest: dict[int, float] = {}
    for here in buyer.opened:
        soonest_s = buyer.soonest_s(here)
        if soonest_s is not None:
            soonest[here.spec.tier] = min(soonest_s, soonest.get(here.spec.tier, soonest_s))
    if not soonest:
        return 0.0
    tier, now = min(soonest), scene.now
    found = 0.0
    for worker in scene.roster.coming:
        here = standings[worker.group_id]
        if here.spec.tier < tier and buyer.expected_at(worker) > now + soonest[tier]:
            found += here.success
    return found


def _is_off(tally: _Tally) -> bool:
    """Some group is a whole worker from its share, and one from the fullest to the emptiest would mend more than it breaks."""
    over, lack = tally.fullest()[1], tally.emptiest()[1]
    return (over >= 1 - _GRAIN or lack >= 1 - _GRAIN) and over > _GRAIN and over + lack > 1 + _GRAIN


def _place(shares: Shares, worker: WorkerFact) -> GroupId:
    return ANY if shares.is_free(worker.group_id) else worker.group_id


def _settled(scene: Scene, shares: Shares, counted: Iterable[WorkerFact], buyer: Buyer) -> list[WorkerFact]:
    """Who has been ready for a while, in groups with too much that do not just now help out on purpose."""
    helping = {here.spec.id for here in buyer.opened}
    since_at = scene.now - scene.policy.move_after_s
    return [
        worker
        for worker in counted
        if worker.state is WorkerState.READY
        and not scene.roster.is_brought(worker)
        and worker.group_id not in helping
        and (worker.ready_at or scene.now) <= since_at
        and not shares.is_free(worker.group_id)
        and shares.lack(worker.group_id) < 0
    ]


def _is_inviting(scene: Scene, standings: Mapping[GroupId, Standing], shares: Shares, buyer: Buyer, group_id: GroupId) -> bool:
    """Whether this group could start one, room aside, and was not refused lately."""
    if group_id == ANY:
        return any(_is_inviting(scene, standings, shares, buyer, free) for free in standings if shares.is_free(free))
    here = standings[group_id]
    if shares.helps_out(group_id) or not buyer.could(here):
        return False
    pause_s = scene.policy.move_after_s * min(here.memory.missed_in_row, _MOST_PAUSES)
    return scene.now >= here.memory.backoff_until_at + pause_s
