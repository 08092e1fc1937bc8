"""Who should have how much of the hot pool: in the lowest tier by weight, measured in work and not in heads, because a weight is a
share of the traffic and a fast worker takes more of it. Higher tiers have no share of their own: they help out.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.ids import GroupId

from . import capacity
from .roster import Roster
from .types import EndpointState, WorkerFact


class Shares:
    """Counts down and up as a plan goes on. Everything is in workers of the average perf."""

    def __init__(self, state: EndpointState, roster: Roster, hot: Iterable[WorkerFact], wanted: int) -> None:
        hot = list(hot)
        self._state = state
        self._average = capacity.reference_perf(state, hot) or 1.0
        weights = {group.id: max(group.weight, 0.0) for group in roster.groups.values()}
        lowest = min((group.tier for group in roster.groups.values() if group.weight > 0), default=0)
        first = {group_id: weight for group_id, weight in weights.items() if roster.groups[group_id].tier == lowest}
        all_weights = sum(first.values()) or 1.0
        self._due = {group_id: first.get(group_id, 0.0) / all_weights * wanted for group_id in weights}
        self._has = dict.fromkeys(weights, 0.0)
        for worker in hot:
            self.gains(worker.group_id, self._size(worker))

    def lack(self, group_id: GroupId) -> float:
        """How much of its share it lacks; negative: how much it has too much."""
        return self._due.get(group_id, 0.0) - self._has.get(group_id, 0.0)

    def gains(self, group_id: GroupId, size: float | None = None) -> None:
        """One more worker of it."""
        if size is None:
            size = (capacity.group_perf(self._state, group_id) or self._average) / self._average
        self._has[group_id] = self._has.get(group_id, 0.0) + size

    def loses(self, worker: WorkerFact) -> None:
        """It goes."""
        self._has[worker.group_id] = self._has.get(worker.group_id, 0.0) - self._size(worker)

    def has_too_much(self, worker: WorkerFact) -> bool:
        """Its group would still be nearer to its share without it."""
        return self.lack(worker.group_id) <= -self._size(worker) / 2

    def _size(self, worker: WorkerFact) -> float:
        return (capacity.perf_of(self._state, worker) or self._average) / self._average
