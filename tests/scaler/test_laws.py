"""What holds for every state, found by searching for the contrary."""

import random
from functools import cache, partial
from itertools import pairwise
from math import ceil

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaler import decide, limits, memory, observations, replay, state, victims
from scaler.engine import memory as minds
from scaler.engine.constants import DEFAULT
from scaler.engine.seen import Arrivals, Seen
from scaler.engine.step import step
from scaler.scene import Scene
from scaler.shares import Shares
from scaler.types import Drain, EndpointState, Liveness, Policy, RouterFact, Telemetry, WorkerFact
from schemas.ids import WorkerId
from schemas.reasons import Cause, Why
from schemas.records import EndpointRecord, Failure, Override, ScalingSettings, Schedule
from schemas.states import WorkerState
from tests.scaler.story import EP, G1, G2, T0, Story, group

NOW = T0 + 1000.0  # half past ten in the evening
POLICIES = [Policy(name=name) for name in decide.ENGINES]
TICK_S = POLICIES[0].tick_s
SLOTS = 4
IN_FORCE = Schedule(cron="0 22 * * *", lasts_s=3600.0, hot_min=2)
AT_NIGHT = Schedule(cron="0 3 * * *", lasts_s=3600.0, hot_min=9)
LIKELY = [*[WorkerState.READY] * 12, *(s for s in WorkerState if s not in (WorkerState.GONE, WorkerState.UPDATING))]
SERVING = {WorkerState.READY, WorkerState.DRAINING}
INSTANCE = {
    WorkerState.PENDING: None,
    WorkerState.CREATING: "creating",
    WorkerState.STOPPED: "stopped",
    WorkerState.STOPPING: "stopping",
    WorkerState.DESTROYING: "destroying",
}


@st.composite
def workers(draw) -> dict[WorkerId, WorkerFact]:
    found = {}
    for n in range(draw(st.integers(0, 8))):
        wid = WorkerId(f"w{n}")
        worker_state = draw(st.sampled_from(LIKELY))
        begun = draw(st.floats(0, 900))
        is_serving = worker_state in SERVING
        found[wid] = WorkerFact(
            worker_id=wid,
            group_id=draw(st.sampled_from([G1, G2])),
            revision=draw(st.sampled_from([1, 1, 1, 2])),
            state=worker_state,
            state_at=T0 + begun,
            launched_at=T0 + begun,
            ready_at=T0 + begun if is_serving else None,
            from_cold=draw(st.booleans()),
            instance_state=INSTANCE.get(worker_state, "running"),
            provider="process",
            usd_per_hour=draw(st.sampled_from([0.0, 0.5, 2.0])),
            liveness=Liveness.ALIVE if is_serving else Liveness.UNHEARD,
            beat_state=WorkerState.READY if is_serving else None,
            beat_at=NOW - 0.5 if is_serving else None,
            perf=draw(st.sampled_from([0.0, 50.0, 100.0])) if is_serving else 0.0,
            slots=SLOTS,
            inflight=draw(st.sampled_from([0, 0, 1, 4])) if is_serving else 0,
            queued=draw(st.sampled_from([0, 0, 0, 5])) if is_serving else 0,
            busy_at=T0 + draw(st.sampled_from([0.0, 500.0, 990.0])) if is_serving else 0.0,
            load_units=draw(st.floats(0, 500)) if is_serving else 0.0,
            drain=Drain(since_at=T0 + begun, deadline_at=T0 + begun + 900, then="stop", why=Why.LOAD_DOWN, shown_at=T0 + begun)
            if worker_state is WorkerState.DRAINING
            else None,
            failure=Failure(cause=Cause.MODEL_OOM, at=T0) if worker_state is WorkerState.ERROR else None,
        )
    return found


@st.composite
def endpoint_settings(draw) -> ScalingSettings:
    most = draw(st.integers(0, 12))
    return ScalingSettings(
        min_load=draw(st.sampled_from([0.0, 0.0, 120.0, 500.0])),
        target_util=draw(st.sampled_from([0.5, 0.9, 1.0])),
        cold_mult=draw(st.sampled_from([None, None, 3.0])),
        min_cold_load=draw(st.sampled_from([None, 300.0])),
        cold_workers=draw(st.one_of(st.none(), st.integers(0, most))),
        max_workers=most,
        inactivity_timeout=draw(st.sampled_from([None, 0.0, 60.0, -1.0])),
        target_queue_time=draw(st.sampled_from([0.0, 5.0])),
    )


