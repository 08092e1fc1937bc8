"""The upper bound: one queue, bound as late as possible, with all knowledge at once. Only for one router."""

from __future__ import annotations

from collections import deque

from .arena import Given, Report, Router


class Central:
    """A request goes to the worker with the fewest in service as soon as one has a slot free; else it waits for the first."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._serving = [0] * len(given.pool.perf)
        self._waiting: deque[int] = deque()

    def arrive(self, request: int, units: float, now_us: int) -> None:  # noqa: ARG002 -- the cost does not matter here
        self._waiting.append(request)
        self._pump()

    def completed(self, request: int, worker: int, now_us: int) -> None:  # noqa: ARG002
        self._serving[worker] -= 1
        self._pump()

    def report(self, report: Report, now_us: int) -> None:
        """It knows better."""

    def tick(self, now_us: int) -> None:
        """Nothing depends on time alone."""

    def told(self, message: object, now_us: int) -> None:
        """It has no peers."""

    def _pump(self) -> None:
        while self._waiting:
            worker = min(range(len(self._serving)), key=lambda w: (self._serving[w], w))
            if self._serving[worker] >= self._given.pool.slots:
                return
            self._serving[worker] += 1
            self._given.send(self._waiting.popleft(), worker)


def make(given: Given) -> Router:
    return Central(given)
