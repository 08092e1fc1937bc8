"""One period of leadership: from what the leader before left behind, until the lease is lost.

    memories of corral_scaler -> endpoints, instances, own records as they stand -> listen -> decide

Nobody is judged and nothing is decided before workers had a moment to speak (`liveness`: warming).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from runtime.bus import Bus, View
from runtime.lease import Lease
from schemas import events, subjects
from schemas.ids import EndpointId, endpoint_from_token
from schemas.states import WorkerState

from . import memory, shards
from .clock import SteadyClock
from .council import Council
from .desk import Desk
from .intake import Intake
from .ledger import Ledger
from .liveness import SUSPECT_S, Vigil
from .metrics import Metrics
from .observations import DemandMarked, InstanceSeen
from .outbox import Outbox
from .settings import ScalerSettings
from .tellers import Teller
from .types import Policy, Telemetry

log = structlog.get_logger()

_SYNC_S = 60.0
#: What was said while nobody led is heard all the same, as far back as this.
_HEAR_BACK_S = 3600.0
_LAST_WORDS_S = 1.0
_JUDGE_EVERY_S = 0.25
_GAUGE_EVERY_S = 1.0
_EVENTS = ("command_refused", "command_dead", "group_resumed")


class Reign:
    """run() until cancelled; everything it knows ends with it. Raises Conflict, BusError, TimeoutError."""

    def __init__(
        self,
        *,
        bus: Bus,
        settings: ScalerSettings,
        policy: Policy,
        lease: Lease,
        now: SteadyClock,
        monotonic: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._lease = lease
        self._now = now
        self._monotonic = monotonic
        self._metrics = metrics
        self._policy = policy
        self._desks: dict[EndpointId, Desk] = {}
        self._outbox = Outbox(bus, metrics)
        self._vigil = Vigil(monotonic())
        self._views: list[View] = []
        self._heard_at: float | None = None  #: up to here the leader before us certainly heard the stream of events
        self._ledger = Ledger(
            bucket=bus.bucket(subjects.BUCKET_WORKERS),
            desks=self._desks,
            lease=lease,
            outbox=self._outbox,
            now=now,
            metrics=metrics,
        )
        self._council = Council(
            bus=bus,
            desks=self._desks,
            intake=lambda: self._intake,
            endpoints_vanished=self._endpoints_vanished,
            lease=lease,
            shard=settings.lease,
            outbox=self._outbox,
            policy=policy,
            now=now,
            metrics=metrics,
        )
        self._intake = Intake(
            desks=self._desks,
            vigil=self._vigil,
            ledger=self._ledger,
            outbox=self._outbox,
            wake=self._council.wake,
            policy=policy,
            covers=self._covers,
            now=now,
            monotonic=monotonic,
            metrics=metrics,
        )

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            await self._remember()
            heartbeats = await self._bus.subscribe(subjects.HEARTBEATS, self._intake.heartbeat)
            stack.push_async_callback(heartbeats.stop)
            loads = await self._bus.subscribe(subjects.LOADS, self._intake.load)
            stack.push_async_callback(loads.stop)
            for bucket, hear in (
                (subjects.BUCKET_ENDPOINTS, self._intake.endpoint),
                (subjects.BUCKET_INSTANCES, self._intake.instance),
                (subjects.BUCKET_WORKERS, self._intake.worker),
                (subjects.BUCKET_DEMAND, self._intake.mark),
            ):
                view = await stack.enter_async_context(self._bus.view(bucket, hear))
                await view.wait_synced(_SYNC_S)
                self._views.append(view)
            self._take_over()
            stack.push_async_callback(self._outbox.flush, _LAST_WORDS_S)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._ledger.run(), name="records")
                tasks.create_task(self._outbox.run(), name="events")
                tasks.create_task(Teller(self._bus, self._desks, self._now, self._monotonic).run(), name="tell workers")
                tasks.create_task(self._watch(), name="liveness")
                tasks.create_task(self._council.run(), name="decide")
                tasks.create_task(
                    self._bus.tail(
                        subjects.STREAM_EVENTS,
                        [subjects.events_of_kind(kind) for kind in _EVENTS],
                        self._intake.told,
                        since_at=self._heard_at,
                    ),
                    name="events that concern us",
                )

    def _covers(self, endpoint_id: EndpointId) -> bool:
        return shards.lease_of(endpoint_id, self._settings.leases) == self._settings.lease

    def _endpoints_vanished(self) -> bool:
        return self._intake.endpoints_vanished(self._views[0].map)

    async def _remember(self) -> None:
        """What the leader before us stored."""
        for entry in await self._bus.bucket(subjects.BUCKET_SCALER).all("e"):
            try:
                endpoint_id = endpoint_from_token(entry.key)
            except ValueError:
                continue
            if not self._covers(endpoint_id):
                continue
            desk = self._intake.desk(endpoint_id)
            desk.revision = entry.revision
            try:
                state = memory.load(entry.data)
            except ValueError as error:
                # The facts are learned again; only the generation must not be, or ids would repeat.
                log.warning("memory_unreadable", endpoint=endpoint_id, error=str(error))
                desk.restart_generation(self._now())
                continue
            self._heard_at = state.at if self._heard_at is None else min(self._heard_at, state.at)
            desk.resume(state, self._now())
            self._council.retell(desk)
        if self._heard_at is not None:
            self._heard_at = max(self._heard_at, self._now() - _HEAR_BACK_S)

    def _take_over(self) -> None:
        """All views are complete: what is missing in them is gone."""
        marks = self._views[-1].map
        for desk in list(self._desks.values()):
            for worker in list(desk.state.workers.values()):
                if worker.worker_id not in desk.instances:
                    desk.fold(InstanceSeen(at=self._now(), worker_id=worker.worker_id, instance=None))
            for router, fact in list(desk.state.routers.items()):
                if fact.marked_at is not None and subjects.demand_key(desk.id, router) not in marks:
                    desk.fold(DemandMarked(at=self._now(), router=router, mark=None))
            for record in list(desk.written.values()):
                self._intake.remembered(record)
            if not desk.revision and desk.instances:
                desk.restart_generation(self._now())  # it had a memory, and lost it
            desk.begun_at = float("-inf")  # the view is complete: an endpoint that is not in it is no more
            for worker_id in sorted(desk.written.keys() | desk.state.workers.keys()):
                self._ledger.note(desk, worker_id)
        workers = sum(len(desk.state.workers) for desk in self._desks.values())
        log.info("reign_began", epoch=self._lease.epoch, endpoints=len(self._desks), workers=workers)

    async def _watch(self) -> None:
        """Judge silence, and keep the gauges."""
        frozen_at: float | None = None
        gauged_at = float("-inf")
        while True:
            by_s = self._follow_clock()
            if by_s:
                frozen_at = None if frozen_at is None else frozen_at + by_s
                gauged_at = float("-inf")
            bus_alive = self._bus.connected and all(view.age_s < SUSPECT_S for view in self._views)
            telemetry = self._intake.judge(connected=self._bus.connected, bus_alive=bus_alive)
            now = self._now()
            if telemetry is Telemetry.FROZEN and frozen_at is None:
                frozen_at = now
                event_id = f"evt:frozen:{self._lease.epoch}:{now:.3f}"
                speakers = self._vigil.speakers
                self._outbox.tell(
                    events.TelemetryFrozen(id=event_id, at=now, endpoint_id=EndpointId(0), silent_s=SUSPECT_S, workers=speakers)
                )
            elif telemetry is Telemetry.LIVE and frozen_at is not None:
                event_id = f"evt:thawed:{self._lease.epoch}:{now:.3f}"
                self._outbox.tell(
                    events.TelemetryThawed(id=event_id, at=now, endpoint_id=EndpointId(0), frozen_s=now - frozen_at)
                )
                frozen_at = None
            if now >= gauged_at + _GAUGE_EVERY_S:
                gauged_at = now
                self._gauge(telemetry)
            await asyncio.sleep(_JUDGE_EVERY_S)

    def _follow_clock(self) -> float:
        """When the wall clock was set, all that was measured by it moves along: nobody's time is up for that. By how many seconds."""
        by_s = self._now.step()
        if by_s:
            now = self._now()
            self._metrics.clock_steps.inc()
            log.warning("clock_was_set", by_s=round(by_s, 3))
            for desk in self._desks.values():
                desk.clock_stepped(by_s, now)
        return by_s

    def _gauge(self, telemetry: Telemetry) -> None:
        self._metrics.telemetry_live.set(telemetry is Telemetry.LIVE)
        self._metrics.endpoints.set(len(self._desks))
        counts = Counter(worker.state for desk in self._desks.values() for worker in desk.state.workers.values())
        for state in WorkerState:
            self._metrics.workers[state].set(counts[state])
