"""What holds for every plan, whatever the groups, their weights, tiers and limits; found by searching for the contrary."""

import random

import msgspec
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from scaler import cost, decide, observations, shares, state, victims
from scaler.scene import Scene
from scaler.shares import Shares
from scaler.types import Drain, EndpointState, GroupMemory, Liveness, Policy, RouterFact, Telemetry, WorkerFact
from schemas.ids import GroupId, WorkerId
from schemas.reasons import Cause, Why
from schemas.records import EndpointRecord, Failure, ScalingSettings
from schemas.states import COMING, WorkerState
from tests.scaler.story import EP, T0, group

NOW = T0 + 5000.0
POLICY = Policy(name="reactive")
PERF = 100.0
STATES = [
    *[WorkerState.READY] * 8,
    WorkerState.PENDING,
    WorkerState.CREATING,
    WorkerState.LOADING,
    WorkerState.MODEL_LOADING,
    WorkerState.STARTING,
    WorkerState.STOPPED,
    WorkerState.STOPPED,
    WorkerState.STOPPING,
    WorkerState.DRAINING,
    WorkerState.ERROR,
]
RELEASES = {"drain", "stop", "destroy"}
BY_LOAD = {Why.LOAD_DOWN, Why.IDLE, Why.STEADY, Why.MIN_LOAD, Why.LOAD_UP, Why.MIN_WORKERS, Why.DEMAND_WAITING, Why.QUEUE_TIME}


def law(test):
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=40, deadline=None, suppress_health_check=slow)(test)


@st.composite
def some_groups(draw):
    found = []
    for n in range(1, draw(st.integers(1, 4)) + 1):
        tier = draw(st.sampled_from([0, 0, 0, 1]))
        found.append(
            group(
                GroupId(n),
                weight=draw(st.sampled_from([0.0, 0.1, 1.0, 1.0, 3.0, 9.0])),
                by_cost=draw(st.booleans()),
                tier=tier,
                max_workers=draw(st.sampled_from([None, None, 0, 2])),
                overflow_util=draw(st.sampled_from([None, 0.7])) if tier else None,
                overflow_queue_s=draw(st.sampled_from([None, 3.0])) if tier else None,
                expected_perf=draw(st.sampled_from([None, PERF, PERF, 300.0])),
            )
        )
    return tuple(found)


def a_worker(n: int, group_id: GroupId, worker_state: WorkerState, **fields) -> WorkerFact:
    is_ready = worker_state in (WorkerState.READY, WorkerState.DRAINING)
    return WorkerFact(
        **{
            "worker_id": WorkerId(f"w{n}"),
            "group_id": group_id,
            "state": worker_state,
            "state_at": T0 + n,
            "launched_at": T0 + n,
            "ready_at": T0 + n if is_ready else None,
            "provider": "process",
            "instance_state": "running",
            "liveness": Liveness.ALIVE if is_ready else Liveness.UNHEARD,
            "beat_at": NOW - 0.5 if is_ready else None,
            "perf": PERF if is_ready else 0.0,
            "slots": 4,
            "proven": is_ready,
            "failure": Failure(cause=Cause.MODEL_OOM, at=T0) if worker_state is WorkerState.ERROR else None,
            **fields,
        }
    )


@st.composite
def states(draw) -> EndpointState:
    groups = draw(some_groups())
    most = draw(st.integers(0, 14))
    record = EndpointRecord(
        id=EP,
        name="law",
        groups=groups,
        settings=ScalingSettings(
            min_load=draw(st.sampled_from([0.0, 50.0, 350.0, 900.0])),
            max_workers=most,
            cold_workers=draw(st.one_of(st.none(), st.integers(0, most))),
            inactivity_timeout=draw(st.sampled_from([None, 0.0, -1.0])),
        ),
        created_at=T0,
    )
    workers = {}
    for n in range(draw(st.integers(0, 12))):
        worker_state = draw(st.sampled_from(STATES))
        drain = Drain(
            since_at=NOW - 30, deadline_at=NOW + 900, then=draw(st.sampled_from(["stop", "destroy"])), why=Why.LOAD_DOWN
        )
        is_serving = worker_state in (WorkerState.READY, WorkerState.DRAINING)
        found = a_worker(
            n,
            draw(st.sampled_from(groups)).id,
            worker_state,
            state_at=NOW - draw(st.sampled_from([5.0, 400.0, 4000.0])),
            from_cold=draw(st.booleans()),
            usd_per_hour=draw(st.sampled_from([0.0, 0.5, 2.0])),
            inflight=draw(st.sampled_from([0, 0, 4])) if is_serving else 0,
            busy_at=T0 + draw(st.sampled_from([0.0, 4990.0])),
            drain=drain if worker_state is WorkerState.DRAINING else None,
            gone_at=draw(st.sampled_from([None, None, None, NOW + 30, NOW + 900])),
        )
        workers[found.worker_id] = found
    waiting = draw(st.sampled_from([0, 0, 3]))
    router = RouterFact(boot="b", seen_at=NOW - 0.2, waiting=waiting, waiting_units=waiting * 50.0, oldest_wait_s=waiting * 2.0)
    here = state.apply(state.initial(EP, T0), observations.EndpointSeen(at=T0, endpoint=record))
    here = state.apply(here, observations.TelemetryJudged(at=T0, telemetry=Telemetry.LIVE))
    memories = {
        g.id: msgspec.structs.replace(
            here.groups[g.id],
            ready_seen=draw(st.booleans()),
            perf=draw(st.sampled_from([0.0, PERF])),
            usd_per_hour=draw(st.sampled_from([None, 0.5, 2.0])),
            starts_ok=6.0,
            starts_failed=draw(st.sampled_from([0.0, 0.0, 2.0])),
            backoff_until_at=draw(st.sampled_from([0.0, 0.0, NOW + 10])),
        )
        for g in groups
    }
    return msgspec.structs.replace(here, workers=workers, routers={"r": router}, groups=memories, at=NOW)


