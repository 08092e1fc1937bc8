"""Who should have how much of the hot pool, measured in work and not in heads: a weight is a share of the traffic, and a fast worker
takes more of it.

    lowest tier with weights     each group its weight's share, and never less than one worker while the endpoint is awake
    lowest tier without any      no shares: cost decides (`buying`, `victims`)
    higher tiers                 no share of their own: they help out; among themselves in turn, by weight

Routers give each group of a tier exactly its share of the requests as long as it has a worker that can take them, and a group that
has none leaves its share to the others. So a share comes true when the group has about that much of the pool: one worker at
least, and never a whole worker less than its part. A fraction of a worker that is missing shows only while the group is full: what it
cannot take at once goes to the others of its tier, because nobody waits for the sake of a percentage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, floor

from schemas.ids import GroupId

from . import tiers
from .groups import Standing
from .types import WorkerFact

_GRAIN = 1e-9


class Shares:
    """Counts down and up as a plan goes on. Everything is in workers of the average perf."""

    def __init__(self, standings: Mapping[GroupId, Standing], hot: Iterable[WorkerFact], wanted: int) -> None:
        self._standings = standings
        workers = list(hot)
        perfs = [worker.perf or self._perf_of_group(worker.group_id) for worker in workers]
        known = [perf for perf in perfs if perf is not None]
        if not known:
            known = [here.perf for here in standings.values() if here.spec.weight > 0 and here.perf is not None]
        self.average = sum(known) / len(known) if known else 1.0  #: units per second of the average worker
        self._size = {group_id: (here.perf or self.average) / self.average for group_id, here in standings.items()}
        self.lowest = tiers.lowest(standings.values())
        first = [here for here in standings.values() if here.spec.tier == self.lowest and here.spec.weight > 0]
        self.by_cost = tiers.goes_by_cost(first)
        self._free = frozenset(here.spec.id for here in first) if self.by_cost else frozenset()
        self.wanted = wanted
        self._due = dict.fromkeys(standings, 0.0)
        self._is_ample = False
        if not self.by_cost:
            claimants = [here for here in first if counts(here)]
            claims = [(here.spec.weight, self._size[here.spec.id]) for here in claimants]
            self._is_ample = is_ample(claims, wanted)
            for here, due in zip(claimants, divided(claims, float(wanted)), strict=True):
                self._due[here.spec.id] = due
        average, has = self.average, dict.fromkeys(standings, 0.0)
        for group_id, perf in zip([worker.group_id for worker in workers], perfs, strict=True):
            has[group_id] = has.get(group_id, 0.0) + (perf or average)
        self._has = {group_id: units_per_s / average for group_id, units_per_s in has.items()}

    # --- what is due ---

    def lack(self, group_id: GroupId) -> float:
        """How much of its share it lacks; negative: how much it has too much. Where cost decides: what its tier lacks."""
        if group_id in self._free:
            return self.wanted - sum(has for other, has in self._has.items() if other in self._free)
        return self._due.get(group_id, 0.0) - self._has.get(group_id, 0.0)

    def lacks(self, group_id: GroupId) -> bool:
        """Whether it lacks any part of its share."""
        return self.lack(group_id) > _GRAIN

    def whole_lack(self, group_id: GroupId) -> int:
        """Whole workers that it lacks, of its own size; 0 when it lacks none."""
        return max(0, floor(self.lack(group_id) / self._size.get(group_id, 1.0) + _GRAIN))

    def is_free(self, group_id: GroupId) -> bool:
        """Whether cost decides about it and not a weight."""
        return group_id in self._free

    def helps_out(self, group_id: GroupId) -> bool:
        """Whether its tier is above the one that serves the load."""
        here = self._standings.get(group_id)
        return here is not None and here.spec.tier > self.lowest

    def turn(self, group_id: GroupId) -> float:
        """Whose turn it is among groups that have no share of their own: the smallest first (Webster's rule)."""
        weight = self._standings[group_id].spec.weight
        return (self._has[group_id] + self._size[group_id] / 2) / weight if weight > 0 else float("inf")

    # --- what happens ---

    def gains(self, group_id: GroupId) -> None:
        """One more worker of it."""
        self._add(group_id, self._size.get(group_id, 1.0))

    def regains(self, worker: WorkerFact) -> None:
        """It is back."""
        self._add(worker.group_id, self.size_of(worker))

    def loses(self, worker: WorkerFact) -> None:
        """It goes."""
        self._add(worker.group_id, -self.size_of(worker))

    # --- who may go ---

    def spares(self, worker: WorkerFact) -> int:
        """How well its group can do without it: 0 it has a whole one like it too many, 1 it would be nearer to its share without
        it, 2 it would not. Where cost decides all are alike.
        """
        group_id = worker.group_id
        if group_id in self._free:
            return 2
        over, size = self._has.get(group_id, 0.0) - self._due.get(group_id, 0.0), self.size_of(worker)
        return 0 if over >= size - _GRAIN else 1 if over >= size / 2 else 2

    def keeps(self, group_id: GroupId) -> bool:
        """It would be a whole worker short of its share with one less, so for the load alone none of it goes. Where there is not
        enough for one worker each, nobody is kept.
        """
        return self._is_ample and self._due.get(group_id, 0.0) > 0 and self.lack(group_id) >= -_GRAIN

    def size_of(self, worker: WorkerFact) -> float:
        perf = worker.perf if worker.perf > 0 else self._perf_of_group(worker.group_id) or self.average
        return perf / self.average

    @property
    def work(self) -> float:
        """What all hot workers are worth."""
        return sum(self._has.values())

    def size(self, group_id: GroupId) -> float:
        """Of one more worker of this group."""
        return self._size.get(group_id, 1.0)

    def _perf_of_group(self, group_id: GroupId) -> float | None:
        here = self._standings.get(group_id)
        return here.perf if here is not None else None

    def _add(self, group_id: GroupId, size: float) -> None:
        self._has[group_id] = self._has.get(group_id, 0.0) + size


def counts(here: Standing) -> bool:
    """Whether its weight is a claim now: it has workers, or could have. A halted group without any has none."""
    return here.spec.weight > 0 and (here.hot > 0 or (here.spec.managed and not here.halted and here.spec.max_workers != 0))


def divided(claims: Sequence[tuple[float, float]], wanted: float) -> list[float]:
    """`wanted` (average workers) among claims of (weight, size of one worker), by weight, each at least one of its workers where
    there is enough for one each. The result adds up to `wanted`.
    """
    left, weights = wanted, sum(weight for weight, _ in claims)
    if not is_ample(claims, wanted):
        return [wanted * weight / weights for weight, _ in claims]
    due = [0.0] * len(claims)
    for n in sorted(range(len(claims)), key=lambda n: (claims[n][0] / claims[n][1], n)):  # who needs its one goes first
        weight, size = claims[n]
        due[n] = max(size, left * weight / weights)
        left, weights = left - due[n], weights - weight
    return due


def is_ample(claims: Sequence[tuple[float, float]], wanted: float) -> bool:
    """Whether there is enough for one worker of each."""
    return sum(size for _, size in claims) <= wanted + _GRAIN


def one_each(standings: Mapping[GroupId, Standing], hot: int) -> int:
    """So many hot workers that each weighted group of the lowest tier has its share of `hot`, and no less than one worker.

    Monotone in `hot`, and `hot` itself where every share is worth a worker anyway.
    """
    lowest = tiers.lowest(standings.values())
    first = [here for here in standings.values() if here.spec.tier == lowest and here.spec.weight > 0]
    if hot <= 0 or tiers.goes_by_cost(first):
        return hot
    claims = [here.spec.weight for here in first if counts(here)]
    if len(claims) < 2:
        return hot
    whole = sum(max(1.0, hot * weight / sum(claims)) for weight in claims)
    return max(hot, ceil(whole - 0.5 - _GRAIN))
