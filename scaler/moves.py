"""When workers sit in the wrong group: weights changed, a higher tier helped out and is needed no more, a weight became 0.

They are replaced first and released then. Nothing is remembered for it; each decision sees the same from what is here:

    excess     workers without which a group would be nearer to its share; all of groups without one
    owed       of these, as many as replacements are on their way for: so many above what is wanted are not too many
    new        replacements to be started now: few at once, and only for who has been in the wrong place for a while

When the replacement is ready nothing is owed any more, so there is one too many, and the group with too much gives it up.
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


class Moves(msgspec.Struct, frozen=True):
    owed: int = 0  #: hot workers whose replacements are on the way
    new: int = 0  #: replacements to be started
    excess: tuple[WorkerFact, ...] = ()  #: who could give up their place


def planned(
    scene: Scene, standings: Mapping[GroupId, Standing], shares: Shares, counted: Iterable[WorkerFact], buyer: Buyer
) -> Moves:
    """What sits in the wrong place among `counted`, the hot workers that stay."""
    over = {group_id: excess for group_id in standings if (excess := shares.excess(group_id)) > 0}
    if not over or not (scene.roster.coming or any(shares.whole_lack(group_id) for group_id in standings)):
        return Moves()
    counted = list(counted)
    size_ready: Counter[GroupId] = Counter()
    coming: Counter[GroupId] = Counter()
    for worker in counted:
        if worker.state is WorkerState.READY:
            size_ready[worker.group_id] += shares.size_of(worker)  # type: ignore[assignment]
        else:
            coming[worker.group_id] += 1
    owed = min(sum(over.values()), _replaced(standings, shares, size_ready, coming))
    policy, now = scene.policy, scene.now
    at_once = max(1, floor(policy.move_share * shares.wanted))
    helping = {here.spec.id for here in buyer.opened}
    settled = [
        worker
        for worker in counted
        if worker.state is WorkerState.READY
        and worker.group_id in over
        and worker.group_id not in helping
        and now - (worker.ready_at or now) >= policy.move_after_s
    ]
    per_group = Counter(worker.group_id for worker in settled)
    movable = sum(min(count, over[group_id]) for group_id, count in per_group.items())
    lacking = _lacking(standings, shares, buyer, scene)
    new = max(0, min(movable, sum(over.values()) - owed, at_once - owed, lacking))
    return Moves(owed=owed, new=new, excess=tuple(settled))


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


def _replaced(
    standings: Mapping[GroupId, Standing], shares: Shares, size_ready: Mapping[GroupId, float], coming: Mapping[GroupId, int]
) -> int:
    """How many are on their way to where they are missing."""
    if shares.by_cost:
        free = [group_id for group_id in standings if shares.is_free(group_id)]
        missing = shares.wanted - sum(size_ready.get(group_id, 0.0) for group_id in free)
        return min(sum(coming.get(group_id, 0) for group_id in free), max(0, floor(missing + _GRAIN)))
    found = 0
    for group_id in standings:
        missing = (shares.due(group_id) - size_ready.get(group_id, 0.0)) / shares.size(group_id)
        found += min(coming.get(group_id, 0), max(0, floor(missing + _GRAIN)))
    return found


def _lacking(standings: Mapping[GroupId, Standing], shares: Shares, buyer: Buyer, scene: Scene) -> int:
    """Whole workers that groups are short of which could start some now and have not been refused lately."""
    found = 0
    for group_id, here in standings.items():
        whole = shares.whole_lack(group_id)
        if whole < 1 or shares.helps_out(group_id) or buyer.is_barred(here) is not None:
            continue
        pause_s = scene.policy.move_after_s * min(here.memory.missed_in_row, _MOST_PAUSES)
        if scene.now < here.memory.backoff_until_at + pause_s:
            continue
        if shares.by_cost:
            return whole
        found += whole
    return found
