"""decide(state, policy, now) -> Decision. Pure: equal arguments give an equal decision, and replay holds it to that.

deaf, frozen or just listening --> hold: nothing is known, so nothing is changed
deleted                        --> drain and destroy everybody
suspended                      --> finish drains, else leave all as it is
stopped                        --> drain and stop everybody
active                         --> what the engine wants, within the limits, as single acts
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from schemas.events import InputRead
from schemas.ids import GroupId, command_id, endpoint_token, worker_id_for
from schemas.reasons import Why
from schemas.states import EndpointState as Activity

from . import book, ensemble, groups, hearing, limits, reactive, readings
from .book import Draft
from .plan import Planner
from .roster import Roster
from .scene import Scene
from .types import Action, Decision, EndpointState, Policy, Telemetry, Want

_replace = msgspec.structs.replace

Engine = Callable[[Scene], Want]
#: Demand engines by Policy.name.
ENGINES: dict[str, Engine] = {"ensemble": ensemble.want, "reactive": reactive.want}

_NOT_NOW = {
    Telemetry.WARMING: (Why.NO_DATA, "listening since a moment only; nothing is changed before workers were heard"),
    Telemetry.FROZEN: (Why.FROZEN, "all heartbeats stopped at once: taken for our own network, nothing is changed"),
    Telemetry.DEAF: (Why.NO_DATA, "the connection to the bus is down; nothing is changed"),
}


def decide(state: EndpointState, policy: Policy, now: float) -> Decision:
    """What to do about one endpoint. `now` is unix seconds and not before the newest observation.

    Raises KeyError when the policy names an engine that does not exist.
    """
    scene = Scene(state, policy, now)
    roster = scene.roster
    if state.spec is None and not state.deleted:
        return _hold(scene, Why.NO_DATA, "the endpoint's settings are not known yet")
    if state.telemetry in _NOT_NOW:
        return _hold(scene, *_NOT_NOW[state.telemetry])
    if hearing.is_unheard(state, policy, now):
        return _hold(scene, Why.NO_DATA, "listening since a moment only; nothing is changed before routers were heard")
    planner = Planner(scene)
    planner.finish_drains()
    if state.deleted or state.spec is None:
        planner.end_failed()
        planner.end_all(Why.ENDPOINT_DELETED, "destroy", "the endpoint was deleted")
        nobody = _without_engine(scene, 0, 0, Why.ENDPOINT_DELETED, "the endpoint was deleted")
        return _decision(scene, _noted(nobody, planner), planner)
    match state.spec.activity:
        case Activity.SUSPENDED:
            hot, all_of_it = len(roster.hot), len(roster.hot) + len(roster.kept_cold)
            same = _without_engine(scene, hot, all_of_it, Why.ENDPOINT_SUSPENDED, "suspended: workers stay as they are")
            return _decision(scene, same, planner)
        case Activity.STOPPED:
            planner.end_failed()
            planner.end_orphans()
            planner.end_all(Why.ENDPOINT_STOPPED, "stop", "the endpoint was stopped")
            cold = _without_engine(scene, 0, len(roster.living), Why.ENDPOINT_STOPPED, "stopped: all workers cold")
            return _decision(scene, _noted(cold, planner), planner)
        case Activity.ACTIVE:
            wanted = limits.apply(ENGINES[policy.name](scene), scene)
            planner.end_failed(wanted)
            planner.end_orphans()
            planner.make_way(wanted)
            planner.retire(wanted)
            planner.hot(wanted)
            planner.cold(wanted)
            return _decision(scene, _explained(scene, wanted, planner), planner)


def _without_engine(scene: Scene, hot: int, total: int, why: Why, sentence: str) -> Want:
    """What its state asks for, whatever the load."""
    return Want(asked=0, hot=hot, total=total, why=why, sentence=sentence, inputs=readings.at_rest(scene))


def _explained(scene: Scene, wanted: Want, planner: Planner) -> Want:
    """The wish with the words about what stands in its way, and the reason code of the whole."""
    if planner.candidates:
        wanted = _replace(wanted, candidates=(*wanted.candidates, *planner.candidates))
    wanted = _noted(wanted, planner)
    if scene.here.waiting and scene.roster.living and not any(group.weight > 0 for group in scene.roster.groups.values()):
        wanted = _replace(
            wanted, sentence=f"{wanted.sentence}; no group has a weight above 0, so no request reaches their workers"
        )
    texts = "; ".join(shut.text for shut in planner.blocked.values())
    if texts and planner.short:
        first = min(planner.blocked.values(), key=lambda shut: shut.why is not Why.BREAKER_OPEN)
        why = first.why if first.why is Why.BREAKER_OPEN and not _buys(planner) else wanted.why
        return _replace(wanted, why=why, sentence=f"{wanted.sentence}; {texts}")
    if texts and wanted.floor > (kept := book.staying(scene, planner.drafts)):
        wanted = _replace(
            wanted, sentence=f"{wanted.sentence}; {wanted.floor} are to be kept, hot or cold, and {kept} can be: {texts}"
        )
    if wanted.why in (Why.LOAD_UP, Why.LOAD_DOWN, Why.IDLE) and not planner.drafts:
        return _replace(wanted, why=Why.STEADY)
    if wanted.why is Why.STEADY and planner.drafts:
        return _replace(wanted, why=planner.drafts[0].why)
    return wanted


def _noted(wanted: Want, planner: Planner) -> Want:
    return _replace(wanted, sentence="; ".join([wanted.sentence, *planner.notes])) if planner.notes else wanted


def _buys(planner: Planner) -> bool:
    return any(draft.op in ("create", "start", "undrain") for draft in planner.drafts)


def _decision(scene: Scene, wanted: Want, planner: Planner) -> Decision:
    state, policy, now, roster = scene.state, scene.policy, scene.now, scene.roster
    generation = state.generation + 1
    actions = tuple(_action(state, policy, now, generation, slot, draft) for slot, draft in enumerate(planner.drafts))
    look_again_s = policy.look_again_s
    for until_at in (planner.until_at, wanted.until_at):
        if until_at is not None:
            look_again_s = min(look_again_s, max(0.1, until_at - now))
    return Decision(
        endpoint_id=state.endpoint_id,
        at=now,
        generation=generation,
        decision_id=f"{endpoint_token(state.endpoint_id)}.g{generation}",
        why=wanted.why,
        sentence=wanted.sentence,
        hot_before=len(roster.hot),
        hot_wanted=wanted.hot,
        hot_asked=wanted.asked,
        cold_before=len(roster.kept_cold),
        cold_wanted=max(0, wanted.total - wanted.hot),
        floor=wanted.floor,
        actions=actions,
        inputs=wanted.inputs,
        engine=wanted.engine,
        candidates=wanted.candidates,
        halted=_halted(state, roster),
        look_again_s=look_again_s,
        policy=f"{policy.name}/{policy.version}",
        advisory=policy.mode == "advisory",
        activity=state.spec.activity if state.spec is not None else Activity.ACTIVE,
    )


def _hold(scene: Scene, why: Why, sentence: str) -> Decision:
    """Nothing is done, and the targets stay what they were."""
    state, policy, now, roster = scene.state, scene.policy, scene.now, scene.roster
    generation = state.generation + 1
    return Decision(
        endpoint_id=state.endpoint_id,
        at=now,
        generation=generation,
        decision_id=f"{endpoint_token(state.endpoint_id)}.g{generation}",
        why=why,
        sentence=sentence,
        hot_before=len(roster.hot),
        hot_wanted=len(roster.hot),
        hot_asked=0,
        cold_before=len(roster.kept_cold),
        cold_wanted=len(roster.kept_cold),
        inputs=(InputRead(name="telemetry", value=None, age_s=now - state.telemetry_at, unit=str(state.telemetry)),),
        halted=_halted(state, roster),
        look_again_s=policy.look_again_s,
        policy=f"{policy.name}/{policy.version}",
        advisory=policy.mode == "advisory",
        activity=state.spec.activity if state.spec is not None else Activity.ACTIVE,
    )


def _halted(state: EndpointState, roster: Roster) -> tuple[GroupId, ...]:
    return tuple(group.id for group in roster.groups.values() if groups.is_halted(state, group))


def _action(state: EndpointState, policy: Policy, now: float, generation: int, slot: int, draft: Draft) -> Action:
    is_order = draft.op not in ("drain", "undrain")
    command = command_id(state.endpoint_id, generation, slot) if is_order else None
    if draft.worker is not None:
        worker_id = draft.worker.worker_id
    else:
        assert command is not None
        worker_id = worker_id_for(command, policy.installation)
    return Action(
        op=draft.op,
        worker_id=worker_id,
        group_id=draft.group_id,
        why=draft.why,
        reason=draft.reason,
        command_id=command,
        revision=draft.revision,
        then=draft.then,
        avoid_hosts=groups.avoided(state, draft.group_id, now) if draft.op == "create" else (),
    )