#: Requests in four seconds, for twenty seconds each, again and again.
TRAFFIC = [(0.0,), (4.0,), (12.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 30.0, 0.0, 0.0, 0.0, 0.0, 0.0)]


@cache
def _mind(counts: tuple[float, ...]) -> bytes:
    """What the engine that learns remembers of an hour of such traffic: its rules have been compared for long."""
    mind = minds.fresh(DEFAULT, NOW - TICK_S - 3600.0, 1, Policy().boot_guess_s, slots=SLOTS)
    for tick in range(900):
        count = counts[tick // 5 % len(counts)]
        came = (Arrivals(count, 10.0),) if count else ()
        told = Seen(at_s=mind.at_s + 4.0, arrivals=came, slots=SLOTS, hot=mind.hot, most=12, lead_s=mind.lead_s)
        _, mind = step(mind, told, used_up=True)
    return minds.pack(mind, DEFAULT)


@st.composite
def overrides(draw) -> Override | None:
    least, most = draw(st.sampled_from([None, 0, 3, 15])), draw(st.sampled_from([None, None, 0, 5]))
    ends_at = NOW + draw(st.sampled_from([-1.0, 600.0]))
    return Override(owner="ada", expires_at=ends_at, hot_min=least, hot_max=most) if draw(st.booleans()) else None


@st.composite
def states(draw) -> EndpointState:
    record = EndpointRecord(
        id=EP,
        name="law",
        schedules=draw(st.sampled_from([(), (), (IN_FORCE,), (AT_NIGHT,), (AT_NIGHT, IN_FORCE)])),
        override=draw(overrides()),
        settings=draw(endpoint_settings()),
        groups=(group(G1, revision=draw(st.sampled_from([1, 2]))), group(G2, weight=draw(st.sampled_from([1.0, 0.0, 3.0])))),
        created_at=T0,
    )
    here = state.initial(EP, T0)
    here = state.apply(here, observations.EndpointSeen(at=T0, endpoint=record))
    here = state.apply(here, observations.TelemetryJudged(at=T0, telemetry=Telemetry.LIVE))
    quiet = draw(st.booleans())
    for second in range(0, 1000, 125):
        arrived = 0.0 if quiet else draw(st.sampled_from([0.0, 0.0, 500.0, 5000.0]))
        here = _arrived(here, T0 + second, arrived)
    here = _arrives(here, 0.0 if quiet else draw(st.sampled_from([0.0, 0.0, 900.0])))
    traffic = draw(st.sampled_from([None, *TRAFFIC]))
    waiting = 0 if quiet else draw(st.integers(0, 20))
    router = RouterFact(boot="b", seen_at=NOW - 0.2, waiting=waiting, waiting_units=waiting * 50.0, oldest_wait_s=waiting * 0.7)
    mind = b"" if traffic is None else _mind(traffic)
    if mind and draw(st.integers(0, 3)):
        # As a rule the engine has looked when what is fresh began; else the leader before us had a clock ahead of ours.
        here = _since(here, NOW - TICK_S)
    return msgspec.structs.replace(here, workers=draw(workers()), routers={"r": router}, engine=mind, at=NOW)


def _since(here: EndpointState, at: float) -> EndpointState:
    fresh = msgspec.structs.replace(here.demand.fresh, since_at=at)
    return msgspec.structs.replace(here, demand=msgspec.structs.replace(here.demand, fresh=fresh))


def _arrived(here: EndpointState, at: float, units: float) -> EndpointState:
    from scaler import window

    demand = here.demand
    demand = msgspec.structs.replace(
        demand,
        arrived_units=window.added(demand.arrived_units, at, units),
        arrivals=window.added(demand.arrivals, at, units / 50),
        present_peaks=window.raised(demand.present_peaks, at, units / 50),
        last_activity_at=at if units else demand.last_activity_at,
    )
    return msgspec.structs.replace(here, demand=demand)


def _arrives(here: EndpointState, units: float) -> EndpointState:
    """So much came since the engine last looked."""
    here = _arrived(here, NOW, units)
    before = here.demand.fresh
    fresh = msgspec.structs.replace(before, units=before.units + units, arrivals=before.arrivals + ceil(units / 50))
    return msgspec.structs.replace(here, demand=msgspec.structs.replace(here.demand, fresh=fresh))


def law(test, examples: int = 40):
    """It holds with each demand engine."""
    often = settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )
    return pytest.mark.parametrize("policy", POLICIES, ids=list(decide.ENGINES))(often(test))


