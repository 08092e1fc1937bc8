"""What follows when a worker moves or time passes: starts that succeed, fail, hang; commands nobody carried out."""

from __future__ import annotations

import msgspec

from schemas.reasons import Cause, Phase
from schemas.records import Failure
from schemas.states import COMING, WorkerState

from . import learning, lifecycle, phases, traffic
from .roster import put, without
from .types import EndpointState, GroupMemory, HostMemory, Policy, Telemetry, WorkerFact

_replace = msgspec.structs.replace

#: After telemetry is back, workers get this long to speak before silence counts against them.
_SETTLE_S = 5.0
#: A command's effect may show this long after its deadline.
_INTENT_GRACE_S = 15.0
_COST_PER_S = 1.0 / 3600.0
#: A host that failed is remembered this long after its last failure, and after its quarantine.
_HOST_MEMORY_S = 86_400.0
_MOST_HOSTS = 64


def moved(state: EndpointState, before: WorkerFact, after: WorkerFact, at: float, policy: Policy) -> EndpointState:
    """The state with a worker's new fact, and what its move teaches about its group."""
    state = _paced(put(state, after), before, after, at)
    if after.state is WorkerState.READY and before.ready_at is None and after.revision >= _memory(state, after).revision:
        return _learned(state, after, learning.became_ready(_memory(state, after), after, at))
    failed = after.state is WorkerState.ERROR and before.state not in (WorkerState.ERROR, WorkerState.DESTROYING)
    if failed and after.proven:
        return _distrusted(state, after, at)
    if failed and not after.blamed:
        failure = after.failure or Failure(cause=Cause.START_CRASH, message="it failed without a word", at=at)
        phase = failure.phase or lifecycle.phase_of(before.state)
        return blamed(state, after, _replace(failure, phase=phase), at, policy)
    return state


def _distrusted(state: EndpointState, worker: WorkerFact, at: float) -> EndpointState:
    """The state after a worker failed that had served: nobody knows whose fault it was, so whoever replaces it goes elsewhere."""
    memory = _memory(state, worker)
    if not worker.host or worker.revision < memory.revision:
        return state
    host = _replace(state.hosts.get(worker.host, HostMemory()), failed_at=at)
    state = _replace(state, hosts={**state.hosts, worker.host: host})
    return _learned(state, worker, learning.failed_on(memory, worker.host))


def _paced(state: EndpointState, before: WorkerFact, after: WorkerFact, at: float) -> EndpointState:
    """What a start that got on teaches about the phase it left."""
    if before.state is after.state or before.state not in COMING or before.ready_at is not None:
        return state
    left, memory = lifecycle.phase_of(before.state), _memory(state, after)
    got_on = phases.is_later(lifecycle.phase_of(after.state), left) and (
        after.state in COMING or after.state is WorkerState.READY
    )
    begun_at = phases.since_at(before)
    if not got_on or begun_at <= 0 or after.revision < memory.revision:
        return state
    return _learned(state, after, phases.learned(memory, left, at - begun_at, from_cold=after.from_cold))


def blamed(state: EndpointState, worker: WorkerFact, failure: Failure, at: float, policy: Policy) -> EndpointState:
    """The state after a start failed: counted once per start, against its group and its host."""
    memory = _memory(state, worker)
    if worker.worker_id in state.workers:
        state = put(state, _replace(worker, blamed=True))
    if worker.blamed or worker.revision < memory.revision:
        return state
    cost_usd = worker.usd_per_hour * max(0.0, at - worker.launched_at) * _COST_PER_S
    phase = failure.phase or Phase.RENT
    state = _learned(state, worker, learning.start_failed(memory, failure, phase, cost_usd, at, policy, host=worker.host))
    if worker.host:
        elsewhere = learning.works_elsewhere(memory, state.hosts, worker.host, at)
        host = learning.host_failed(state.hosts.get(worker.host), at, policy, template_works=elsewhere)
        state = _replace(state, hosts={**state.hosts, worker.host: host})
    return state


