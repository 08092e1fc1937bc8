"""The routable workers of one group, kept so that the best few are found without looking at all of them.

A heap ordered by what was known at the last change of each worker. Between changes a backlog only shrinks, by the passage
of time, so the order is nearly right; the first few are judged afresh by the policy, and many when all of the few seem busy.
Entries are not moved but superseded: a worker's `stamp` names its valid one, and old ones are dropped when they come to the top.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from heapq import heapify, heappop, heappush, heapreplace

from schemas.ids import WorkerId

from .choose import Ask, Policy, expected_wait_s, least_expected_wait
from .view import Standing, Worker

Entry = tuple[int, float, float, int, int, Worker]

#: How many a policy sees: the root of the heap and the two levels below it.
SHORTLIST = 7
#: And how many entries it is shown when none of those has a slot free: the longer ago a worker was busy, the less its place says.
LONGLIST = 128


class Pool:
    """Cost of a change or a pick: logarithmic in the number of workers."""

    def __init__(self, policy: Policy[Worker] = least_expected_wait) -> None:
        self._policy = policy
        self._heap: list[Entry] = []
        self._stamps = 0
        self._members: dict[WorkerId, Worker] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._members.values())

    def put(self, worker: Worker) -> None:
        """It came, or what is known of it changed."""
        if worker.standing is Standing.OUT:
            self.remove(worker)
            return
        self._members[worker.id] = worker
        heappush(self._heap, self._entry(worker))
        if len(self._heap) > 2 * len(self._members) + 64:
            self._heap = [entry for entry in self._heap if entry[4] == entry[5].stamp]
            heapify(self._heap)

    def remove(self, worker: Worker) -> None:
        if self._members.pop(worker.id, None) is not None:
            worker.stamp = 0

    def best(self, ask: Ask, excluded: Container[WorkerId] = ()) -> Worker | None:
        """The policy's choice among the few that lead; None when nobody is here that is not excluded."""
        heap = self._heap
        while heap and heap[0][4] != heap[0][5].stamp:
            heappop(heap)
        if not heap:
            return None
        if excluded:
            return self._policy(self._leading(excluded), ask)
        few = [entry[5] for entry in heap[:SHORTLIST] if entry[4] == entry[5].stamp]
        best = self._policy(few, ask) if len(few) > 1 else few[0]
        if best is None or len(heap) <= SHORTLIST or not expected_wait_s(best, ask.mean_cost, ask.now):
            return best
        return self._policy([entry[5] for entry in heap[:LONGLIST] if entry[4] == entry[5].stamp], ask)

    def took(self, worker: Worker) -> None:
        """A promise was made to it. As put(), cheaper for the one at the top."""
        heap = self._heap
        if heap and heap[0][5] is worker and heap[0][4] == worker.stamp:
            heapreplace(heap, self._entry(worker))
        else:
            self.put(worker)

    def _leading(self, excluded: Container[WorkerId]) -> list[Worker]:
        """The first few that are not excluded, in order."""
        passed: list[Entry] = []
        found: list[Worker] = []
        heap = self._heap
        while heap and len(found) < SHORTLIST:
            entry = heappop(heap)
            if entry[4] == entry[5].stamp:
                passed.append(entry)
                if entry[5].id not in excluded:
                    found.append(entry[5])
        for entry in passed:
            heappush(heap, entry)
        return found

    def _entry(self, worker: Worker) -> Entry:
        self._stamps += 1
        worker.stamp = self._stamps
        there = worker.there
        over = there + 1 - worker.slots
        perf = worker.perf
        wait = over / perf if over > 0 else 0.0
        return (worker.standing, wait, -perf / (there + 1), worker.tie, self._stamps, worker)
