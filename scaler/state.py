"""State is a fold: apply(state, observation) -> state. Replaying the observations rebuilds the state.

Nothing here reads a clock or decides anything. Facts about one worker are merged in `lifecycle`, what starts teach in
`learning`, what passes with time in `ageing`, demand in `traffic`.
"""

from __future__ import annotations

import msgspec

from schemas.ids import EndpointId, WorkerId
from schemas.reasons import Cause
from schemas.records import UNMANAGED_PROVIDERS, EndpointRecord, Failure, WorkerRecord
from schemas.states import SELF_REPORTED, WorkerState

from . import ageing, deeds, endings, hearing, leap, learning, lifecycle, traffic, window
from .observations import (
    BreakerReset,
    ClockStepped,
    CommandFailed,
    DecisionTaken,
    DemandMarked,
    DemandSeen,
    DrainShown,
    DrainTold,
    EndpointSeen,
    HeartbeatSeen,
    InstanceSeen,
    LivenessJudged,
    Observation,
    Preempting,
    PriceSeen,
    TelemetryJudged,
    Ticked,
    WorkerSeen,
)
from .roster import changed, put, without
from .types import Demand, EndpointSpec, EndpointState, Fresh, GroupSpec, Liveness, Policy, Targets, Telemetry, WorkerFact

_replace = msgspec.structs.replace

STANDARD = Policy()

_LOAD_BUCKET_S, _LOAD_BUCKETS = 5.0, 64
_HOT_BUCKET_S, _HOT_BUCKETS = 10.0, 36
_COLD_BUCKET_S, _COLD_BUCKETS = 900.0, 26


def initial(endpoint_id: EndpointId, at: float) -> EndpointState:
    """Nothing is known yet."""
    load = window.fresh(_LOAD_BUCKET_S, _LOAD_BUCKETS, at)
    return EndpointState(
        endpoint_id=endpoint_id,
        at=at,
        demand=Demand(
            arrived_units=load,
            arrivals=load,
            served_units=load,
            busy_workers_s=load,
            present_peaks=load,
            sampled_at=at,
            fresh=Fresh(since_at=at),
        ),
        targets=Targets(
            hot_peaks=window.fresh(_HOT_BUCKET_S, _HOT_BUCKETS, at), cold_peaks=window.fresh(_COLD_BUCKET_S, _COLD_BUCKETS, at)
        ),
    )


def apply(state: EndpointState, observation: Observation, policy: Policy = STANDARD) -> EndpointState:
    """The state after one observation. Raises TypeError for an observation it does not know."""
    if isinstance(observation, ClockStepped):
        state = leap.along(state, observation.by_s)
    at = max(observation.at, state.at)
    if at != state.at:
        state = _replace(state, at=at)
    match observation:
        case HeartbeatSeen():
            return _heartbeat(state, observation, at, policy)
        case DemandSeen():
            return traffic.reported(state, observation.report, at, policy)
        case Ticked():
            return ageing.passed(state, at, policy)
        case DecisionTaken():
            return deeds.taken(state, observation, at, policy)
        case InstanceSeen():
            return _instance(state, observation, at, policy)
        case LivenessJudged():
            return _liveness(state, observation, at, policy)
        case EndpointSeen():
            return _endpoint(state, observation)
        case TelemetryJudged():
            if observation.telemetry is state.telemetry:
                return state
            state = _replace(state, telemetry=observation.telemetry, telemetry_at=at)
            return hearing.resumed(state) if observation.telemetry is Telemetry.LIVE else state
        case DemandMarked():
            return traffic.marked(state, observation.router, observation.mark, at)
        case CommandFailed():
            return _command_failed(state, observation, at, policy)
        case DrainShown():
            return _drain(state, observation.worker_id, shown_at=at)
        case DrainTold():
            return _drain(state, observation.worker_id, told=observation.draining)
        case Preempting():
            return changed(state, observation.worker_id, gone_at=observation.gone_at)
        case WorkerSeen():
            return _remembered(state, observation.worker)
        case BreakerReset():
            return _reset(state, observation)
        case PriceSeen():
            return _priced(state, observation)
        case ClockStepped():
            return state
        case _:
            raise TypeError(f"the fold does not know {type(observation).__name__}")