def after(here: EndpointState, decision, policy: Policy) -> EndpointState:
    return state.apply(here, observations.DecisionTaken(at=NOW, decision=decision), policy)


@law
@given(states())
def test_never_outside_of_what_the_user_allows(policy, here):
    allowed = here.spec.settings
    decision = decide.decide(here, policy, NOW)
    assert 0 <= decision.hot_wanted <= allowed.max_workers
    assert 0 <= decision.cold_wanted <= allowed.max_workers - decision.hot_wanted
    exist = {w.worker_id for w in here.workers.values() if w.state not in (WorkerState.DESTROYING, WorkerState.GONE)}
    ended = {a.worker_id for a in decision.actions if a.op == "destroy"}
    bought = {a.worker_id for a in decision.actions if a.op == "create"}
    assert len(bought) <= max(0, allowed.max_workers - len(exist - ended))


@partial(law, examples=200)  # what asks for a floor is seldom the only reason to have somebody
@given(states())
def test_never_below_what_the_user_asks_for(policy, here):
    spec, asked = here.spec, here.spec.settings
    decision = decide.decide(here, policy, NOW)
    by_hand = spec.override if spec.override is not None and spec.override.expires_at > NOW else None
    ceiling = asked.max_workers
    if by_hand is not None and by_hand.hot_max is not None:
        ceiling = min(by_hand.hot_max, ceiling)
    floors = {
        "inactivity_timeout": 1 if (asked.inactivity_timeout or 0) < 0 else 0,
        "min_load": ceil(asked.min_load / 100),  # nobody is faster
        "schedule": IN_FORCE.hot_min if IN_FORCE in spec.schedules else 0,
        "override": (by_hand.hot_min or 0) if by_hand is not None else 0,
        "all of them": limits.least_hot(Scene(here, policy, NOW)),
    }
    assert {name: floor for name, floor in floors.items() if decision.hot_wanted < min(floor, ceiling)} == {}
    assert decision.hot_wanted <= ceiling
    assert decision.hot_wanted + decision.cold_wanted >= min(asked.cold_workers or 0, asked.max_workers)


@law
@given(states(), st.floats(0, 20_000))
def test_more_load_never_wants_fewer(policy, here, more):
    before = decide.decide(here, policy, NOW).hot_wanted
    louder = _arrives(here, more)
    assert decide.decide(louder, policy, NOW).hot_wanted >= before


@law
@given(states(), st.integers(1, 30))
def test_more_waiting_never_wants_fewer(policy, here, more):
    before = decide.decide(here, policy, NOW).hot_wanted
    router = here.routers["r"]
    router = msgspec.structs.replace(router, waiting=router.waiting + more, waiting_units=router.waiting_units + 50 * more)
    louder = msgspec.structs.replace(here, routers={"r": router})
    assert decide.decide(louder, policy, NOW).hot_wanted >= before


@law
@given(states())
def test_nobody_busy_goes_while_an_idle_one_stays(policy, here):
    """Unless that one is the share of another group: then it cannot do the work that the busy one is there for. Who gets nothing more, in
    a group of weight 0, finishes what it has.
    """
    decision = decide.decide(here, policy, NOW)
    by_load = {a.worker_id for a in decision.actions if a.op == "drain" and a.why not in (Why.REVISION, Why.REPLACE)}
    with_traffic = {g.id for g in here.spec.groups if g.weight > 0}
    ready = [w for w in here.workers.values() if w.state is WorkerState.READY and w.group_id in with_traffic]
    candidates = [w for w in ready if w.revision >= _revision(here, w)]
    busy_gone = [w for w in candidates if w.worker_id in by_load and victims.is_busy(w)]
    idle_kept = [w for w in candidates if w.worker_id not in by_load and not victims.is_busy(w)]
    left = shares_after(here, decision, policy)
    idle_kept = [w for w in idle_kept if not left.keeps(w.group_id)]
    assert not (busy_gone and idle_kept)


def shares_after(here, decision, policy) -> Shares:
    """The shares of what stays hot."""
    scene = Scene(here, policy, NOW)
    gone = {a.worker_id for a in decision.actions if a.op in ("drain", "destroy", "stop")}
    stale = {w.worker_id for w in scene.roster.hot if scene.roster.is_stale(w)}
    stay = [w for w in scene.roster.hot if w.worker_id not in gone | stale]
    return Shares(scene.standings, stay, decision.hot_wanted)


