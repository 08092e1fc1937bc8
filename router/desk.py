"""One endpoint: who gets the next request. Tiers in order, weights within a tier, the least expected wait within a group;
and the queue of those that must wait.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import groupby

import msgspec

from schemas.ids import EndpointId, WorkerId
from schemas.records import EndpointRecord
from schemas.states import EndpointState

from .choose import Ask, expected_wait_s
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
#: After this long even a worker that failed this request before is tried again, when there is no other.
LAST_RESORT_S = 1.0
#: How many requests that exclude workers are passed over in one go.
MAX_PASSED_OVER = 16


class Placement(msgspec.Struct, frozen=True, gc=False):
    """A worker for a request; the promise is already booked."""

    worker: Worker
    expected_wait_s: float  #: in the worker's own queue
    waited_s: float  #: here
    again: bool  #: after a complaint


class Line(msgspec.Struct, frozen=True):
    """One group's place in its tier."""

    share: Share
    pool: Pool


class Desk:
    """Times are monotonic s."""

    def __init__(self, record: EndpointRecord, *, liveness: Liveness, router: str, max_held: int) -> None:
        self.fleet = Fleet(liveness, router)
        self.hold = HoldQueue(max_held)
        self.demand = Demand()
        self._tiers: list[list[Line]] = []
        self.change(record)

    def change(self, record: EndpointRecord) -> None:
        """People changed the endpoint."""
        self.record = record
        self.id: EndpointId = record.id
        self.name = record.name
        groups = sorted((group for group in record.groups if group.weight > 0), key=lambda group: group.tier)
        self._tiers = [
            [Line(Share(group.weight), self.fleet.pool(group.id)) for group in tier]
            for _, tier in groupby(groups, key=lambda group: group.tier)
        ]
        self._limit_s = record.settings.max_queue_time
        self._open = record.state is not EndpointState.STOPPED

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
        self.demand.placed(request.cost, waited_s, again=again)
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
                worker = line.pool.best(ask, excluded)
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
        return excluded is not None and now >= request.excluded_at + LAST_RESORT_S and not self.fleet.others_than(excluded)