def spec_of(record: EndpointRecord) -> EndpointSpec:
    """What a decision needs of an endpoint's record; templates' commands and environment stay outside."""
    groups = tuple(
        GroupSpec(
            id=group.id,
            name=group.name,
            revision=group.revision,
            oldest_revision=group.oldest_revision,
            weight=group.weight,
            tier=group.tier,
            provider=group.provider,
            managed=group.provider not in UNMANAGED_PROVIDERS,
            expected_perf=group.expected_perf,
            price_cap_usd_per_hour=group.price_cap_usd_per_hour,
            usd_per_hour=group.usd_per_hour,
            start_timeout_s=group.template.start_timeout_s,
            by_cost=group.by_cost,
            max_workers=group.max_workers,
            overflow_util=group.overflow_util,
            overflow_queue_s=group.overflow_queue_s,
        )
        for group in record.groups
    )
    return EndpointSpec(
        id=record.id,
        name=record.name,
        revision=record.revision,
        settings=record.settings,
        activity=record.state,
        groups=groups,
        schedules=record.schedules,
        override=record.override,
        created_at=record.created_at,
        changed_at=record.changed_at,
    )


def _endpoint(state: EndpointState, seen: EndpointSeen) -> EndpointState:
    if seen.endpoint is None:
        return _replace(state, deleted=True)
    spec = spec_of(seen.endpoint)
    groups = {group.id: learning.memory_of(state, group.id, group.revision) for group in spec.groups}
    state = _replace(state, spec=spec, deleted=False, groups=groups)
    workers = {worker_id: _paid(state, worker) for worker_id, worker in state.workers.items()}
    return state if workers == state.workers else _replace(state, workers=workers)


def _heartbeat(state: EndpointState, seen: HeartbeatSeen, at: float, policy: Policy) -> EndpointState:
    beat = seen.heartbeat
    before = state.workers.get(beat.worker_id)
    if before is None or not lifecycle.hears(before, beat, at):
        return state  # no record of it: it is not ours to route to
    after = lifecycle.settled(lifecycle.with_heartbeat(before, beat, at), at)
    state = traffic.heard(state, before, after, at)
    return ageing.moved(state, before, after, at, policy)


def _instance(state: EndpointState, seen: InstanceSeen, at: float, policy: Policy) -> EndpointState:
    before = state.workers.get(seen.worker_id)
    if seen.instance is None:
        if before is None or (before.intent is not None and before.intent.op == "create"):
            return state  # nobody has seen it yet, and that is as it should be
        if before.liveness is Liveness.ALIVE and before.state not in (WorkerState.DESTROYING, WorkerState.GONE):
            return put(state, _replace(before, instance_state=None))  # a lost record is not a lost worker
        return without(state, seen.worker_id)
    record = seen.instance
    if record.state == "gone":
        if before is None:
            return state
        if record.failure is not None and before.intent is not None and before.intent.op != "destroy":
            state = ageing.blamed(state, before, record.failure, at, policy)
        return without(state, seen.worker_id)
    if before is None:
        # Its start was another's concern: a failure that is already there when we first see it is not counted.
        before = WorkerFact(
            blamed=record.state == "failed",
            worker_id=record.worker_id,
            group_id=record.group_id,
            created_at=record.created_at or at,
            launched_at=record.state_at,
            state_at=at,
        )
    after = lifecycle.settled(_paid(state, lifecycle.with_instance(before, record, at)), at)
    return ageing.moved(state, before, after, at, policy)


