"""All endpoints of one router, without a socket or a broker in sight: facts go in, placements come out.

The shell (service.py) feeds it records, heartbeats and gossip, and asks it to place requests. Everything is plain calls on
one event loop; nothing here waits. `now` is monotonic s, `wall` unix s.
"""

from __future__ import annotations

from collections.abc import Callable

from schemas.events import GroupHalted, GroupResumed
from schemas.http import RouteRequest
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.records import EndpointRecord, WorkerRecord
from schemas.signals import Reservations

from . import complaints, halts
from .desk import Desk, Placement
from .halts import Halt
from .liveness import Liveness
from .requests import DEFAULT_REMEMBER_S, MAX_REMEMBER_S, MIN_REMEMBER_S, Memory, Phase, Request
from .view import Pulse


class Switchboard:
    """`new_idx` draws a positive number that no client can guess, at most 2**53 so that every JSON reader keeps it whole."""

    def __init__(self, *, router: str, max_held: int, new_idx: Callable[[], int]) -> None:
        self.router = router
        self.liveness = Liveness()
        self.memory = Memory()
        self.desks: dict[EndpointId, Desk] = {}
        self._by_name: dict[str, Desk] = {}
        self._same_name: dict[str, dict[EndpointId, Desk]] = {}
        self._max_held = max_held
        self._new_idx = new_idx
        self._seq = 0
        self.halts: dict[GroupId, Halt] = {}
        self._early: dict[EndpointId, dict[WorkerId, WorkerRecord]] = {}

    # --- facts ---

    def endpoint(self, record: EndpointRecord, now: float) -> Desk:
        """An endpoint was created or changed."""
        desk = self.desks.get(record.id)
        if desk is None:
            desk = Desk(record, liveness=self.liveness, router=self.router, max_held=self._max_held)
            self.desks[record.id] = desk
            for worker in self._early.pop(record.id, {}).values():
                desk.fleet.record(worker, now)
        else:
            self._unname(desk)
            desk.weights.follow(record, now)
        desk.change(record)
        self._name(desk)
        desk.pump(now)
        return desk

    def endpoint_gone(self, endpoint_id: EndpointId) -> None:
        desk = self.desks.pop(endpoint_id, None)
        if desk is None:
            return
        self._unname(desk)
        for worker_id in list(desk.fleet.workers):
            desk.fleet.gone(worker_id)
        for request in desk.hold.listening():
            if request.wake is not None:
                request.wake(None)
                request.wake = None

    def worker(self, record: WorkerRecord, now: float) -> None:
        """The scaler wrote a worker's record."""
        desk = self.desks.get(record.endpoint_id)
        if desk is None:
            # The two buckets have no order between them.
            self._early.setdefault(record.endpoint_id, {})[record.worker_id] = record
        elif desk.fleet.record(record, now):
            desk.pump(now)

    def worker_gone(self, endpoint_id: EndpointId, worker_id: WorkerId) -> None:
        desk = self.desks.get(endpoint_id)
        if desk is not None:
            desk.fleet.gone(worker_id)
        elif endpoint_id in self._early:
            self._early[endpoint_id].pop(worker_id, None)

    def pulse(self, pulse: Pulse, now: float) -> None:
        """A worker's heartbeat arrived."""
        desk = self.desks.get(pulse.endpoint_id)
        if desk is not None and desk.fleet.pulse(pulse, now) and desk.hold.present:
            desk.pump(now)

    def reservations(self, endpoint_id: EndpointId, told: Reservations, now: float) -> None:
        """Another router gave out tickets."""
        desk = self.desks.get(endpoint_id)
        if desk is not None and told.router != self.router:
            usual_cost = desk.demand.usual_cost()
            for worker_id, promised in told.workers.items():
                desk.fleet.promised_by_peer(worker_id, max(1, promised.requests), usual_cost, now)

    def halted(self, told: GroupHalted | GroupResumed) -> None:
        """The scaler's breaker for a group opened or closed."""
        halts.folded(self.halts, told)

    def sweep(self, now: float) -> None:
        """Let time pass; call it every quarter of a second or so."""
        for worker in self.liveness.changed():
            desk = self.desks.get(worker.record.endpoint_id)
            if desk is not None:
                desk.fleet.silent(worker, now)
        for desk in self.desks.values():
            desk.fleet.sweep(now, desk.demand.usual_cost())
            desk.demand.refused += len(desk.hold.drop_absent(now))
            if desk.hold.present:
                desk.pump(now)
        for request in self.memory.forget(now):
            self._drop(request)

    # --- requests ---

    def desk(self, name: str) -> Desk | None:
        return self._by_name.get(name)

    def begin(self, desk: Desk, ask: RouteRequest, now: float, wall: float) -> Request:
        """The request this call is about: a new one, one that still waits, or one that comes back with a complaint.
        `ask` has been checked (see problem_of).
        """
        request = self.memory.find(ask.request_idx, desk.id, now) if ask.request_idx else None
        if request is None:
            request = self._new(desk, ask, now, wall)
        elif request.phase is Phase.ROUTED:
            self._complaint(desk, request, now)
        request.forget_at = now + remember_s(ask)
        for worker_id in ask.exclude_workers:
            request.exclude(worker_id, now)
        return request

    def place(self, desk: Desk, request: Request, now: float) -> Placement | None:
        """A worker, or None: then it is in the hold queue and counts as demand until it is placed or stays away."""
        placement = desk.place(request, now)
        if placement is None:
            if request.phase is not Phase.WAITING:
                request.cold_start = not desk.routable
                if request.phase is not Phase.ABSENT:
                    request.waiting_since = now
            desk.hold.enter(request, now)
        return placement

    def listen(self, desk: Desk, request: Request, wake: Callable[[Placement | None], None]) -> bool:
        """Call `wake` with the placement as soon as there is one. False when too many listen already."""
        if desk.hold.full or request.wake is not None:
            return False
        request.wake = wake
        desk.hold.listen(request)
        return True

    def unlisten(self, desk: Desk, request: Request, now: float, *, left: bool) -> None:
        """The client got an answer without a worker, or (`left`) hung up."""
        request.wake = None
        if request.phase is Phase.WAITING:
            desk.hold.unlisten(request, now)
            if left:
                desk.hold.remove(request)
                desk.demand.refused += 1
                request.phase = Phase.ABSENT

    def _name(self, desk: Desk) -> None:
        """For a moment two may have one name, when both were created at once; the older one counts."""
        named = self._same_name.setdefault(desk.name, {})
        named[desk.id] = desk
        self._by_name[desk.name] = named[min(named)]

    def _unname(self, desk: Desk) -> None:
        named = self._same_name[desk.name]
        del named[desk.id]
        if named:
            self._by_name[desk.name] = named[min(named)]
        else:
            del self._same_name[desk.name], self._by_name[desk.name]

    def _new(self, desk: Desk, ask: RouteRequest, now: float, wall: float) -> Request:
        self._seq += 1
        # A number we do not know comes from before a restart or from another router: keep it, the client will say it again.
        idx = ask.request_idx or self._new_idx()
        request = Request(idx, self._seq, desk.id, ask.cost, now)
        evicted = self.memory.add(request)
        if evicted is not None:
            self._drop(evicted)
        desk.demand.arrived(ask.cost, wall)
        return request

    def _complaint(self, desk: Desk, request: Request, now: float) -> None:
        assert request.worker_id is not None
        request.complaints += 1
        request.waiting_since = now
        request.exclude(request.worker_id, now)
        request.excluded_at = now  # it may have been excluded, and tried again as the last resort
        request.not_before = now + complaints.hold_s(request.complaints)
        desk.fleet.complaint(request.worker_id, request.idx, now, routable=desk.routable)

    def _drop(self, request: Request) -> None:
        """It is forgotten; if it waited, nobody will answer it."""
        desk = self.desks.get(request.endpoint_id)
        if desk is not None and request.phase is Phase.WAITING:
            desk.hold.remove(request)
            desk.demand.refused += 1


def remember_s(ask: RouteRequest) -> float:
    """How long the request is remembered after this call."""
    wanted = DEFAULT_REMEMBER_S if ask.replay_timeout is None else ask.replay_timeout
    return max(min(max(wanted, MIN_REMEMBER_S), MAX_REMEMBER_S), ask.wait_s or 0.0)