@law
@given(states())
def test_a_worker_gets_one_act_at_most(here):
    decision = decide.decide(here, POLICY, NOW)
    ids = [action.worker_id for action in decision.actions]
    assert len(ids) == len(set(ids))
    commands = [action.command_id for action in decision.actions if action.command_id is not None]
    assert len(commands) == len(set(commands))


@law
@given(states())
def test_never_above_the_maximum_of_the_endpoint_or_of_a_group(here):
    decision = decide.decide(here, POLICY, NOW)
    ended = {a.worker_id for a in decision.actions if a.op == "destroy"}
    living = [w for w in here.workers.values() if w.state not in (WorkerState.DESTROYING, WorkerState.GONE)]
    stay = [w for w in living if w.worker_id not in ended]
    created = [a.group_id for a in decision.actions if a.op == "create"]
    assert not created or len(stay) + len(created) <= here.spec.settings.max_workers
    for spec in here.spec.groups:
        if spec.id in created:
            assert spec.weight > 0
            if spec.max_workers is not None:
                assert sum(1 for w in living if w.group_id == spec.id) + created.count(spec.id) <= spec.max_workers


@law
@given(states())
def test_what_is_released_for_the_load_leaves_what_is_wanted(here):
    decision = decide.decide(here, POLICY, NOW)
    scene = Scene(here, POLICY, NOW)
    stay = [w for w in scene.roster.hot if w.gone_at is None and not scene.roster.is_stale(w)]
    released = {a.worker_id for a in decision.actions if a.op in RELEASES and a.why in BY_LOAD}
    gone = [w for w in stay if w.worker_id in released]
    if gone:
        expected = sum(
            1.0 if w.state is WorkerState.READY else scene.standings[w.group_id].success
            for w in stay
            if w.worker_id not in released
        )
        assert expected >= decision.hot_wanted - 1e-6


@law
@given(states())
def test_who_is_pending_goes_first_then_who_is_coming_then_the_idle(here):
    """Unless what stays is its group's share."""
    decision = decide.decide(here, POLICY, NOW)
    scene = Scene(here, POLICY, NOW)
    hot = [w for w in scene.roster.hot if w.gone_at is None and not scene.roster.is_stale(w)]
    released = {a.worker_id for a in decision.actions if a.op in RELEASES and a.why in BY_LOAD}
    kept = [w for w in hot if w.worker_id not in released]
    left = Shares(scene.standings, kept, decision.hot_wanted)
    floor = here.spec.settings.cold_workers or 0
    could_go = [w for w in kept if not left.keeps(w.group_id) and w.worker_id not in {a.worker_id for a in decision.actions}]
    if floor:  # a new one on its way may be kept for the floor of hot and cold, where an older one goes cold
        could_go = [w for w in could_go if w.state is WorkerState.READY]
    tried = {spec.id for spec in here.spec.groups if scene.standings[spec.id].coming and not scene.standings[spec.id].is_measured}
    could_go = [w for w in could_go if w.group_id not in tried]
    with_traffic = {spec.id for spec in here.spec.groups if spec.weight > 0}
    for gone in (w for w in hot if w.worker_id in released):
        if gone.group_id in with_traffic:
            assert all(victims.progress(w) >= victims.progress(gone) for w in could_go), "who is less far on stayed"


