"""How fast a worker serves: two models behind one interface.

`FixedRate`: each request holds one slot and proceeds at perf / slots, whatever else the worker does. What engines with a fixed
batch do, and what the published figures use. `ProcessorSharing`: a request proceeds at min(single-stream rate, perf / n) with n
in service, which is nearer to continuous batching: a lone request is faster, a full worker equally fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Protocol

from .machines import Group
from .worker import Worker
from .workload import SECOND_US, SHORTEST_SERVICE_US

Completion = tuple[int, int, int]
"""(time_us, stamp, request): when the worker's next request will be done, if nothing changes."""


class Service(Protocol):
    def begin(self, now_us: int, worker: Worker, request: int) -> Completion:
        """The request has just been put into the worker's `serving`."""
        ...

    def finish(self, now_us: int, worker: Worker, stamp: int, request: int) -> tuple[int | None, Completion | None]:
        """A completion is due: (the request that is done, or None when the plan was out of date; the next plan, if any)."""
        ...

    def stop(self, worker: Worker) -> None:
        """The worker is gone, and with it what it was serving."""
        ...


class FixedRate:
    """units / (perf / slots) seconds a request."""

    def __init__(self, units: Sequence[float], groups: Sequence[Group]) -> None:
        self._service_us = [
            [max(SHORTEST_SERVICE_US, round(size * (group.slots * SECOND_US / group.perf))) for size in units] for group in groups
        ]

    def begin(self, now_us: int, worker: Worker, request: int) -> Completion:
        return now_us + self._service_us[worker.group][request], worker.life, request

    def finish(self, now_us: int, worker: Worker, stamp: int, request: int) -> tuple[int | None, Completion | None]:  # noqa: ARG002
        return (request if stamp == worker.life else None), None

    def stop(self, worker: Worker) -> None:
        """Nothing to forget: the worker's life has changed, so its completions are out of date."""


class _Shared:
    """The work of one worker under processor sharing. `done` is what every request in service has received since the worker's
    first; a request of u units that comes at `done` = d is finished at `done` = d + u.
    """

    __slots__ = ("at_us", "done", "finish_at", "plan")

    def __init__(self) -> None:
        self.at_us = 0
        self.done = 0.0
        self.finish_at: list[tuple[float, int]] = []  # heap of (`done` at which it is finished, request)
        self.plan = 0  # only the last plan holds


class ProcessorSharing:
    """min(single-stream rate, perf / n) units per second for each of n requests."""

    def __init__(self, units: Sequence[float], groups: Sequence[Group], *, single_stream: float = 4.0) -> None:
        """`single_stream`: how many times faster than perf / slots a request runs alone."""
        self._units = units
        self._groups = groups
        self._alone = [single_stream * group.perf / group.slots for group in groups]
        self._workers: dict[int, _Shared] = {}

    def begin(self, now_us: int, worker: Worker, request: int) -> Completion:
        shared = self._workers.setdefault(worker.number, _Shared())
        self._catch_up(now_us, worker, shared)
        heappush(shared.finish_at, (shared.done + self._units[request], request))
        return self._plan(now_us, worker, shared)

    def finish(self, now_us: int, worker: Worker, stamp: int, request: int) -> tuple[int | None, Completion | None]:  # noqa: ARG002
        shared = self._workers[worker.number]
        if stamp != shared.plan:
            return None, None
        self._catch_up(now_us, worker, shared)
        shared.done, done_request = heappop(shared.finish_at)
        return done_request, (self._plan(now_us, worker, shared) if shared.finish_at else None)

    def stop(self, worker: Worker) -> None:
        shared = self._workers.get(worker.number)
        if shared is not None:
            shared.plan += 1
            shared.finish_at.clear()

    def _rate(self, worker: Worker, serving: int) -> float:
        """Units per second that each of `serving` requests receives."""
        return min(self._alone[worker.group], self._groups[worker.group].perf / serving)

    def _catch_up(self, now_us: int, worker: Worker, shared: _Shared) -> None:
        if shared.finish_at:
            shared.done += self._rate(worker, len(shared.finish_at)) * (now_us - shared.at_us) / SECOND_US
        shared.at_us = now_us

    def _plan(self, now_us: int, worker: Worker, shared: _Shared) -> Completion:
        shared.plan += 1
        finish_at, request = shared.finish_at[0]
        left_s = max(0.0, finish_at - shared.done) / self._rate(worker, len(shared.finish_at))
        return now_us + max(1, round(left_s * SECOND_US)), shared.plan, request