def _revision(here, worker):
    return next(g.revision for g in here.spec.groups if g.id == worker.group_id)


@law
@given(states(), st.sampled_from([Telemetry.FROZEN, Telemetry.DEAF, Telemetry.WARMING]))
def test_without_data_nothing_happens(policy, here, telemetry):
    blind = msgspec.structs.replace(here, telemetry=telemetry)
    decision = decide.decide(blind, policy, NOW)
    assert decision.actions == ()
    assert decision.why in (Why.NO_DATA, Why.FROZEN)


@law
@given(states())
def test_what_was_decided_is_not_decided_again(policy, here):
    first = decide.decide(here, policy, NOW)
    here = after(here, first, policy)
    again = decide.decide(here, policy, NOW)
    repeated = {(a.op, a.worker_id) for a in first.actions} & {(a.op, a.worker_id) for a in again.actions}
    assert repeated == set()
    for _ in range(12):  # a waiting request takes draining workers back one by one
        last = decide.decide(here, policy, NOW)
        here = after(here, last, policy)
    assert not [a for a in decide.decide(here, policy, NOW).actions if a.op in ("create", "start", "drain", "undrain")]
    bought = [w for w in here.workers.values() if w.intent is not None and w.intent.op == "create"]
    ids = [w.intent.command_id for w in here.workers.values() if w.intent is not None]
    assert len(ids) == len(set(ids))
    assert len(bought) <= here.spec.settings.max_workers


@law
@given(states())
def test_equal_input_gives_an_equal_decision_after_any_journey(policy, here):
    decision = decide.decide(here, policy, NOW)
    back = replay.unpack(replay.pack(here, policy, NOW))
    assert decide.decide(back.state, back.policy, back.now) == decision
    assert msgspec.json.encode(back.state) == msgspec.json.encode(here)


@law
@given(states())
def test_a_memory_keeps_what_nobody_else_knows(policy, here):
    here = after(here, decide.decide(here, policy, NOW), policy)
    back = memory.load(memory.dump(here))
    assert back.generation == here.generation
    for worker in here.workers.values():
        kept = back.workers.get(worker.worker_id)
        if worker.intent is not None or worker.drain is not None:
            assert kept is not None and (kept.intent, kept.drain) == (worker.intent, worker.drain)
    assert len(memory.dump(here)) < memory.USUAL_BYTES


@law
@given(states())
def test_every_action_has_a_reason_and_every_decision_its_inputs(policy, here):
    decision = decide.decide(here, policy, NOW)
    assert decision.sentence
    assert decision.inputs
    for action in decision.actions:
        assert action.reason
        assert (action.command_id is None) == (action.op in ("drain", "undrain"))
        if action.op != "create":
            assert action.worker_id in here.workers


@settings(max_examples=2, deadline=None)
@given(rate=st.floats(5, 400), cost=st.sampled_from([10.0, 50.0]), util=st.sampled_from([0.7, 0.9, 1.0]))
def test_constant_load_never_flaps_in_a_day(rate, cost, util):
    story = Story(create_s=60, start_s=20, target_util=util, max_workers=30, cost=cost, step_s=30.0, inactivity_timeout=600)
    story.asks(rate).until(7200)
    settled = story.decisions[-1].hot_wanted
    story.until(86_400)
    late = [d for d in story.decisions if d.at > T0 + 7200]
    assert {d.hot_wanted for d in late} == {settled}
    assert [a.op for d in late for a in d.actions if a.op != "destroy"] == []


@pytest.mark.parametrize("rate, cost", [(170.0, 20.0), (265.0, 50.0)])
def test_random_arrivals_at_a_constant_rate_hardly_move_it(rate, cost):
    story = Story(create_s=30, start_s=15, max_workers=30, cost=cost, chance=random.Random(7), inactivity_timeout=600)
    story.asks(rate).until(3 * 3600)
    wanted = [d.hot_wanted for d in story.decisions if d.at > T0 + 3600]
    turns = sum(1 for before, now in pairwise(wanted) if before != now)
    needed = rate / 0.9 / 100
    assert turns <= 12, f"{turns} changes in two hours"
    assert needed - 0.1 <= sum(wanted) / len(wanted) <= needed + 1.6