@law
@given(states(), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_in_which_workers_were_met(here, chance):
    ids = list(here.workers)
    chance.shuffle(ids)
    shuffled = msgspec.structs.replace(here, workers={wid: here.workers[wid] for wid in ids})

    def acts(of):
        return sorted((a.op, a.group_id, a.worker_id if a.op != "create" else "") for a in decide.decide(of, POLICY, NOW).actions)

    assert acts(shuffled) == acts(here)
    assert decide.decide(here, POLICY, NOW) == decide.decide(here, POLICY, NOW)


# --- shares ---


def settled(here: EndpointState, rounds: int = 40) -> EndpointState:
    """The world as it is once all that is decided has come true, until nothing more is."""
    serial = 1000
    for turn in range(rounds):
        now = NOW + 400.0 * turn
        here = msgspec.structs.replace(here, at=now)
        decision = decide.decide(here, POLICY, now)
        if not decision.actions:
            return here
        workers = dict(here.workers)
        for action in decision.actions:
            fact = workers.get(action.worker_id)
            if action.op == "destroy" or (action.op == "drain" and action.then == "destroy"):
                workers.pop(action.worker_id)
            elif action.op in ("drain", "stop"):
                rests = {"ready_at": None, "beat_at": None, "instance_state": "stopped"}
                workers[fact.worker_id] = msgspec.structs.replace(fact, state=WorkerState.STOPPED, state_at=now, **rests)
            elif action.op == "start":
                workers[fact.worker_id] = msgspec.structs.replace(
                    fact, state=WorkerState.READY, state_at=now, ready_at=now, instance_state="running", perf=PERF
                )
            elif action.op == "create":
                serial += 1
                fact = a_worker(serial, action.group_id, WorkerState.READY, ready_at=now, state_at=now)
                workers[fact.worker_id] = fact
        begun = {action.group_id for action in decision.actions if action.op in ("create", "start")}
        learned = {
            g: msgspec.structs.replace(m, ready_seen=True, perf=m.perf or PERF) if g in begun else m
            for g, m in here.groups.items()
        }
        here = msgspec.structs.replace(here, workers=workers, groups=learned, generation=here.generation + 1)
    raise AssertionError(f"not quiet after {rounds} rounds: {decision.actions}")


@law
@given(
    st.lists(st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0, 9.0]), min_size=1, max_size=4),
    st.integers(1, 24),
    st.lists(st.integers(0, 12), min_size=4, max_size=4),
)
def test_shares_come_true_within_a_worker_from_wherever_it_starts(weights, wanted, begin):
    groups = tuple(group(GroupId(n), weight=weight) for n, weight in enumerate(weights, 1))
    record = EndpointRecord(
        id=EP, name="law", groups=groups, settings=ScalingSettings(min_load=wanted * PERF - 10, max_workers=100), created_at=T0
    )
    here = state.apply(state.initial(EP, T0), observations.EndpointSeen(at=T0, endpoint=record))
    here = state.apply(here, observations.TelemetryJudged(at=T0, telemetry=Telemetry.LIVE))
    here = msgspec.structs.replace(here, groups={g: GroupMemory(ready_seen=True, perf=PERF) for g in here.groups})
    numbers = [(n, group_id) for n, group_id in enumerate(g.id for g, many in zip(groups, begin) for _ in range(many))]
    here = msgspec.structs.replace(
        here, workers={f: a_worker(n, g, WorkerState.READY) for n, g in numbers for f in [WorkerId(f"w{n}")]}
    )
    here = settled(here)
    scene = Scene(here, POLICY, here.at)
    total = shares.one_each(scene.standings, wanted)
    hot = [w for w in here.workers.values() if w.state is WorkerState.READY]
    assert len(hot) == total
    assert total <= wanted + len(weights) - 1
    left = Shares(scene.standings, scene.roster.hot, total)
    for g in groups:
        assert sum(1 for w in hot if w.group_id == g.id) >= 1, "each has one"
        assert abs(left.lack(g.id)) < 1


@law
@given(states())
def test_every_endpoint_comes_to_rest(here):
    """Shares, tiers, moves and tries never chase each other."""
    assume(all(spec.max_workers != 0 for spec in here.spec.groups))
    here = msgspec.structs.replace(
        here,
        routers={},
        groups={g: msgspec.structs.replace(m, backoff_until_at=0.0) for g, m in here.groups.items()},
        workers={
            w: msgspec.structs.replace(f, gone_at=None, inflight=0)
            for w, f in here.workers.items()
            if f.state in (WorkerState.READY, WorkerState.STOPPED)
        },
    )
    settled(
        msgspec.structs.replace(
            here,
            spec=msgspec.structs.replace(
                here.spec, settings=ScalingSettings(min_load=here.spec.settings.min_load, max_workers=14, inactivity_timeout=-1.0)
            ),
        ),
        rounds=80,
    )


