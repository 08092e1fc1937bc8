"""Who was in which state for how long, and what that cost."""

from __future__ import annotations

from collections.abc import Sequence

from .machines import HOT, Group, State
from .worker import Worker
from .workload import SECOND_US

HOUR_US = 3600 * SECOND_US


class Ledger:
    """Counts workers by group and state, and bills them when they move."""

    def __init__(self, groups: Sequence[Group], workers: Sequence[Worker]) -> None:
        self._groups = groups
        self._workers = workers
        self.count = [[0] * len(State) for _ in groups]  #: workers by group and state
        self.spent_us = [[0] * len(State) for _ in groups]  #: worker-microseconds by group and state, up to the last move
        self.price = [group.price[0][1] for group in groups]  #: per hot hour, now
        self._paid = [0.0 for _ in groups]
        for worker in workers:
            self.count[worker.group][worker.state] += 1

    def move(self, worker: Worker, state: State, now_us: int) -> None:
        self._bill(worker, now_us)
        count = self.count[worker.group]
        count[worker.state] -= 1
        count[state] += 1
        worker.state = state

    def settle(self, now_us: int) -> None:
        """Bill everybody up to now."""
        for worker in self._workers:
            self._bill(worker, now_us)

    def _bill(self, worker: Worker, now_us: int) -> None:
        elapsed_us = now_us - worker.since_us
        worker.since_us = now_us
        if not elapsed_us or worker.state is State.ABSENT:
            return
        group, state = worker.group, worker.state
        self.spent_us[group][state] += elapsed_us
        spec = self._groups[group]
        rate = spec.storage_price * spec.price[0][1] + (self.price[group] if state in HOT else 0.0)
        self._paid[group] += rate * elapsed_us

    def hours(self, *states: State) -> float:
        """Worker-hours in these states, over all groups. Settle first."""
        return sum(group[state] for group in self.spent_us for state in states) / HOUR_US

    def slot_hours(self) -> float:
        """Hours of slots in which a request could have been served, over all groups. Settle first."""
        serving = (State.READY, State.DRAINING, State.EVICTED)
        pairs = zip(self.spent_us, self._groups, strict=True)
        return sum(spec.slots * spent[state] for spent, spec in pairs for state in serving) / HOUR_US

    def cost(self) -> float:
        """What all of it costs, hot hours and storage, in the unit of the prices. Settle first."""
        return sum(self._paid) / HOUR_US
