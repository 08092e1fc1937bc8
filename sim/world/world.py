"""One world: everything on one broker, in virtual time, from the first start to the closing of the accounts."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

import structlog
from prometheus_client import CollectorRegistry

from provisioner.bundles import Bundles
from provisioner.service import Provisioner
from provisioner.wiring import provisioner
from pyworker.verify import read_jwks
from router.service import Router
from router.settings import RouterSettings
from scaler.metrics import Metrics
from scaler.service import Scaler
from schemas import codec, subjects
from schemas.records import EndpointRecord, WorkerRecord
from schemas.states import WorkerState
from sim.broker import Broker
from sim.bus import MemoryBus
from sim.virtual_time import run_virtual, virtual_loop

from .cast import Participant
from .chronicle import Chronicle
from .clients import ADMIN_KEY, Clients
from .inspector import Inspector
from .market import Market
from .operator import Operator
from .plan import MARKET, STARTED_AT, Plan
from .tempo import Tempo

_GLANCE_S = 0.5


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a world."""

    hours: float  #: simulated
    cpu_s: float  #: of this process
    digest: str
    entries: int  #: in the chronicle
    requests: int
    ended: Counter[str]
    decisions: int
    commands: int
    machines: int  #: ever made


class World:
    """Made inside a virtual loop; see play()."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self.plan = plan
        self.journal = journal
        self.broker = Broker(plan.weather, started_at=STARTED_AT)
        loop = virtual_loop()
        self.chronicle = Chronicle(self.broker, loop.time)
        self.tempo = Tempo(plan.grain_s, plan.quiet_grain_s)
        self.market = Market(plan, self.broker, self.chronicle, self.tempo, lambda: self._keys)
        self.inspector = Inspector(plan, self.broker, self.market)
        self.operator = Operator(self.broker)
        self.routers = [self._participant(f"router-{n}", self._router) for n in range(1, plan.routers + 1)]
        self.scalers = [self._participant(f"scaler-{n}", self._scaler) for n in range(1, plan.scalers + 1)]
        self.provisioners = [self._participant(f"provisioner-{n}", self._provisioner) for n in range(1, plan.provisioners + 1)]
        self.clients = Clients(plan, self.routers, self.market, self.tempo, self.chronicle, self.spawn)
        self._keys: Mapping[str, bytes] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._spec_hash = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()

    # --- time ------------------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Seconds since the world began."""
        return virtual_loop().time()

    async def until(self, at_s: float) -> None:
        """Let it run."""
        await asyncio.sleep(at_s - self.now_s)

    async def eventually(self, reached: Callable[[], object], within_s: float, what: str = "") -> float:
        """Until it is so; returns how long that took. Raises AssertionError after `within_s`."""
        begin_s = self.now_s
        while not reached():
            assert self.now_s - begin_s < within_s, f"not within {within_s:g} s: {what or reached}"
            await asyncio.sleep(_GLANCE_S)
        return self.now_s - begin_s

    def spawn(self, what: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Something that goes on beside the story. What it raises is a broken rule."""
        task = asyncio.get_running_loop().create_task(what, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def every(self, period_s: float, do: Callable[[], Awaitable[object]], name: str) -> asyncio.Task[Any]:
        """Do it again and again, first after one period, until the story is over."""

        async def again() -> None:
            while True:
                await asyncio.sleep(period_s)
                await do()

        return self.spawn(again(), name)

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.inspector.find(f"{task.get_name()} failed: {error!r}")

    # --- what is to be seen ------------------------------------------------------------------------------------------------

    @property
    def leader(self) -> Participant[Scaler] | None:
        return next((scaler for scaler in self.scalers if scaler.service is not None and scaler.service.leads), None)

    def records(self, endpoint: EndpointRecord) -> list[WorkerRecord]:
        """What the scaler wrote down for the routers."""
        prefix = subjects.endpoint_key(endpoint.id) + "."
        values = self.broker.table(subjects.BUCKET_WORKERS).values
        return [codec.worker_record(value.data) for key, value in values.items() if key.startswith(prefix)]

    def count(self, endpoint: EndpointRecord, *states: WorkerState) -> int:
        """Workers in these states, by their records (default: ready)."""
        wanted = states or (WorkerState.READY,)
        return sum(1 for record in self.records(endpoint) if record.state in wanted)

    async def counts(self, endpoint: EndpointRecord, *, for_s: float, every_s: float = 5.0) -> list[int]:
        """Let it run for so long; how many were ready, time and again."""
        found, end_s = [], self.now_s + for_s
        while self.now_s < end_s:
            await self.until(self.now_s + every_s)
            found.append(self.count(endpoint))
        return found

    def whys(self, endpoint: EndpointRecord) -> Counter[str]:
        """Reasons of all its decisions so far."""
        told = self.inspector.told.get(endpoint.id)
        return told.whys if told is not None else Counter()

    # --- life --------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        for participant in (*self.routers, *self.scalers, *self.provisioners):
            participant.start()
        self.spawn(self.inspector.watch(), "inspector")

    async def settle(self) -> None:
        """The sky clears and nobody is killed any more; what is under way comes to its end."""
        weather = self.plan.weather
        weather.lost = weather.duplicated = weather.lost_replies = 0.0
        self.market.down = self.market.silent = False
        if not self.broker.up:
            self.broker.come_up()
        for participant in (*self.routers, *self.scalers, *self.provisioners):
            if not participant.up:
                participant.start()
        end_s = self.now_s + self.plan.settle_s
        while self.now_s < end_s and (self.clients.open or self.inspector.unsettled or self.inspector.queued):  # noqa: ASYNC110 -- virtual seconds cost nothing
            await asyncio.sleep(1.0)
        self.inspector.look()
        self.inspector.close()
        if self.clients.open:
            self.inspector.find(f"{self.clients.open} requests were neither answered nor told why not")

    async def close(self) -> None:
        for task in list(self._tasks):
            task.remove_done_callback(self._spawned_ended)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for participant in (*self.provisioners, *self.scalers, *self.routers):
            await participant.stop()
        for rented in list(self.market.machines.values()):
            if rented.worker is not None:
                await rented.worker.kill("the world ends")

    # --- the parts list ----------------------------------------------------------------------------------------------------

    def _participant(self, name: str, make: Callable[[MemoryBus, int], Any]) -> Participant[Any]:
        return Participant(self.broker, name, make, self.inspector.find)

    def _router(self, bus: MemoryBus, life: int) -> Router:
        chance = random.Random(f"{self.plan.seed} {bus.name} {life}")
        settings = RouterSettings(
            keys_dir=str(self.plan.keys_dir), ticket_ttl_s=self.plan.ticket_ttl_s, admin_key_sha256=self._spec_hash
        )
        router = Router(bus=bus, settings=settings, now=self.broker.now, monotonic=virtual_loop().time, draw=chance.randbytes)
        self._keys = read_jwks(router.tickets.jwks)
        return router

    def _scaler(self, bus: MemoryBus, life: int) -> Scaler:
        return Scaler(
            bus=bus,
            settings=self.plan.scaler,
            owner=f"{bus.name}-{life}",
            installation=f"simulated-{self.plan.seed}",
            now=self.broker.now,
            monotonic=virtual_loop().time,
            metrics=Metrics(CollectorRegistry()),
            lease_times=self.plan.lease,
        )

    def _provisioner(self, bus: MemoryBus, life: int) -> Provisioner:
        return provisioner(
            bus=bus,
            streams=None,
            providers={MARKET: self.market},
            bundles=Bundles(minter=None, nats_urls=(), control_url="", ttl_s=3600, now=self.broker.now),
            now=self.broker.now,
            rng=random.Random(f"{self.plan.seed} {bus.name} {life}"),
            rhythm=self.plan.rhythm,
        )


class Journal:
    """What the services logged: counted by its name. A logged exception is a defect, told by its text."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.exceptions: list[str] = []

    def __call__(self, _logger: object, method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self.counts[str(entry.get("event"))] += 1
        if entry.get("exc_info"):
            told = structlog.processors.format_exc_info(_logger, method, dict(entry))
            self.exceptions.append(f"{entry.get('event')}: {told.get('exception', '')}")
        raise structlog.DropEvent

    def unheard(self, _loop: object, context: dict[str, Any]) -> None:
        """What a callback raised, or a task that nobody waits for."""
        self.exceptions.append(
            f"{context.get('message')}: {context.get('exception')!r} in {context.get('handle') or context.get('task')}"
        )


Story = Callable[[World], Awaitable[None]]


def play(story: Story, plan: Plan) -> Report:
    """Tell a story to its end. Raises what it raises, and Broken when a rule was broken."""
    journal = Journal()
    config = structlog.get_config()
    structlog.configure(
        processors=[cast(Any, journal)],
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        cache_logger_on_first_use=False,
    )
    began_s = time.process_time()
    try:
        return run_virtual(_told(story, plan, journal, began_s))
    finally:
        structlog.configure(**config)


async def _told(story: Story, plan: Plan, journal: Journal, began_s: float) -> Report:
    virtual_loop().set_exception_handler(journal.unheard)
    world = World(plan, journal)
    world.open()
    try:
        await story(world)
        await world.settle()
    finally:
        await world.close()
        for text in journal.exceptions:
            world.inspector.find(text)
    world.inspector.check()
    ended: Counter[str] = Counter()
    for crowd in world.clients.crowds:
        ended.update(crowd.ended)
    return Report(
        hours=world.now_s / 3600,
        cpu_s=time.process_time() - began_s,
        digest=world.chronicle.digest,
        entries=world.chronicle.entries,
        requests=sum(crowd.asked for crowd in world.clients.crowds),
        ended=ended,
        decisions=sum(told.decisions for told in world.inspector.told.values()),
        commands=world.broker.stream(subjects.STREAM_COMMANDS).last_seq,
        machines=world.market.creates,
    )


__all__ = ["Report", "World", "play"]