@given(st.lists(st.tuples(st.floats(0.05, 20), st.floats(0.2, 5)), min_size=1, max_size=6), st.integers(0, 60))
def test_what_is_due_adds_up_and_leaves_nobody_out(claims, wanted):
    due = shares.divided(claims, float(wanted))
    assert abs(sum(due) - wanted) < 1e-6
    if shares.is_ample(claims, wanted):
        assert all(part >= size - 1e-9 for part, (_, size) in zip(due, claims))


@given(st.lists(st.sampled_from([0.1, 1.0, 2.0, 9.0]), min_size=1, max_size=5), st.integers(0, 50))
def test_more_wanted_is_never_fewer_for_all_groups_together(weights, hot):
    here = state.apply(
        state.initial(EP, T0),
        observations.EndpointSeen(
            at=T0,
            endpoint=EndpointRecord(id=EP, name="x", groups=tuple(group(GroupId(n), weight=w) for n, w in enumerate(weights, 1))),
        ),
    )
    standings = Scene(here, POLICY, NOW).standings
    assert hot <= shares.one_each(standings, hot) <= shares.one_each(standings, hot + 1)
    assert shares.one_each(standings, hot) == 0 if hot == 0 else shares.one_each(standings, hot) >= len(weights)


# --- cost ---

numbers = st.floats(0.01, 100)


@given(numbers, numbers, st.floats(0, 3600), st.floats(0, 0.9), st.floats(60, 36_000))
def test_delivered_cost_rises_with_price_boot_and_failures_and_falls_with_perf_and_use(usd, perf, boot_s, failures, horizon_s):
    def of(**changes) -> float:
        fields = {"usd_per_hour": usd, "perf": perf, "boot_s": boot_s, "failure_rate": failures, **changes}
        return cost.delivered_usd_per_unit(cost.Delivery(**fields), horizon_s)

    base = of()
    assert base >= cost.usd_per_unit(usd, perf) * (1 - 1e-9)
    assert of(usd_per_hour=2 * usd) > base
    assert of(perf=2 * perf) < base
    assert of(boot_s=boot_s + 60) > base
    assert of(failure_rate=failures + 0.05) >= base
    longer = cost.delivered_usd_per_unit(
        cost.Delivery(usd_per_hour=usd, perf=perf, boot_s=boot_s, failure_rate=failures), 2 * horizon_s
    )
    assert longer <= base * (1 + 1e-12)


def test_delivered_cost_by_hand():
    # 2 $/h at 100 units/s, 5 min to boot, every second start fails: an hour of use is paid for 1 h 10 min.
    group_ = cost.Delivery(usd_per_hour=2.0, perf=100.0, boot_s=300.0, failure_rate=0.5)
    assert abs(cost.delivered_usd_per_unit(group_, 3600.0) - 2.0 / 3600 * 4200 / (100 * 3600)) < 1e-15
    assert cost.delivered_usd_per_unit(cost.Delivery(usd_per_hour=None, perf=100.0), 3600.0) is None
    assert cost.delivered_usd_per_unit(cost.Delivery(usd_per_hour=1.0, perf=None), 3600.0) is None
    assert cost.delivered_usd_per_unit(cost.Delivery(usd_per_hour=1.0, perf=0.0), 3600.0) is None
    try:
        cost.delivered_usd_per_unit(group_, 0.0)
    except ValueError as error:
        assert "horizon" in str(error)
    else:
        raise AssertionError("a horizon of nothing was taken")


def test_orders_of_victims_are_quick_for_many_workers():
    """Near linear: ten times the workers cost about ten times as much, not a hundred times."""
    chance = random.Random(3)

    def steps(many: int) -> int:
        groups = tuple(group(GroupId(n), weight=float(n)) for n in (1, 2, 3))
        record = EndpointRecord(id=EP, name="x", groups=groups, settings=ScalingSettings(max_workers=10_000))
        here = state.apply(state.initial(EP, T0), observations.EndpointSeen(at=T0, endpoint=record))
        facts = [
            a_worker(n, GroupId(chance.choice((1, 2, 3))), WorkerState.READY, busy_at=T0 + chance.random()) for n in range(many)
        ]
        scene = Scene(msgspec.structs.replace(here, workers={f.worker_id: f for f in facts}), POLICY, NOW)
        counted = Counting(scene.standings, facts, 1)
        order = []
        for worker in victims.in_order(facts, scene.standings, counted):
            order.append(worker)
            counted.loses(worker)
        assert len(order) == many and {w.worker_id for w in order} == {w.worker_id for w in facts}
        return counted.asked

    assert steps(2000) <= 12 * steps(200)
    assert COMING


class Counting(Shares):
    """Counts how often it is asked."""

    asked = 0

    def spares(self, worker):
        self.asked += 1
        return super().spares(worker)
