"""The events of the router benchmark: arrivals, completions, reports on their way.

Times are integer microseconds; at equal times completions come first, then reports, ticks and arrivals. A request's wait is
from its arrival to the start of its service, wherever it was spent.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim import chance
from sim.workload import SECOND_US, Workload

from .pool import Pool, estimates

#: From the worker to the router, and from router to router.
LATENCY_US = 50_000
TICK_US = 250_000

_COMPLETION, _REPORT, _GOSSIP, _CALL, _TICK, _SAY, _ARRIVAL = range(7)


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker said about itself."""

    worker: int
    sent_us: int
    here: int  #: requests in service and queued
    units: float  #: their estimated cost, as far as it is not served
    arrived: int  #: requests ever


class Router(Protocol):
    """One router. It sends with the `send` it was made with, at once or later. All times are microseconds."""

    def arrive(self, request: int, units: float, now_us: int) -> None:
        """A request comes; `units` is what its client says."""
        ...

    def report(self, report: Report, now_us: int) -> None: ...

    def completed(self, request: int, worker: int, now_us: int) -> None:
        """Only for reference policies that are allowed to see it: no router does."""
        ...

    def tick(self, now_us: int) -> None:
        """Time passes."""
        ...

    def told(self, message: object, now_us: int) -> None:
        """By another router."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """What a router knows from the start, and what it may call."""

    number: int
    pool: Pool
    seed: int
    mean_units: float  #: of a request, by the clients' words
    send: Callable[[int, int], None]  #: (request, worker): it goes there now
    tell_peers: Callable[[object], None]  #: reaches the other routers after the latency
    after: Callable[[int, Callable[[int], None]], None]  #: (microseconds, what to call then with the time)


Make = Callable[[Given], Router]


@dataclass(frozen=True, slots=True)
class Outcome:
    within: float  #: share of requests that waited at most the limit
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    digest: str


class _Worker:
    __slots__ = ("arrived", "queue", "serving", "units")

    def __init__(self) -> None:
        self.queue: deque[int] = deque()
        self.serving = 0
        self.units = 0.0
        self.arrived = 0


class Arena:
    """One run of one policy; `routers` of its kind share the requests in turns."""

    def __init__(
        self, workload: Workload, pool: Pool, make: Make, *, routers: int, report_s: float, sigma: float, seed: int
    ) -> None:
        self._workload = workload
        self._pool = pool
        self._report_us = round(report_s * SECOND_US)
        self._units = workload.units
        self._said = estimates(workload, seed=seed, sigma=sigma)
        self._workers = [_Worker() for _ in pool.perf]
        self._heap: list[tuple[int, int, int, int, object]] = []
        self._seq = 0
        self._now_us = 0
        self._seed = seed
        self._worker_of = [-1] * len(self._units)
        self._wait_us = np.full(len(self._units), -1, dtype=np.int64)
        mean_units = float(self._said.mean())
        self._routers = [
            make(Given(n, pool, seed, mean_units, self._send, functools.partial(self._tell, n), self._call_after))
            for n in range(routers)
        ]

    def run(self, limit_s: float = 5.0) -> Outcome:
        for worker in range(len(self._workers)):
            phase = chance.unit(self._seed, worker, 0, chance.Draw.REPORT_PHASE)
            self._plan(round(phase * self._report_us), _SAY, worker)
        self._plan(TICK_US, _TICK, 0)
        arrivals = self._workload.arrival_us.tolist()
        said = self._said.tolist()
        coming, left = 0, len(arrivals)
        heap = self._heap
        while left:
            if coming < len(arrivals) and (arrivals[coming], _ARRIVAL) < heap[0][:2]:
                self._now_us = arrivals[coming]
                self._routers[coming % len(self._routers)].arrive(coming, said[coming], self._now_us)
                coming += 1
                continue
            self._now_us, rank, _, subject, detail = heappop(heap)
            if rank == _COMPLETION:
                self._complete(subject)
                left -= 1
            elif rank == _REPORT:
                assert isinstance(detail, Report)
                for router in self._routers:
                    router.report(detail, self._now_us)
            elif rank == _SAY:
                self._say(subject)
            elif rank == _CALL:
                assert callable(detail)
                detail(self._now_us)
            elif rank == _TICK:
                for router in self._routers:
                    router.tick(self._now_us)
                self._plan(self._now_us + TICK_US, _TICK, 0)
            else:
                for number, router in enumerate(self._routers):
                    if number != subject:
                        router.told(detail, self._now_us)
        return _outcome(self._wait_us, self._worker_of, limit_s)

    def _plan(self, at_us: int, rank: int, subject: int, detail: object = None) -> None:
        self._seq += 1
        heappush(self._heap, (at_us, rank, self._seq, subject, detail))

    def _send(self, request: int, worker: int) -> None:
        there = self._workers[worker]
        self._worker_of[request] = worker
        there.arrived += 1
        there.units += float(self._said[request])
        there.queue.append(request)
        self._serve(worker)

    def _serve(self, worker: int) -> None:
        there = self._workers[worker]
        while there.serving < self._pool.slots and there.queue:
            request = there.queue.popleft()
            there.serving += 1
            self._wait_us[request] = self._now_us - int(self._workload.arrival_us[request])
            takes_s = float(self._units[request]) * self._pool.slots / self._pool.true_perf[worker]
            self._plan(self._now_us + max(1, round(takes_s * SECOND_US)), _COMPLETION, request)

    def _complete(self, request: int) -> None:
        worker = self._worker_of[request]
        there = self._workers[worker]
        there.serving -= 1
        there.units = max(0.0, there.units - float(self._said[request]))
        self._serve(worker)
        for router in self._routers:
            router.completed(request, worker, self._now_us)

    def _say(self, worker: int) -> None:
        there = self._workers[worker]
        report = Report(worker, self._now_us, there.serving + len(there.queue), there.units, there.arrived)
        self._plan(self._now_us + LATENCY_US, _REPORT, worker, report)
        self._plan(self._now_us + self._report_us, _SAY, worker)

    def _call_after(self, delay_us: int, call: Callable[[int], None]) -> None:
        self._plan(self._now_us + delay_us, _CALL, 0, call)

    def _tell(self, router: int, message: object) -> None:
        if len(self._routers) > 1:
            self._plan(self._now_us + LATENCY_US, _GOSSIP, router, message)


def _outcome(wait_us: NDArray[np.int64], worker_of: Sequence[int], limit_s: float) -> Outcome:
    wait_s = wait_us / SECOND_US
    p50, p95, p99 = (float(one) for one in np.quantile(wait_s, (0.5, 0.95, 0.99)))
    digest = hashlib.sha256(wait_us.tobytes() + np.array(worker_of, dtype=np.int32).tobytes()).hexdigest()
    return Outcome(float((wait_s <= limit_s).mean()), float(wait_s.mean()), p50, p95, p99, digest)
