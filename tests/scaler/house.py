"""The scaler on a real nats-server, with a provisioner and workers that only pretend."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable

import msgspec
from prometheus_client import CollectorRegistry

from runtime.bus import Bus, Delivery, Message
from runtime.errors import BusError
from runtime.lease import LeaseTimes
from scaler.metrics import Metrics
from scaler.service import Scaler
from scaler.settings import ScalerSettings
from schemas import codec, events, subjects
from schemas.commands import AnyCommand, CreateWorker, DestroyWorker, RebootWorker, StartWorker, StopWorker
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.records import DemandMark, EndpointRecord, InstanceRecord, ScalingSettings, Template, WorkerGroup, WorkerRecord
from schemas.signals import ControlOrder, ControlReply, DemandReport, Heartbeat
from schemas.states import WorkerState

G = GroupId(7)
FAST_LEASE = LeaseTimes(ttl_s=2, renew_s=0.4, margin_s=0.5, request_s=1.0)
FAST = ScalerSettings(tick_s=0.2, ticket_ttl_s=0.4, clock_skew_s=0.1, drain_deadline_s=20.0)


async def eventually(check: Callable[[], object], within_s: float = 10.0, what: str = "") -> None:
    """Wait until it is true; fails after the deadline."""
    async with asyncio.timeout(within_s) as limit:
        try:
            while not check():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            assert not limit.expired(), f"not within {within_s} s: {what or check}"
            raise


class FakeWorker:
    def __init__(self, house: House, command: CreateWorker) -> None:
        self.house = house
        self.id, self.endpoint_id, self.revision = command.worker_id, command.endpoint_id, command.revision
        self.boots = 0
        self.seq = 0
        self.state = WorkerState.LOADING
        self.inflight = 0
        self.load = 0.0
        self.orders: list[ControlOrder] = []
        self.failure = None
        self.silent = False
        self.via = ""  #: a router that speaks for it
        self.age_s = 0.0
        self.task: asyncio.Task[None] | None = None

    def launch(self) -> None:
        self.boots += 1
        self.seq = 0
        self.state = WorkerState.LOADING
        self.task = self.house.tasks.create_task(self._live())

    def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            self.task = None

    async def _live(self) -> None:
        answering = await self.house.bus.respond(subjects.control(self.id), self._order)
        try:
            began = time.monotonic()
            while True:
                if self.state is WorkerState.LOADING and time.monotonic() - began >= self.house.boot_s:
                    self.state = WorkerState.READY
                await self.beat()
                await asyncio.sleep(0.1)
        finally:
            await answering.stop()

    async def beat(self) -> None:
        if self.silent or self.house.silent:
            return
        self.seq += 1
        beat = Heartbeat(
            worker_id=self.id,
            endpoint_id=self.endpoint_id,
            group_id=G,
            boot=f"b{self.boots}",
            seq=self.seq,
            sent_at=time.time(),
            state=self.state,
            revision=self.revision,
            url=f"http://127.0.0.1/{self.id}",
            perf=100.0 if self.state is WorkerState.READY else 0.0,
            slots=4,
            inflight=self.inflight,
            load=self.load,
            failure=self.failure,
            via=self.via,
            age_s=self.age_s,
        )
        with contextlib.suppress(BusError):
            await self.house.bus.publish(subjects.heartbeat(self.endpoint_id, self.id), codec.encode(beat))

    async def _order(self, message: Message) -> bytes:
        order = codec.decode(message.data, ControlOrder)
        self.orders.append(order)
        if order.op == "drain" and self.state is WorkerState.READY:
            self.state = WorkerState.DRAINING
        if order.op == "undrain" and self.state is WorkerState.DRAINING:
            self.state = WorkerState.READY
        await self.beat()
        return codec.encode(ControlReply(ok=True, state=self.state, inflight=self.inflight))


class House:
    """One server's worth of everything but the scaler; scalers are started by hand."""

    def __init__(self, bus: Bus, tasks: asyncio.TaskGroup, endpoint_id: EndpointId) -> None:
        self.bus = bus
        self.tasks = tasks
        self.endpoint_id = endpoint_id
        self.boot_s = 0.2
        self.silent = False
        self.workers: dict[WorkerId, FakeWorker] = {}
        self.commands: list[AnyCommand] = []
        self.events: list[events.AnyEvent] = []
        self.heard_seq = 0
        self.records: dict[str, WorkerRecord] = {}
        self.record_history: list[tuple[str, WorkerRecord | None]] = []
        self.record_arrived: dict[tuple[str, WorkerState], float] = {}
        self.claimed: set[str] = set()
        self.created: Counter[WorkerId] = Counter()
        self.report_seq = 0
        self.refuses = False
        self.waiting = 0
        self.arrivals = 0

    async def open(self) -> None:
        self.tasks.create_task(self.bus.work(subjects.STREAM_COMMANDS, subjects.CONSUMER_PROVISIONER, self._obey))
        self.tasks.create_task(self._report_again())
        self.tasks.create_task(self.bus.tail(subjects.STREAM_EVENTS, [subjects.EVENTS], self._hear))

    async def endpoint(self, **settings) -> EndpointRecord:
        record = EndpointRecord(
            id=self.endpoint_id,
            name="test",
            settings=ScalingSettings(**settings),
            groups=(
                WorkerGroup(
                    id=G, template=Template(name="t", command=("x",), env={"SECRET": "canary-4711"}), expected_perf=100.0
                ),
            ),
            created_at=time.time(),
        )
        await self.put_endpoint(record)
        return record

    async def put_endpoint(self, record: EndpointRecord) -> None:
        bucket = self.bus.bucket(subjects.BUCKET_ENDPOINTS)
        await bucket.put(subjects.SEQUENCE_KEY, b"7")  # as the admin API does
        await bucket.put(subjects.endpoint_key(record.id), codec.encode(record))

    async def waits(self, requests: int) -> None:
        """From now on a router reports this many waiting requests: at once, and again while they wait."""
        self.arrivals += max(0, requests - self.waiting)
        self.waiting = requests
        await self._report()

    async def _report_again(self) -> None:
        while True:
            await asyncio.sleep(0.3)
            if self.waiting and not self.silent:
                with contextlib.suppress(BusError):
                    await self._report()

    async def _report(self, units: float = 50.0) -> None:
        self.report_seq += 1
        requests = self.waiting
        report = DemandReport(
            router="r1",
            endpoint_id=self.endpoint_id,
            boot="b",
            seq=self.report_seq,
            sent_at=time.time(),
            arrivals_total=self.arrivals,
            arrived_units_total=self.arrivals * units,
            waiting=requests,
            waiting_units=requests * units,
            oldest_wait_s=0.1 if requests else 0.0,
        )
        await self.bus.publish(subjects.load(self.endpoint_id, "r1"), codec.encode(report))

    async def marks(self) -> None:
        mark = DemandMark(endpoint_id=self.endpoint_id, router="r1", waiting_since_at=time.time(), cost=50.0)
        await self.bus.bucket(subjects.BUCKET_DEMAND).put(subjects.demand_key(self.endpoint_id, "r1"), codec.encode(mark))

    async def told(self, kind: type) -> list:
        """Of all events that were stored until now; they are heard a moment later than stored."""
        mark = events.EndpointDeleted(id=f"mark-{time.monotonic_ns()}", at=0.0, endpoint_id=EndpointId(0), name="", by="")
        stored = await self.bus.append(subjects.event("endpoint_deleted", EndpointId(0)), codec.encode(mark), msg_id=mark.id)
        await eventually(lambda: self.heard_seq >= stored.seq, what="all that was told is heard")
        return self.of(kind)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def ops(self, kind: type) -> list:
        return [command for command in self.commands if isinstance(command, kind)]

    def states(self) -> Counter[WorkerState]:
        return Counter(record.state for record in self.records.values())

    def on_record(self, key: str, data: bytes | None, _revision: int) -> None:
        record = codec.worker_record(data) if data is not None else None
        self.record_history.append((key, record))
        if record is None:
            self.records.pop(key, None)
            return
        self.records[key] = record
        self.record_arrived.setdefault((record.worker_id, record.state), time.perf_counter())

    def _hear(self, _subject: str, data: bytes, seq: int) -> None:
        event = codec.event(data)
        assert not isinstance(event, codec.Unknown)
        self.heard_seq = seq
        if not event.id.startswith("mark-"):
            self.events.append(event)

    async def _obey(self, delivery: Delivery) -> None:
        command = codec.command(delivery.data)
        assert not isinstance(command, codec.Unknown)
        await delivery.ack()
        if command.command_id in self.claimed:
            return
        self.claimed.add(command.command_id)
        self.commands.append(command)
        match command:
            case CreateWorker():
                self.created[command.worker_id] += 1
                worker = self.workers[command.worker_id] = FakeWorker(self, command)
                await self._show(command, "creating")
                await self._show(command, "running")
                worker.launch()
            case StartWorker():
                await self._show(command, "starting")
                await self._show(command, "running")
                self.workers[command.worker_id].launch()
            case RebootWorker():
                await self._show(command, "stopping")
                self.workers[command.worker_id].end()
                self.workers[command.worker_id].failure = None
                await self._show(command, "running")
                self.workers[command.worker_id].launch()
            case StopWorker():
                self.workers[command.worker_id].end()
                await self._show(command, "stopped")
            case DestroyWorker():
                if command.worker_id in self.workers:
                    self.workers[command.worker_id].end()
                await self._show(command, "gone")

    async def _show(self, command: AnyCommand, state: str) -> None:
        record = InstanceRecord(
            worker_id=command.worker_id,
            endpoint_id=command.endpoint_id,
            group_id=command.group_id,
            provider="process",
            state=state,
            state_at=time.time(),
            created_at=time.time(),
            command_id=command.command_id,
        )
        await self.put_instance(record)

    async def put_instance(self, record: InstanceRecord) -> None:
        key = subjects.worker_key(record.endpoint_id, record.worker_id)
        await self.bus.bucket(subjects.BUCKET_INSTANCES).put(key, codec.encode(record))


def scaler_on(
    bus: Bus,
    name: str = "s",
    settings: ScalerSettings = FAST,
    *,
    haste: float = 1.0,
    now: Callable[[], float] = time.time,
    **changes,
) -> Scaler:
    """With `haste` its monotonic clock runs that much faster: silence is judged sooner."""
    lease_times = FAST_LEASE if haste == 1.0 else LeaseTimes(ttl_s=10, renew_s=0.4, margin_s=0.5, request_s=1.0)
    return Scaler(
        bus=bus,
        settings=msgspec.structs.replace(settings, **changes),
        owner=f"{name}-{time.monotonic_ns()}",
        installation="test-installation",
        now=now,
        monotonic=lambda: time.monotonic() * haste,
        metrics=Metrics(CollectorRegistry()),
        lease_times=lease_times,
    )


@contextlib.asynccontextmanager
async def running(*scalers: Scaler):
    """The scalers run for as long as the context is open."""
    tasks = [asyncio.create_task(scaler.run()) for scaler in scalers]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