def _liveness(state: EndpointState, seen: LivenessJudged, at: float, policy: Policy) -> EndpointState:
    before = state.workers.get(seen.worker_id)
    if before is None or before.liveness is seen.liveness:
        return state
    after = _replace(before, liveness=seen.liveness)
    if seen.liveness is Liveness.LOST:
        message = f"no heartbeat for {seen.silent_s:.0f} s while others were heard"
        after = _replace(
            after, failure=Failure(cause=Cause.HEARTBEAT_LOST, message=message, phase=lifecycle.phase_of(before.state), at=at)
        )
    elif before.liveness is Liveness.LOST and before.failure is not None and before.failure.cause is Cause.HEARTBEAT_LOST:
        after = _replace(after, failure=None)
    return ageing.moved(state, before, lifecycle.settled(after, at), at, policy)


def _command_failed(state: EndpointState, seen: CommandFailed, at: float, policy: Policy) -> EndpointState:
    worker = next((w for w in state.workers.values() if w.intent is not None and w.intent.command_id == seen.command_id), None)
    if worker is None:
        return state
    if worker.intent is not None and worker.intent.op == "destroy":
        worker = endings.died(worker, at)
    return ageing.intent_failed(state, worker, seen.failure, at, policy)


def _paid(state: EndpointState, worker: WorkerFact) -> WorkerFact:
    """The worker at the price that people name for its group; where they name none, at its provider's."""
    groups = state.spec.groups if state.spec is not None else ()
    price = next((group.usd_per_hour for group in groups if group.id == worker.group_id), None)
    return worker if price is None or price == worker.usd_per_hour else _replace(worker, usd_per_hour=price)


def _drain(
    state: EndpointState, worker_id: WorkerId, *, shown_at: float | None = None, told: bool | None = None
) -> EndpointState:
    worker = state.workers.get(worker_id)
    if worker is None or worker.drain is None:
        return state
    drain = worker.drain
    if shown_at is not None and drain.shown_at is None:
        drain = _replace(drain, shown_at=shown_at)
    if told is not None:
        drain = _replace(drain, told=told)
    return put(state, _replace(worker, drain=drain))


def _remembered(state: EndpointState, record: WorkerRecord) -> EndpointState:
    """A new leader takes over what the one before had written about a worker that the provisioner still has. Its word
    holds until the worker is heard again or lost, so that a change of leader makes nobody leave the routers' view.
    """
    worker = state.workers.get(record.worker_id)
    if worker is None or worker.beat_state is not None:
        return state
    said = WorkerState.READY if record.state is WorkerState.DRAINING else record.state
    # Of one that rests, what it once said about itself is history: its next start says it anew.
    speaks = worker.instance_state == "running" and said in SELF_REPORTED and said is not WorkerState.ERROR
    worker = _replace(
        worker,
        beat_state=said if speaks else None,
        ready_at=worker.ready_at or record.ready_at,
        proven=worker.proven or record.ready_at is not None,
        perf=worker.perf or record.perf,
        slots=worker.slots or record.slots,
        url=worker.url or record.url,
    )
    return put(state, lifecycle.settled(worker, state.at))


def _reset(state: EndpointState, said: BreakerReset) -> EndpointState:
    memory = state.groups.get(said.group_id)
    if memory is None:
        return state
    failed_at = memory.breaker.opened_at if memory.breaker is not None else memory.last_failure.at if memory.last_failure else 0.0
    if said.said_at is not None and said.said_at < failed_at:
        return state  # it was about what happened before, and came late
    return _replace(state, groups={**state.groups, said.group_id: learning.breaker_reset(memory)})


def _priced(state: EndpointState, seen: PriceSeen) -> EndpointState:
    memory = state.groups.get(seen.group_id)
    if memory is None:
        return state
    memory = _replace(memory, offer_usd_per_hour=seen.usd_per_hour, offer_storage_usd_per_hour=seen.storage_usd_per_hour)
    return _replace(state, groups={**state.groups, seen.group_id: memory})