def intent_failed(state: EndpointState, worker: WorkerFact, failure: Failure, at: float, policy: Policy) -> EndpointState:
    """The state after our command for a worker died. Starting it counts as a failed start; ending it is decided anew."""
    intent = worker.intent
    assert intent is not None
    worker = _replace(worker, intent=None)
    if intent.op in ("create", "start"):
        state = blamed(state, worker, failure, at, policy)
        worker = _replace(worker, blamed=True)
        if intent.op == "create" and worker.instance_state is None:
            return without(state, worker.worker_id)
    return put(state, lifecycle.settled(worker, at))


def passed(state: EndpointState, at: float, policy: Policy) -> EndpointState:
    """The state after time passed. Silence counts only while we hear."""
    state = traffic.sampled(state, at, policy)
    if state.telemetry is not Telemetry.LIVE or at - state.telemetry_at < _SETTLE_S:
        return state
    for worker in tuple(state.workers.values()):
        if worker.intent is not None:
            if at > worker.intent.deadline_at + _INTENT_GRACE_S:
                waited_s = at - worker.intent.issued_at
                failure = Failure(
                    cause=Cause.RENT_FAILED, message=f"{worker.intent.op}: no sign of it after {waited_s:.0f} s", at=at
                )
                state = intent_failed(state, worker, failure, at, policy)
        elif worker.state in COMING:
            state = _deadline(state, worker, at, policy)
        elif worker.state is WorkerState.READY and not worker.proven and at - (worker.ready_at or at) >= policy.proven_after_s:
            state = put(state, _replace(worker, proven=True))
            memory = _memory(state, worker)
            if worker.revision >= memory.revision:
                state = _learned(state, worker, learning.start_proven(memory))
            if worker.host in state.hosts:  # whatever failed on it before was not the host
                state = _replace(state, hosts={name: host for name, host in state.hosts.items() if name != worker.host})
    return _forgiven(state, at)


def _deadline(state: EndpointState, worker: WorkerFact, at: float, policy: Policy) -> EndpointState:
    """A start that takes longer than its template allows, or hangs in a phase that the others left long before."""
    if worker.failure is not None:
        return state
    timeout_s = _start_timeout_s(state, worker)
    begin_at = worker.launched_at if worker.ready_at is None else worker.state_at  # it may load again after it was ready
    phase, memory = lifecycle.phase_of(worker.state), _memory(state, worker)
    if at - begin_at > timeout_s:
        message = f"{worker.state}: not ready {at - begin_at:.0f} s after its start (start_timeout_s is {timeout_s:.0f})"
    elif worker.ready_at is None:
        limit_s = phases.limit_s(memory, phase, policy, from_cold=worker.from_cold)
        lasts_s = at - phases.since_at(worker)
        if limit_s is None or lasts_s <= limit_s:
            return state
        message = (
            f"{worker.state}: in phase {phase} for {lasts_s:.0f} s; by what its group's starts took, {limit_s:.0f} s is the limit"
        )
        if worker.revision >= memory.revision:
            state = _learned(state, worker, phases.learned(memory, phase, lasts_s, from_cold=worker.from_cold))
    else:
        return state
    failure = Failure(cause=Cause.HANG, message=message, phase=phase, at=at)
    after = lifecycle.settled(_replace(worker, failure=failure), at)
    return moved(state, worker, after, at, policy)


def _start_timeout_s(state: EndpointState, worker: WorkerFact) -> float:
    groups = state.spec.groups if state.spec is not None else ()
    return next((group.start_timeout_s for group in groups if group.id == worker.group_id), 600.0)


def _forgiven(state: EndpointState, at: float) -> EndpointState:
    """Hosts are forgotten a day after their last failure and their quarantine; of too many the oldest go first."""
    hosts = state.hosts
    kept = {name: host for name, host in hosts.items() if at <= max(host.quarantined_until_at, host.failed_at) + _HOST_MEMORY_S}
    if len(kept) > _MOST_HOSTS:
        newest = sorted(kept, key=lambda name: (kept[name].failed_at, name))[-_MOST_HOSTS:]
        kept = {name: kept[name] for name in newest}
    return state if len(kept) == len(hosts) else _replace(state, hosts=kept)


def _memory(state: EndpointState, worker: WorkerFact) -> GroupMemory:
    known = state.groups.get(worker.group_id)
    return known if known is not None else GroupMemory(revision=worker.revision)


def _learned(state: EndpointState, worker: WorkerFact, memory: GroupMemory) -> EndpointState:
    return _replace(state, groups={**state.groups, worker.group_id: memory})
