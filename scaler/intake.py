"""Everything that comes in becomes an observation of one endpoint, at once and in order. Callbacks only: nothing here waits."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec
import structlog

from runtime import js_names
from runtime.bus import Message
from schemas import codec, events, ids, subjects
from schemas.ids import EndpointId, WorkerId
from schemas.reasons import Cause
from schemas.records import DemandMark, Failure, WorkerRecord
from schemas.states import WorkerState

from . import records
from .desk import Desk
from .ledger import Ledger
from .liveness import Vigil
from .metrics import Metrics
from .observations import (
    BreakerReset,
    CommandFailed,
    DemandMarked,
    DemandSeen,
    EndpointSeen,
    HeartbeatSeen,
    InstanceSeen,
    LivenessJudged,
    Observation,
    TelemetryJudged,
    WorkerSeen,
)
from .outbox import Outbox
from .types import EndpointState, Policy, Telemetry

log = structlog.get_logger()

#: A provider that has it expects it to speak.
_SPEAKING = frozenset({"creating", "starting", "running"})
#: A worker that enters or leaves these is a reason to decide now.
_WAKES = frozenset({WorkerState.READY, WorkerState.ERROR, WorkerState.STOPPED, WorkerState.GONE})

Wake = Callable[[Desk], None]

#: Who closes a breaker whose cause is gone, as events name it.
SCALER = "scaler"
_ENDPOINTS, _INSTANCES, _MARKS = map(
    js_names.kv_stream, (subjects.BUCKET_ENDPOINTS, subjects.BUCKET_INSTANCES, subjects.BUCKET_DEMAND)
)


class Intake:
    """Routes what is heard to the desks of one reign."""

    def __init__(
        self,
        *,
        desks: dict[EndpointId, Desk],
        vigil: Vigil,
        ledger: Ledger,
        outbox: Outbox,
        wake: Wake,
        policy: Policy,
        covers: Callable[[EndpointId], bool],
        now: Callable[[], float],
        monotonic: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._desks = desks
        self._vigil = vigil
        self._ledger = ledger
        self._outbox = outbox
        self._wake = wake
        self._policy = policy
        self._covers = covers
        self._now = now
        self._monotonic = monotonic
        self._metrics = metrics
        self._numbered = False  # the endpoints' bucket had its sequence, which nobody ever deletes

    # --- signals ---

    def heartbeat(self, message: Message) -> None:
        try:
            beat = codec.heartbeat(message.data)
        except msgspec.DecodeError:
            self._metrics.unreadable.labels("heartbeat").inc()
            return
        desk = self._desks.get(beat.endpoint_id)
        if desk is None or message.subject != subjects.heartbeat(beat.endpoint_id, beat.worker_id):
            return  # another shard's, or somebody who speaks for others
        self._vigil.heard(beat.worker_id, self._monotonic())
        before = desk.state.workers.get(beat.worker_id)
        if before is None:
            self._metrics.unknown.inc()
            return
        self._metrics.heartbeats.inc()
        desk.beats[beat.worker_id] = beat
        desk.fold(HeartbeatSeen(at=self._now(), heartbeat=beat))
        after = desk.state.workers.get(beat.worker_id)
        if records.is_slow_change(before, after):
            self._changed(desk, beat.worker_id, before.state, after.state if after is not None else None)

    def load(self, message: Message) -> None:
        try:
            report = codec.demand_report(message.data)
        except msgspec.DecodeError:
            self._metrics.unreadable.labels("demand").inc()
            return
        self._vigil.carried(self._monotonic())
        desk = self._desks.get(report.endpoint_id)
        if desk is None:
            return
        known = desk.state.routers.get(report.router)
        desk.fold(DemandSeen(at=self._now(), report=report))
        if report.waiting and not (known is not None and known.waiting):
            self._wake(desk)

    # --- views: (key, value or None, revision) ---

    def endpoints_vanished(self, present: Collection[str]) -> bool:
        """Whether the bucket of endpoints was lost and made anew, rather than its endpoints deleted. Deleting everybody's workers for
        that would be the worst answer; until the records are back nothing is decided.
        """
        if subjects.SEQUENCE_KEY in present:
            self._numbered = True
        return self._desks != {} and subjects.SEQUENCE_KEY not in present and (self._numbered or not present)

    def endpoint(self, key: str, data: bytes | None, revision: int) -> None:
        if key == subjects.SEQUENCE_KEY and data is not None:
            self._numbered = True
        endpoint_id = _endpoint_of(key)
        if endpoint_id is None or not self._covers(endpoint_id):
            return
        if data is None:
            if endpoint_id in self._desks:
                self._desks[endpoint_id].reads(_ENDPOINTS, revision)
                self._desks[endpoint_id].endpoint = None
                self._wake(self._desks[endpoint_id])
            return
        try:
            record = codec.endpoint_record(data)
        except msgspec.DecodeError as error:
            self._metrics.unreadable.labels("endpoint").inc()
            log.warning("endpoint_unreadable", key=key, error=str(error))
            return
        desk = self.desk(endpoint_id)
        desk.reads(_ENDPOINTS, revision)
        desk.endpoint = record
        self._fold_all(desk, EndpointSeen(at=self._now(), endpoint=record))

    def instance(self, key: str, data: bytes | None, revision: int) -> None:
        found = _worker_of(key)
        if found is None or not self._covers(found[0]):
            return
        endpoint_id, worker_id = found
        record = None
        if data is not None:
            try:
                record = codec.instance_record(data)
            except msgspec.DecodeError as error:
                self._metrics.unreadable.labels("instance").inc()
                log.warning("instance_unreadable", key=key, error=str(error))
                return
        if record is None and endpoint_id not in self._desks:
            return
        desk = self.desk(endpoint_id)
        desk.reads(_INSTANCES, revision)
        if record is None:
            desk.instances.pop(worker_id, None)
        else:
            desk.instances[worker_id] = record
        self._fold_all(desk, InstanceSeen(at=self._now(), worker_id=worker_id, instance=record))
        if worker_id in desk.state.workers and record is not None and record.state in _SPEAKING:
            self._vigil.expect(worker_id, endpoint_id, self._monotonic())
        else:
            self._vigil.forget(worker_id)

    def mark(self, key: str, data: bytes | None, revision: int) -> None:
        token, _, router = key.partition(".")
        endpoint_id = _endpoint_of(token)
        desk = self._desks.get(endpoint_id) if endpoint_id is not None else None
        if desk is None:
            return
        mark = None
        if data is not None:
            try:
                mark = codec.decode(data, DemandMark)
            except msgspec.DecodeError:
                self._metrics.unreadable.labels("mark").inc()
                return
        known = desk.state.routers.get(router)
        desk.reads(_MARKS, revision)
        self._fold_all(desk, DemandMarked(at=self._now(), router=router, mark=mark))
        if mark is not None and not (known is not None and known.marked_at == mark.waiting_since_at):
            event_id = f"evt:{key}:waiting:{mark.waiting_since_at:.3f}"
            self._outbox.tell(
                events.DemandWaiting(id=event_id, at=self._now(), endpoint_id=desk.id, router=router, waiting=1, units=mark.cost)
            )

    def worker(self, key: str, data: bytes | None, revision: int) -> None:
        """Our own bucket, as it stands."""
        found = _worker_of(key)
        if found is not None and self._covers(found[0]) and (data is not None or found[0] in self._desks):
            self._ledger.stands(self.desk(found[0]), found[1], data, revision)

    def remembered(self, record: WorkerRecord) -> None:
        """What the leader before us wrote about a worker: believed until it speaks, expected to speak."""
        desk = self._desks.get(record.endpoint_id)
        if desk is None:
            return
        desk.fold(WorkerSeen(at=self._now(), worker=record))
        worker = desk.state.workers.get(record.worker_id)
        if worker is not None and worker.beat_state is not None and worker.instance_state == "running":
            self._vigil.forget(record.worker_id)
            self._vigil.expect(record.worker_id, desk.id, self._monotonic(), spoke=True)

    # --- the stream of events ---

    def told(self, _subject: str, data: bytes, seq: int) -> None:
        """Commands that were refused or died, breakers that a person closed."""
        try:
            event = codec.event(data)
        except msgspec.DecodeError:
            self._metrics.unreadable.labels("event").inc()
            return
        if isinstance(event, codec.Unknown) or event.endpoint_id not in self._desks:
            return
        desk, at = self._desks[event.endpoint_id], self._now()
        desk.reads(subjects.STREAM_EVENTS, seq)
        match event:
            case events.CommandRefused():
                failure = Failure(cause=Cause.RENT_FAILED, message=f"refused: {event.reason}", at=event.at)
                self._fold_all(
                    desk, CommandFailed(at=at, command_id=ids.CommandId(event.command_id), failure=failure), wakes=False
                )
            case events.CommandDead():
                command = ids.CommandId(event.command_id)
                self._fold_all(desk, CommandFailed(at=at, command_id=command, failure=event.failure), wakes=False)
            case events.GroupResumed() if event.by != SCALER:
                self._fold_all(desk, BreakerReset(at=at, group_id=event.group_id, by=event.by, said_at=event.at))
                known = desk.state.groups.get(event.group_id)
                if known is None or known.breaker is None:
                    desk.halted.pop(event.group_id, None)  # it was told already, by who did it
            case _:
                pass

    # --- silence ---

    def judge(self, *, connected: bool, bus_alive: bool) -> Telemetry:
        """Whose silence means what. To be called a few times per second."""
        now = self._monotonic()
        if bus_alive:
            self._vigil.carried(now)
        before = self._vigil.telemetry
        judgements = self._vigil.judge(now, connected=connected)
        telemetry = self._vigil.telemetry
        if telemetry is not before:
            log.warning("telemetry_changed", telemetry=telemetry, before=before, workers=self._vigil.speakers)
            for desk in self._desks.values():
                self._fold_all(desk, TelemetryJudged(at=self._now(), telemetry=telemetry))
        for found in judgements:
            desk_of = self._desks.get(found.endpoint_id)
            if desk_of is not None:
                log.warning("worker_silent", worker=found.worker_id, liveness=found.liveness, silent_s=round(found.silent_s, 1))
                self._fold_all(
                    desk_of,
                    LivenessJudged(at=self._now(), worker_id=found.worker_id, liveness=found.liveness, silent_s=found.silent_s),
                )
        return telemetry

    # --- desks ---

    def desk(self, endpoint_id: EndpointId) -> Desk:
        """The endpoint's desk; one is set up when it is new."""
        desk = self._desks.get(endpoint_id)
        if desk is None:
            desk = self._desks[endpoint_id] = Desk(endpoint_id, self._policy, self._now())
            desk.fold(TelemetryJudged(at=self._now(), telemetry=self._vigil.telemetry))
        return desk

    def compare(self, desk: Desk, before: EndpointState) -> None:
        """Note every worker that is another now than it was."""
        for worker_id in desk.moved(before):
            was, now = before.workers.get(worker_id), desk.state.workers.get(worker_id)
            if records.is_slow_change(was, now):
                self._changed(desk, worker_id, was.state if was is not None else None, now.state if now is not None else None)
            if now is None:
                self._vigil.forget(worker_id)

    def _fold_all(self, desk: Desk, observation: Observation, *, wakes: bool = True) -> None:
        before, _ = desk.fold(observation)
        self.compare(desk, before)
        if wakes:
            self._wake(desk)

    def _changed(self, desk: Desk, worker_id: WorkerId, was: WorkerState | None, now: WorkerState | None) -> None:
        self._ledger.note(desk, worker_id)
        if was is not now and (was in _WAKES or now in _WAKES or now is None):
            self._wake(desk)


def _endpoint_of(token: str) -> EndpointId | None:
    try:
        return ids.endpoint_from_token(token)
    except ValueError:
        return None  # the bucket's sequence and the like


def _worker_of(key: str) -> tuple[EndpointId, WorkerId] | None:
    token, _, worker = key.partition(".")
    try:
        return ids.endpoint_from_token(token), ids.worker_id(worker)
    except ValueError:
        return None
