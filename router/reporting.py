"""What the router says: demand to the scaler, promises to its peers.

Demand is said each second while there is news, at once when the first request must wait, and written down (KV
corral_demand) for as long as somebody waits, so that neither a lost message nor a crash loses the wish to wake an endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

import msgspec
import structlog

from runtime.bus import Bus
from runtime.errors import BusError
from schemas import events, subjects
from schemas.ids import EndpointId, WorkerId, endpoint_from_token
from schemas.records import DemandMark
from schemas.signals import DemandReport, Promised, Reservations

from .desk import Desk
from .reservations import PROMISE_TTL_S
from .switchboard import Switchboard

log = structlog.get_logger()

REPORT_EVERY_S = 1.0
#: Reports go on for this long after the last change: a message may be lost.
REPEAT_FOR_S = 5.0
GOSSIP_EVERY_S = 0.1
#: Keeps a message far below the broker's limit of 1 MB.
WORKERS_PER_MESSAGE = 5000
#: A mark outlives a crash by this much, and a live router refreshes it in time.
MARK_TTL_S = 180
MARK_REFRESH_S = 60.0
RETRY_S = 1.0
#: Clients that were cut off by our crash ask again within this time.
RETURN_S = 10.0
LAST_MARKS_S = 1.0
LAST_WORDS_S = 1.0


class Reporter:
    """`now` is unix s, `monotonic` the switchboard's clock."""

    def __init__(
        self,
        bus: Bus,
        board: Switchboard,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        draw: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._bus = bus
        self._board = board
        self._now = now
        self._monotonic = monotonic
        self._boot = draw(4).hex()
        self._seq = 0
        self._said: dict[EndpointId, tuple[float, tuple[object, ...]]] = {}
        self._urgent: set[EndpointId] = set()
        self._hurry = asyncio.Event()
        self._marked: dict[EndpointId, float] = {}
        self._inherited: dict[EndpointId, float] | None = None  #: endpoint -> when its old mark may go; None: not read yet
        self._to_mark = asyncio.Event()
        self._tickets: dict[EndpointId, dict[WorkerId, list[float]]] = {}  #: [requests, units] since the last gossip
        self._has_tickets = asyncio.Event()

    # --- told by the route call ---

    def waiting(self, desk: Desk) -> None:
        """Its queue has just begun."""
        self._urgent.add(desk.id)
        self._hurry.set()
        self._to_mark.set()

    def ticket(self, endpoint_id: EndpointId, worker_id: WorkerId, units: float) -> None:
        """A promise was made."""
        if not self._tickets:
            self._has_tickets.set()
        workers = self._tickets.setdefault(endpoint_id, {})
        told = workers.get(worker_id)
        if told is None:
            workers[worker_id] = [1, units]
        else:
            told[0] += 1
            told[1] += units

    # --- to the scaler ---

    async def report(self) -> None:
        """Say demand until cancelled; then take leave, so that the silence is no riddle."""
        try:
            await self._report()
        finally:
            with contextlib.suppress(BusError, TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    for desk in [desk for desk in map(self._board.desks.get, self._said) if desk is not None]:
                        await self._say(desk, leaving=True)

    async def _report(self) -> None:
        next_round = self._monotonic() + REPORT_EVERY_S
        while True:
            try:
                async with asyncio.timeout(max(0.0, next_round - self._monotonic())):
                    await self._hurry.wait()
                desks = [desk for desk in map(self._board.desks.get, self._urgent) if desk is not None]
            except TimeoutError:
                next_round = self._monotonic() + REPORT_EVERY_S
                desks = list(self._board.desks.values())
            self._urgent.clear()
            self._hurry.clear()
            if not self._bus.connected:
                continue
            for desk in desks:
                await self._say(desk)
            for endpoint_id in self._said.keys() - self._board.desks.keys():
                del self._said[endpoint_id]

    async def _say(self, desk: Desk, *, leaving: bool = False) -> None:
        now = self._monotonic()
        report = msgspec.structs.replace(self.report_of(desk), leaving=leaving)
        news = (report.arrivals_total, report.routed_total, report.refused_total, report.waiting, report.failed_workers)
        said_at, before = self._said.get(desk.id, (float("-inf"), None))
        if news == before and not report.waiting and not leaving and now > said_at + REPEAT_FOR_S:
            return
        if news != before:
            self._said[desk.id] = (now, news)
        try:
            await self._bus.publish(subjects.load(desk.id, self._bus.name), msgspec.json.encode(report))
        except BusError as error:
            log.info("demand_not_said", endpoint=desk.id, error=str(error))

    def report_of(self, desk: Desk) -> DemandReport:
        """The state of demand right now."""
        demand, hold = desk.demand, desk.hold
        oldest = hold.oldest()
        self._seq += 1
        return DemandReport(
            router=self._bus.name,
            endpoint_id=desk.id,
            boot=self._boot,
            seq=self._seq,
            sent_at=self._now(),
            arrivals_total=demand.arrivals,
            arrived_units_total=demand.arrived_units,
            routed_total=demand.routed,
            routed_units_total=demand.routed_units,
            refused_total=demand.refused,
            waiting=len(hold),
            waiting_units=hold.units,
            oldest_wait_s=self._monotonic() - oldest.waiting_since if oldest is not None else 0.0,
            reserved_units=desk.fleet.reserved_units,
            wait_s_sum=demand.wait_s_sum,
            failed_workers={str(worker): count for worker, count in desk.fleet.complaints.totals.items()},
            last_arrival_at=demand.last_arrival_at,
            sizes=demand.sizes,
            late_total=demand.late,
        )

    # --- written down ---

    async def keep_marks(self) -> None:
        """Keep KV corral_demand true until cancelled; then take back what is true no more."""
        try:
            await self._keep_marks()
        finally:
            # Whoever waits now comes again; whoever was served must not wake a worker at the next start.
            with contextlib.suppress(BusError, TimeoutError):
                async with asyncio.timeout(LAST_MARKS_S):
                    await self._mark_all()

    async def _keep_marks(self) -> None:
        while True:
            try:
                async with asyncio.timeout(RETRY_S):
                    await self._to_mark.wait()
            except TimeoutError:
                pass  # look for queues that ended, and marks to refresh
            self._to_mark.clear()
            try:
                if self._inherited is None:
                    await self._inherit_marks()
                await self._mark_all()
            except BusError as error:
                log.warning("demand_not_marked", error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _inherit_marks(self) -> None:
        """Marks of our life before: whoever waited then gets a moment to ask again before they go."""
        entries = await self._bus.bucket(subjects.BUCKET_DEMAND).all()
        due = self._monotonic() + RETURN_S
        self._inherited = {}
        for token, _, router in (entry.key.partition(".") for entry in entries):
            if router == self._bus.name:
                try:
                    self._inherited[endpoint_from_token(token)] = due
                except ValueError:
                    log.warning("unreadable_message", where=subjects.BUCKET_DEMAND, key=token)

    async def _mark_all(self) -> None:
        bucket = self._bus.bucket(subjects.BUCKET_DEMAND)
        now = self._monotonic()
        for desk in list(self._board.desks.values()):
            oldest = desk.hold.oldest()
            marked_at = self._marked.get(desk.id)
            if oldest is not None and (marked_at is None or now >= marked_at + MARK_REFRESH_S):
                since = self._now() - (now - oldest.waiting_since)
                mark = DemandMark(endpoint_id=desk.id, router=self._bus.name, waiting_since_at=since, cost=desk.hold.units)
                await bucket.put(subjects.demand_key(desk.id, self._bus.name), msgspec.json.encode(mark), ttl_s=MARK_TTL_S)
                self._marked[desk.id] = now
                if marked_at is None and not desk.routable:
                    await self._tell_waiting(desk, since)
            elif oldest is None and marked_at is not None:
                await self._unmark(desk.id)
        for endpoint_id in self._marked.keys() - self._board.desks.keys():
            await self._unmark(endpoint_id)
        for endpoint_id, due in list((self._inherited or {}).items()):
            if now >= due and endpoint_id not in self._marked:
                await self._unmark(endpoint_id)

    async def _unmark(self, endpoint_id: EndpointId) -> None:
        await self._bus.bucket(subjects.BUCKET_DEMAND).delete(subjects.demand_key(endpoint_id, self._bus.name))
        self._marked.pop(endpoint_id, None)
        if self._inherited:
            self._inherited.pop(endpoint_id, None)

    async def _tell_waiting(self, desk: Desk, since: float) -> None:
        event = events.DemandWaiting(
            # The id that the scaler gives it too, when it finds the mark: told by both, stored once.
            id=f"evt:{subjects.demand_key(desk.id, self._bus.name)}:waiting:{since:.3f}",
            at=self._now(),
            endpoint_id=desk.id,
            router=self._bus.name,
            waiting=len(desk.hold),
            units=desk.hold.units,
        )
        await self._bus.append(subjects.event(events.kind_of(event), desk.id), msgspec.json.encode(event), msg_id=event.id)

    # --- to the peers ---

    async def gossip(self) -> None:
        """Tell the other routers what this one promised, a few times a second. Lost messages are mended by the next
        heartbeat of the worker.
        """
        while True:
            await self._has_tickets.wait()
            await asyncio.sleep(GOSSIP_EVERY_S)
            self._has_tickets.clear()
            tickets, self._tickets = self._tickets, {}
            for endpoint_id, workers in tickets.items():
                await self._tell_peers(endpoint_id, workers)

    async def _tell_peers(self, endpoint_id: EndpointId, workers: dict[WorkerId, list[float]]) -> None:
        everything = [(worker, Promised(int(requests), units)) for worker, (requests, units) in workers.items()]
        subject = subjects.reservation(endpoint_id, self._bus.name)
        try:
            for n in range(0, len(everything), WORKERS_PER_MESSAGE):
                part = dict(everything[n : n + WORKERS_PER_MESSAGE])
                told = Reservations(router=self._bus.name, workers=part, ttl_s=PROMISE_TTL_S)
                await self._bus.publish(subject, msgspec.json.encode(told))
        except BusError as error:
            log.info("promises_not_told", endpoint=endpoint_id, error=str(error))
