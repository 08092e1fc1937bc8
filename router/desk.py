"""One endpoint: who gets the next request. Tiers in order, weights within a tier, the least expected wait within a group;
and the queue of those that must wait. A tier whose groups were given no weights is one pool: nobody asked for shares.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import groupby

import msgspec

from schemas.ids import EndpointId, WorkerId
from schemas.records import EndpointRecord, WorkerGroup
from schemas.states import EndpointState

from . import weights
from .choose import Ask, expected_wait_s, least_expected_wait
from .demand import Demand
from .fleet import Fleet
from .hold import HoldQueue
from .liveness import Liveness
from .pool import Pool
from .requests import Phase, Request
from .shares import Share, next_turn
from .view import Standing, Worker

#: A ticket binds a request to one worker; waiting here binds it to none. So a worker gets more than its slots hold only as
#: far ahead as the router's knowledge is old, about one heartbeat; longer only where heartbeats are.
BIND_AHEAD_S = 1.0
#: After this long even a worker that failed this request before is tried again, when there is no other; after twice as long each time.
LAST_RESORT_S = 1.0
LAST_RESORT_MAX_S = 16.0
#: How many requests that exclude workers are passed over in one go.
MAX_PASSED_OVER = 16


class Placement(msgspec.Struct, frozen=True, gc=False):
    """A worker for a request; the promise is already booked."""

    worker: Worker
    expected_wait_s: float  #: in the worker's own queue
    waited_s: float  #: here
    again: bool  #: after a complaint


class Line(msgspec.Struct, frozen=True):
    """One group's place in its tier; of a tier without weights, all of its groups'."""

    share: Share
    pools: tuple[Pool, ...]

    def best(self, ask: Ask, excluded: Container[WorkerId]) -> Worker | None:
        """Who leads among them; None when nobody is here that is not excluded."""
        if len(self.pools) == 1:
            return self.pools[0].best(ask, excluded)
        leading = [worker for pool in self.pools if (worker := pool.best(ask, excluded)) is not None]
        return least_expected_wait(leading, ask)


class Desk:
    """Times are monotonic s."""

    def __init__(self, record: EndpointRecord, *, liveness: Liveness, router: str, max_held: int) -> None:
        self.fleet = Fleet(liveness, router)
        self.hold = HoldQueue(max_held)
        self.demand = Demand()
        self.weights = weights.Changes(record)
        self._tiers: list[list[Line]] = []
        self.change(record)

    def change(self, record: EndpointRecord) -> None:
        """People changed the endpoint."""
        self.record = record
        self.id: EndpointId = record.id
        self.name = record.name
        self.fleet.forget_tallies({group.id for group in record.groups})
        groups = sorted((group for group in record.groups if group.weight > 0), key=lambda group: group.tier)
        self._tiers = [self._lines(list(tier)) for _, tier in groupby(groups, key=lambda group: group.tier)]
        self._limit_s = record.settings.max_queue_time
        self._target_s = record.settings.target_queue_time
        self._open = record.state is not EndpointState.STOPPED

    def _lines(self, tier: list[WorkerGroup]) -> list[Line]:
        if all(group.by_cost for group in tier):
            return [Line(Share(1.0), tuple(self.fleet.pool(group.id) for group in tier))]
        return [Line(Share(group.weight), (self.fleet.pool(group.id),)) for group in tier]

    def place(self, request: Request, now: float) -> Placement | None:
        """A worker for this request, promised to it; None when it must wait. Nobody who came earlier and listens is
        overtaken.
        """
        if now < request.not_before:
            return None
        if self.hold.present and self.hold.first_before(request) is not None:
            return None
        return self._place(request, now)

    def pump(self, now: float) -> int:
        """Something changed: give workers to those who listen, oldest first, for as long as there is room. Returns how
        many were woken.
        """
        woken = missed = 0
        for request in self.hold.listening():
            if now < request.not_before:
                continue
            placement = self._place(request, now)
            if placement is not None and request.wake is not None:
                request.wake(placement)
                request.wake = None
                woken += 1
            elif request.excluded is None or missed >= MAX_PASSED_OVER:
                break
            else:
                missed += 1  # only its own exclusions keep it back; the next may still be placed
        return woken

    def _place(self, request: Request, now: float) -> Placement | None:
        excluded: Container[WorkerId] = request.excluded or ()
        open_lines = self._open_lines(excluded, now, request.idx)
        if not open_lines and request.excluded and self._last_resort(request, now):
            open_lines = self._open_lines((), now, request.idx)
        if not open_lines:
            return None
        turn = next_turn([line.share for line, _, _ in open_lines]) if len(open_lines) > 1 else 0
        _, worker, wait_s = open_lines[turn]
        again = request.worker_id is not None
        self.fleet.promised(worker, request.cost, self.demand.usual_cost(), now)
        waited_s = 0.0
        if request.phase is Phase.WAITING:
            waited_s = now - request.waiting_since
            self.hold.remove(request)
        request.phase = Phase.ROUTED
        request.worker_id = worker.id
        self.demand.placed(request.cost, waited_s, late=waited_s + wait_s > self._target_s, again=again)
        self.fleet.tally(worker.group_id, now).placed(waited_s, now, again=again)
        return Placement(worker, wait_s, waited_s, again)

    def _open_lines(self, excluded: Container[WorkerId], now: float, salt: int) -> list[tuple[Line, Worker, float]]:
        """The groups that can take it: those of the first tier that has any. Suspects only where nobody is good at all:
        waiting for a good one is better than a ticket to a worker that is probably dead.
        """
        if not self._open:
            return []
        mean_cost = self.demand.usual_cost()
        ask = Ask(salt, mean_cost, now)
        suspects: list[tuple[Line, Worker, float]] = []
        good = False
        for tier in self._tiers:
            found: list[tuple[Line, Worker, float]] = []
            for line in tier:
                worker = line.best(ask, excluded)
                if worker is None:
                    continue
                wait_s = expected_wait_s(worker, mean_cost, now)
                # No wait at all is always good enough, also where max_queue_time is 0.
                good_here = worker.standing is Standing.GOOD
                good = good or good_here
                if wait_s == 0 or wait_s < min(self._limit_s, max(BIND_AHEAD_S, worker.interval_s)):
                    (found if good_here else suspects).append((line, worker, wait_s))
            if found:
                return found
        return [] if good else suspects[:1]

    def _last_resort(self, request: Request, now: float) -> bool:
        excluded = request.excluded
        after_s = min(LAST_RESORT_S * 2.0 ** min(max(request.complaints - 1, 0), 8), LAST_RESORT_MAX_S)
        return excluded is not None and now >= request.excluded_at + after_s and not self.others_than(excluded)

    def others_than(self, excluded: Container[WorkerId]) -> bool:
        """Is any worker routable that is not one of these?"""
        return any(worker.id not in excluded for pool in self._pools() for worker in pool)

    @property
    def routable(self) -> int:
        """Workers that requests can reach now: those of groups with weight 0 get none."""
        return sum(len(pool) for pool in self._pools())

    def _pools(self) -> Iterator[Pool]:
        return (pool for tier in self._tiers for line in tier for pool in line.pools)
