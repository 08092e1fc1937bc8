"""Where the next worker comes from.

    tier      a higher tier whose threshold is passed, else the lowest that can start anything (`tiers`)
    weighted  the group that is a whole worker short of its share, then half of one, then any part; a cold one before a new one
    by cost   the cheapest delivered work (`cost`); a cold one unless a new one is much cheaper; groups nobody has measured are tried
    helping   in turn, by weight

While somebody waits, who would be there in time goes first within what weights leave open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from schemas.ids import GroupId
from schemas.reasons import Why

from . import cost, groups, tiers
from .book import Book
from .groups import Standing
from .scene import Scene
from .shares import Shares
from .types import WorkerFact

_NOBODY_KNOWS = float("inf")
#: In `Buyer.blocked`: what stands in the way of all groups together.
_ALL_OF_THEM = GroupId(0)
_MOST_CONSIDERED = 12
_Key = tuple[float, ...]


class Pick(msgspec.Struct, frozen=True):
    """One more of this group: the cold worker that is started, or a new one."""

    here: Standing
    worker: WorkerFact | None
    boot_s: float
    usd_per_unit: float  #: delivered; infinite while nobody knows


class Buyer:
    """Starts one after the other. `blocked` says what stood in the way, `until_at` when the first of it may be gone. Groups that take
    no part (weight 0, machines that people bring) are named there only once nobody could be picked: then they are a reason too.
    """

    def __init__(self, scene: Scene, standings: Mapping[GroupId, Standing], book: Book, shares: Shares) -> None:
        self._scene = scene
        self._standings = standings
        self._book = book
        self._shares = shares
        self._shut_hosts = frozenset(groups.quarantined(scene.state, scene.now))
        self._cold: dict[GroupId, list[WorkerFact]] = {}
        self._offers: dict[GroupId, tuple[float, float]] = {}
        self._known: dict[GroupId, list[Pick]] = {}  # until something of the group is started
        self._levels = tiers.levels(standings.values())
        self.opened = tiers.opened(scene, standings)
        self._aside: dict[GroupId, groups.Closed] = {}
        self.blocked: dict[GroupId, groups.Closed] = {}
        self.until_at: float | None = None
        self.considered: dict[str, None] = {}  #: in words, whatever there was to choose from, once each

    def one(self, why: Why, text: str, *, lacking: bool = False) -> Standing | None:
        """Start or buy one; the group it is of, or None when nobody can. With `lacking` only for a group that lacks a part of its
        share.
        """
        for level in self._order():
            picks = [pick for here in level for pick in self._picks(here)]
            if lacking:
                picks = [pick for pick in picks if self._shares.lacks(pick.here.spec.id)]
            if picks:
                on_time_s = self._on_time_s(picks)
                if len(picks) > 1 and len(self.considered) < _MOST_CONSIDERED:
                    self.considered.update(dict.fromkeys(map(_words, picks)))
                best = min(picks, key=lambda pick: self._key(pick, on_time_s))
                self._take(best, why, text)
                return best.here
        self._nobody()
        return None

    def new(self, why: Why, text: str) -> bool:
        """A new one, whatever lies cold."""
        for level in self._levels:
            picks = [pick for here in level for pick in self._picks(here) if pick.worker is None]
            if picks:
                self._take(min(picks, key=lambda pick: self._key(pick, _NOBODY_KNOWS)), why, text)
                return True
        self._nobody()
        return False

    def can(self, here: Standing) -> bool:
        """Whether one more of this group could be started now."""
        return bool(self._picks(here))

    def could(self, here: Standing) -> bool:
        """Whether one more of this group could be started, if the endpoint had room for it."""
        if self.is_barred(here) is not None:
            return False
        return bool(self._cold_of(here)) or groups.full(here, self._book.created[here.spec.id]) is None

    def is_usable(self, worker: WorkerFact) -> bool:
        """Whether this cold worker may be started, now or when its group's backoff is over."""
        here = self._standings.get(worker.group_id)
        if here is None or here.spec.weight <= 0 or worker.host in self._shut_hosts:
            return False
        return here.works_still(worker) if here.halted else worker.revision >= here.oldest_revision

    def is_barred(self, here: Standing) -> groups.Closed | None:
        """What keeps this group from starting anything, room aside."""
        coming = here.coming + self._book.started[here.spec.id]
        return groups.closed(here, coming, self._scene.policy, self._scene.now)

    def take(self, here: Standing, why: Why, text: str) -> bool:
        """One of this very group: a cold one, else a new one."""
        picks = self._picks(here)
        if picks:
            self._take(picks[0], why, text)
        return bool(picks)

    def expected_at(self, worker: WorkerFact) -> float:
        """When a worker that is on its way should be ready."""
        here = self._standings[worker.group_id]
        return worker.launched_at + here.boot_s(from_cold=worker.from_cold)

    def soonest_s(self, here: Standing) -> float | None:
        """Seconds until one more of this group would be ready; None: it cannot start any."""
        return min((pick.boot_s for pick in self._picks(here)), default=None)

    # --- what there is ---

    def _order(self) -> Iterable[list[Standing]]:
        for here in self.opened:
            yield [here]
        yield from self._levels

    def _picks(self, here: Standing) -> list[Pick]:
        """A cold one and a new one of this group, as far as it may."""
        group_id = here.spec.id
        if group_id not in self._known:
            self._known[group_id] = self._look(here)
        picks = self._known[group_id]
        return picks if self._book.room > 0 else [pick for pick in picks if pick.worker is not None]

    def _look(self, here: Standing) -> list[Pick]:
        shut = self.is_barred(here)
        if shut is not None:
            self._note(here, shut)
            if not here.halted:
                return []
        picks = []
        cold = self._cold_of(here)
        while cold and cold[-1].worker_id in self._book.touched:
            cold.pop()
        if cold:
            worker = cold[-1]
            usd = here.delivered_usd_per_unit(worker=worker)
            picks.append(Pick(here, worker, here.boot_s(from_cold=True), _NOBODY_KNOWS if usd is None else usd))
        full = groups.full(here, self._book.created[here.spec.id])
        if full is not None:
            self._note(here, full)
        elif shut is None:
            picks.append(Pick(here, None, *self._offer(here)))
        return picks

    def _cold_of(self, here: Standing) -> list[WorkerFact]:
        """Those that may be started, the best at the end."""
        group_id = here.spec.id
        if group_id not in self._cold:
            usable = [worker for worker in here.cold if self.is_usable(worker)]
            usable.sort(
                key=lambda w: (cost.usd_per_unit(w.usd_per_hour, w.perf or here.perf), -w.state_at, w.worker_id), reverse=True
            )
            self._cold[group_id] = usable
        return self._cold[group_id]

    def _offer(self, here: Standing) -> tuple[float, float]:
        """Boot and delivered cost of a new one."""
        group_id = here.spec.id
        if group_id not in self._offers:
            usd = here.delivered_usd_per_unit()
            self._offers[group_id] = (here.boot_s(from_cold=False), _NOBODY_KNOWS if usd is None else usd)
        return self._offers[group_id]

    def _note(self, here: Standing, shut: groups.Closed) -> None:
        if not here.spec.managed or here.spec.weight <= 0:
            self._aside[here.spec.id] = shut
            return
        self.blocked[here.spec.id] = shut
        if shut.until_at is not None:
            self.until_at = shut.until_at if self.until_at is None else min(self.until_at, shut.until_at)

    def _nobody(self) -> None:
        """Nobody could be picked: whatever is the reason shall be said."""
        self.blocked |= self._aside
        if not self._standings:
            self.blocked[_ALL_OF_THEM] = groups.Closed(Why.STEADY, "it has no worker group")
        elif self._book.room <= 0 and any(pick.worker is None for picks in self._known.values() for pick in picks):
            most = self._scene.settings.max_workers
            text = f"max_workers allows {most}, and those that fail or are on their way out count until they are gone"
            self.blocked[_ALL_OF_THEM] = groups.Closed(Why.MAX_WORKERS, text)

    # --- which is best: the smallest key ---

    def _on_time_s(self, picks: list[Pick]) -> float:
        """While somebody waits: boots up to this are soon enough, the fastest that can be had and a little more."""
        if not self._scene.here.waiting and not self._scene.here.queued:
            return _NOBODY_KNOWS
        fastest_s = min(pick.boot_s for pick in picks)
        return max(self._scene.settings.target_queue_time, self._scene.policy.lead_slack * fastest_s)

    def _key(self, pick: Pick, on_time_s: float) -> _Key:
        group_id = pick.here.spec.id
        is_late, is_new = pick.boot_s > on_time_s, pick.worker is None
        if self._shares.is_free(group_id):
            return (*self._by_cost(pick, on_time_s), group_id)
        if self._shares.helps_out(group_id):
            return (is_new, is_late, self._shares.turn(group_id), group_id)
        lack, size = self._shares.lack(group_id), self._shares.size(group_id)
        short = 0 if self._shares.whole_lack(group_id) >= 1 else 1 if lack >= size / 2 else 2 if lack > 0 else 3
        return (short, is_new, is_late, -lack, pick.usd_per_unit, group_id)

    def _by_cost(self, pick: Pick, on_time_s: float) -> _Key:
        here, is_new = pick.here, pick.worker is None
        waits, is_late = on_time_s < _NOBODY_KNOWS, pick.boot_s > on_time_s
        if here.is_measured:
            turn = 2 if is_late else 0 if waits else 1
        elif here.hot or self._book.started[here.spec.id] or not here.is_worth_a_try:
            turn = 3  # its try is under way and a second one would teach nothing more, or it is too dear for one
        else:
            turn = 1 if waits else 0
        usd = pick.usd_per_unit / self._scene.policy.cold_worth if is_new else pick.usd_per_unit
        return (turn, usd, is_new, -(here.perf or 0.0))

    def _take(self, pick: Pick, why: Why, text: str) -> None:
        here = pick.here
        self._known.pop(here.spec.id, None)
        if why is not Why.TRIAL and self._shares.is_free(here.spec.id) and not here.is_measured:
            text = f"{here.name} is not measured yet and is tried; {text}"
        if pick.worker is None:
            self._book.create(here.spec, why, text)
            self._shares.gains(here.spec.id)
        else:
            self._book.act("start", pick.worker, why, text)
            self._shares.regains(pick.worker)


def _words(pick: Pick) -> str:
    what = "a new one" if pick.worker is None else f"cold {pick.worker.worker_id}"
    price = "price or perf unknown" if pick.usd_per_unit == _NOBODY_KNOWS else f"${pick.usd_per_unit * 1e6:.3g} per million units"
    return f"{pick.here.name}: {what}, ready in {pick.boot_s:.0f} s, {price}"
