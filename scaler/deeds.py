"""Our own acts, folded like everything else: what was decided is committed from that moment, by id."""

from __future__ import annotations

import msgspec

from schemas.states import COMING, WorkerState

from . import lifecycle, reboots, window
from .observations import DecisionTaken
from .roster import put
from .types import Action, Decision, Drain, EndpointState, Fresh, Intent, LastDecision, Policy, WorkerFact

_replace = msgspec.structs.replace


def taken(state: EndpointState, observation: DecisionTaken, at: float, policy: Policy) -> EndpointState:
    """The state after a decision: targets remembered, workers marked, generation counted when it was recorded."""
    decision = observation.decision
    if not decision.advisory:
        for action in decision.actions:
            state = _acted(state, decision, action, at, policy)
    targets = state.targets
    state = _replace(
        state,
        targets=_replace(
            targets,
            hot=decision.hot_wanted,
            hot_since_at=targets.hot_since_at if targets.hot == decision.hot_wanted else at,
            hot_peaks=window.raised(targets.hot_peaks, at, float(decision.hot_asked)),
            cold_peaks=window.raised(targets.cold_peaks, at, float(max(decision.hot_wanted, decision.floor))),
        ),
        demand=state.demand if decision.engine is None else _replace(state.demand, fresh=Fresh(since_at=at)),
        engine=state.engine if decision.engine is None else decision.engine,
        engine_format=state.engine_format if decision.engine is None else decision.policy,
    )
    if not observation.recorded:
        return state
    last = LastDecision(
        decision=_replace(decision, engine=None),  # it is in the state already
        decision_hash=observation.decision_hash,
        published=observation.published,
        previous_hash=state.last.decision_hash if state.last is not None else "",
    )
    return _replace(state, generation=decision.generation, last=last)


def _acted(state: EndpointState, decision: Decision, action: Action, at: float, policy: Policy) -> EndpointState:
    worker = state.workers.get(action.worker_id)
    if action.op == "create":
        worker = WorkerFact(
            worker_id=action.worker_id,
            group_id=action.group_id,
            revision=action.revision,
            state=WorkerState.PENDING,
            state_at=at,
            created_at=at,
            launched_at=at,
            intent=_intent(decision, action, at, policy),
        )
        return put(state, worker)
    if worker is None:
        return state
    match action.op:
        case "drain":
            then = action.then or "stop"
            drain = Drain(
                since_at=at,
                deadline_at=at + policy.drain_deadline_s,
                then=then,
                why=action.why,
                unready=worker.state in COMING,
            )
            worker = _replace(worker, drain=drain)
        case "undrain":
            # It serves again; until it has heard so, its own word lags behind.
            said = WorkerState.READY if worker.beat_state is WorkerState.DRAINING else worker.beat_state
            worker = _replace(worker, drain=None, beat_state=said, undrained_at=at)
        case "start":
            worker = lifecycle.relaunched(worker, at, from_cold=True)
            worker = _replace(worker, intent=_intent(decision, action, at, policy))
        case "reboot":
            state = reboots.counted(state, worker, at)
            worker = reboots.ordered(worker, _intent(decision, action, at, policy), at)
        case _:
            worker = _replace(worker, intent=_intent(decision, action, at, policy))
    return put(state, lifecycle.settled(worker, at))


def _intent(decision: Decision, action: Action, at: float, policy: Policy) -> Intent:
    assert action.command_id is not None, f"{action.op} is the provisioner's work and needs a command id"
    return Intent(
        command_id=action.command_id,
        op=action.op,
        issued_at=at,
        deadline_at=at + (policy.reboot_ttl_s if action.op == "reboot" else policy.command_ttl_s),
        why=action.why,
        reason=action.reason,
        decision_id=decision.decision_id,
    )
