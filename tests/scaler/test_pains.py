"""What users of other systems suffer from, each as a story that must not happen here. Sources are public issue trackers."""

from collections import Counter

import msgspec
import pytest

from scaler import drain, observations, state, victims
from scaler.scene import Scene
from scaler.shares import Shares
from scaler.types import Liveness, Policy, Telemetry
from schemas.reasons import Cause, Why
from schemas.records import Failure, Override, Template
from schemas.signals import Heartbeat
from schemas.states import WorkerState
from tests.scaler.story import G1, G2, G3, T0, Story, group

OOM = Failure(cause=Cause.MODEL_OOM, message="out of memory", at=T0)


@pytest.mark.parametrize("perf, min_load", [(None, 0.0), (100.0, 0.0), (100.0, 900.0)])
def test_a_wrong_model_path_costs_three_starts_and_not_the_balance(perf, min_load):
    # runpod-workers/worker-vllm 29: workers crash for hours, "entire balance was wiped". Also where nine are wanted at once.
    story = Story(groups=(group(expected_perf=perf),), min_load=min_load)
    story.fails[G1] = Failure(cause=Cause.MODEL_DOWNLOAD, message="no such model", at=T0)
    story.asks(500).until(2 * 3600)
    assert len(story.ops("create")) == 3
    assert story.existing == 0, "nothing is left running"
    last = story.decisions[-1]
    assert last.why is Why.BREAKER_OPEN
    assert last.halted == (G1,)
    assert "model_download" in last.sentence and "halted after 3" in last.sentence


def test_the_cost_of_a_crash_loop_is_counted():
    story = Story(groups=(group(expected_perf=None),))
    story.fails[G1], story.fails_after_s = OOM, 600.0
    story.create_s = 3000.0
    story.asks(10).until(60)
    for machine in story.machines.values():
        machine.usd_per_hour = 3.0
        story._show(machine)
    story.until(800)
    memory = story.state.groups[G1]
    assert memory.failed_cost_usd == pytest.approx(3.0 * 600 / 3600, rel=0.05)


def test_a_mended_template_is_tried_again_at_once():
    story = Story(groups=(group(expected_perf=None),), create_s=20)
    story.fails[G1] = OOM
    story.asks(50).until(300)
    assert story.decisions[-1].halted == (G1,)
    del story.fails[G1]
    story.changes(groups=(group(revision=2),))
    story.within(60, lambda s: s.ready >= 1)
    assert story.decisions[-1].halted == ()


def test_an_operator_may_say_try_again():
    story = Story(groups=(group(expected_perf=None),), create_s=20)
    story.fails[G1] = OOM
    story.asks(50).until(300)
    del story.fails[G1]
    story.fold(observations.BreakerReset(at=story.now, group_id=G1, by="ada"))
    story.within(40, lambda s: s.ready >= 1)


def test_failed_starts_back_off():
    # dstack 1722: a submit/fail loop while offers are shown.
    story = Story(groups=(group(expected_perf=None),), max_workers=1)
    story.refuses.add(G1)
    story.asks(50).until(3600)
    times = [at for at, _ in story.ops("create")]
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert len(times) < 40
    assert gaps[0] >= 5
    assert max(gaps) <= 310
    assert story.decisions[-1].halted == (), "no offer is no fault of the template"


def test_one_failed_replica_does_not_end_the_service():
    # dstack 2660: one replica fails -> the whole service is terminated.
    story = Story(create_s=20).asks(250).until(900)
    victim = story.workers(WorkerState.READY)[0].worker_id
    story.breaks(victim)
    assert story.workers(WorkerState.ERROR)[0].worker_id == victim
    survivors = {w.worker_id for w in story.workers(WorkerState.READY)}
    story.until(1100)
    assert story.ready == 3
    assert survivors <= {w.worker_id for w in story.workers(WorkerState.READY)}
    assert [w for _, w in story.ops("reboot")] == [victim], "its machine is paid and its model lies on the disk"
    assert story.ops("destroy") == []
    # ... nor does a start that fails: the next one is tried.
    story.asks(450)
    story.within(120, lambda s: s.workers(WorkerState.LOADING, WorkerState.MODEL_LOADING))
    story.breaks(story.workers(WorkerState.LOADING, WorkerState.MODEL_LOADING)[0].worker_id)
    assert story.state.groups[G1].failed_in_row == 1
    story.within(400, lambda s: s.ready >= 5)
    assert survivors <= {w.worker_id for w in story.workers(WorkerState.READY)}


def test_a_failed_purchase_leaves_what_serves_alone():
    # dstack 1979: a failed scale-up kills the running replica.
    story = Story(create_s=20).asks(150).until(900)
    serving = {w.worker_id for w in story.workers(WorkerState.READY)}
    story.refuses.add(G1)
    story.asks(900).until(1800)
    assert serving <= {w.worker_id for w in story.workers(WorkerState.READY)}
    assert story.decisions[-1].hot_wanted > story.decisions[-1].hot_before


def test_falling_demand_cancels_pending_purchases_first():
    # dynamo 14251: pending for more than an hour, never cancelled.
    story = Story(create_s=20, inactivity_timeout=30).asks(90).until(600)
    story.no_provider = True  # the queue is long: nobody carries commands out
    story.asks(900).until(660)
    pending = {w.worker_id for w in story.workers(WorkerState.PENDING)}
    serving = {w.worker_id for w in story.workers(WorkerState.READY)}
    assert pending and serving
    story.asks(0).waiting = 0.0
    story.until(1300)
    first = next(d for d in story.decisions if d.at > T0 + 660 and any(a.op in ("destroy", "drain") for a in d.actions))
    assert {a.worker_id for a in first.actions} <= pending
    assert story.workers(WorkerState.PENDING) == []


def test_up_down_up_down_does_not_happen():
    # ray 18925: up to N, average queue drops, down to 1, repeat.
    story = Story(create_s=30, start_s=10).asks(350).until(3600)
    wanted = [d.hot_wanted for d in story.decisions if d.at > T0 + 1200]
    assert len(set(wanted)) <= 2 and wanted[-1] == 4
    assert wanted == sorted(wanted, reverse=True)


def test_no_division_of_a_step_into_minus_one_per_tick():
    # ray 46148: the down-scale factor degenerates to "-1 every step" at low traffic.
    story = Story(create_s=10, inactivity_timeout=60).asks(450).until(900)
    before = story.ready
    story.asks(80).until(1600)
    assert before >= 5 and story.ready == 1
    settled_s = max(at for at, op in story.acts() if op == "drain") - 900
    assert settled_s <= 300 + 60 + 10, "the window decides how long it takes, not how many there are"


def test_a_fall_to_nothing_lets_several_go_at_once():
    # ray 46148, again: whoever takes one at a time takes as long as there are workers.
    story = Story(create_s=10, inactivity_timeout=60, max_workers=12).asks(900).until(900)
    before = story.ready
    story.asks(0).until(1600)
    assert before >= 9 and story.ready == 0
    drained = Counter(decision.at for decision in story.decisions for action in decision.actions if action.op == "drain")
    assert max(drained.values()) >= 3


def test_load_that_is_gone_does_not_pin_workers_by_stale_counters():
    # ray 61551: pinned at 2 replicas after the load is gone.
    story = Story(create_s=10, inactivity_timeout=60).asks(150).until(700)
    story.asks(0)
    stuck = story.workers(WorkerState.READY)[0].worker_id
    story.machines[stuck].backlog = 1e9  # its last word is "busy", for ever
    story.until(702)
    in_hand = {read.name: read.value for read in story.decisions[-1].inputs}["inflight"]
    assert in_hand == story.slots
    story.loses(stuck)
    assert story.state.workers[stuck].state is WorkerState.ERROR, "who is lost is no worker to count on"
    story.until(704)
    assert {read.name: read.value for read in story.decisions[-1].inputs}["inflight"] == 0, "what it had in hand went with it"
    story.until(1400)
    assert story.ready == 0
    assert story.existing == story.cold


def test_zero_traffic_is_a_number_and_no_data_is_not():
    # dynamo 6985: metrics are NaN at zero traffic, so the planner never scales down.
    quiet = Story(create_s=10).asks(150).until(700)
    quiet.asks(0).until(1200)
    assert quiet.ready == 0
    assert {i.name: i.value for i in quiet.decisions[-1].inputs}["load"] == pytest.approx(0.0, abs=1e-6)
    fresh = Story().decide()
    assert {i.name: i.value for i in fresh.inputs}["load"] is None


def test_a_router_that_falls_silent_under_load_is_no_data_and_lets_nobody_go():
    # dynamo 6985, the other way round: what nobody tells is taken for zero. Here even the workers have nothing in hand.
    story = Story(create_s=10).asks(350).until(700)
    story._report = lambda: None
    before, acts = story.ready, len(story.acts())
    story.asks(0).until(815)
    assert before == 4 and story.ready == before
    assert story.acts()[acts:] == []
    assert story.decisions[-1].why is Why.NO_DATA
    assert "router r1 fell silent" in story.decisions[-1].sentence


@pytest.mark.parametrize("telemetry", [Telemetry.WARMING, Telemetry.FROZEN, Telemetry.DEAF])
@pytest.mark.parametrize("rate", [350.0, 0.0])
def test_while_nobody_is_heard_there_is_no_data_and_nobody_is_let_go(telemetry, rate):
    # At rate 0 the load has just ended: whoever decides on what is remembered lets go of everybody in a minute or two.
    story = Story(create_s=10).asks(350).until(700).asks(rate).until(715)
    story.silent = True
    story.telemetry(telemetry)
    before, acts, decisions = story.ready, len(story.acts()), len(story.decisions)
    story.until(1600)
    assert before >= 3 and story.ready == before
    assert story.acts()[acts:] == []
    for decision in story.decisions[decisions:]:
        assert decision.why is (Why.FROZEN if telemetry is Telemetry.FROZEN else Why.NO_DATA)
        assert [(read.name, read.value) for read in decision.inputs] == [("telemetry", None)]


def test_victims_are_pending_then_coming_then_idle_then_busy():
    # ray 43034: RUNNING replicas are killed while STARTING ones exist.
    story = Story(create_s=100, min_load=200).until(200)
    ready = story.workers(WorkerState.READY)
    busy, idle = sorted(w.worker_id for w in ready)  # all else being equal, the first id would go first
    story.sets(min_load=400)
    story.until(230)
    story.no_provider = True
    story.sets(min_load=500)
    story.until(232)
    pending = {w.worker_id for w in story.workers(WorkerState.PENDING)}
    coming = {w.worker_id for w in story.workers(WorkerState.LOADING, WorkerState.MODEL_LOADING)}
    assert len(pending) == 1 and len(coming) == 2 and len(ready) == 2
    # By price alone the order would be the other way round.
    price = dict.fromkeys(pending, 1.0) | dict.fromkeys(coming, 2.0) | {idle: 3.0, busy: 4.0}
    workers = {
        wid: msgspec.structs.replace(w, inflight=1 if wid == busy else 0, queued=0, perf=100.0, usd_per_hour=price.get(wid, 0.0))
        for wid, w in story.state.workers.items()
    }
    here = msgspec.structs.replace(story.state, workers=workers)
    scene = Scene(here, story.policy, story.now)
    hot = scene.roster.hot
    order = [w.worker_id for w in victims.in_order(hot, scene.standings, Shares(scene.standings, hot, 1))]
    assert set(order[:1]) == pending
    assert set(order[1:3]) == coming
    assert order[3:] == [idle, busy]


def test_what_is_on_its_way_is_not_bought_again(engine):
    # aibrix 2671: counts pending replicas as missing and buys again.
    story = Story(create_s=500, perf=100, policy=Policy(name=engine, breaker_failures=9)).asks(0)
    story.sets(min_load=290)
    for _ in range(200):
        story.decide()
    assert len(story.ops("create")) == 3
    story.no_provider = True
    story.sets(min_load=390)
    for _ in range(200):
        story.decide()
    assert len(story.ops("create")) == 4


def test_a_busy_worker_is_never_stopped_in_the_middle():
    # gpustack 6059, dynamo 13559: scale-down cuts streams.
    story = Story(create_s=10, inactivity_timeout=0).asks(150).until(700)
    busy = story.workers(WorkerState.READY)[0].worker_id
    story.machines[busy].backlog = 100 * 400.0  # a request that takes 400 s
    story.asks(0)
    story.until(1000)
    assert story.machines[busy].instance == "running"
    story.within(400, lambda s: s.machines[busy].instance != "running")
    assert story.machines[busy].backlog == 0


def test_a_busy_worker_that_must_go_finishes_what_it_has():
    # gpustack 6059: replica delete cuts streams.
    story = Story(create_s=10, inactivity_timeout=0).asks(150).until(700)
    for machine in story.machines.values():
        machine.backlog = 100 * 400.0 if story._serves(machine) else 0.0
    ends = {worker.worker_id for worker in story.workers(WorkerState.READY)}
    assert len(ends) == 2
    story.changes(override=Override(owner="ada", expires_at=T0 + 1e6, hot_max=1)).asks(0).until(710)
    (worker,) = [w.worker_id for w in story.workers(WorkerState.DRAINING) if w.worker_id in ends]
    story.until(1090)
    assert story.machines[worker].instance == "running"
    story.within(60, lambda s: s.machines[worker].instance != "running")
    assert story.machines[worker].backlog == 0


def test_a_drain_waits_for_the_last_ticket_and_for_a_word_from_after_it():
    # dynamo 13559: in flight and queued requests are aborted 5 s after the signal. Here the last word before the silence was "idle".
    story = Story(create_s=10, inactivity_timeout=30).asks(50).until(700).asks(0)
    story.within(300, lambda s: s.workers(WorkerState.DRAINING))
    (worker,) = story.workers(WorkerState.DRAINING)
    window_s = story.policy.ticket_ttl_s + story.policy.clock_skew_s
    begin = story.now
    story.until(begin - T0 + window_s - 5)
    assert story.machines[worker.worker_id].instance == "running", "a ticket may still bring somebody"
    story.machines[worker.worker_id].beats = False
    story.until(begin - T0 + window_s + 20)
    assert story.machines[worker.worker_id].instance == "running", "nobody knows what came with the last ticket"
    story.machines[worker.worker_id].beats = True
    story.within(5, lambda s: s.machines[worker.worker_id].instance != "running")


def test_demand_that_returns_takes_a_draining_worker_back():
    story = Story(create_s=100, start_s=100, inactivity_timeout=30).asks(90).until(900).asks(0)
    story.within(100, lambda s: s.ready == 0)
    worker = story.workers(WorkerState.DRAINING)[0].worker_id
    story.someone_waits()
    assert story.told[-1][1] == "undrain" and worker in story.machines
    assert story.ready == 1
    bought = len(story.ops("create")) + len(story.ops("start"))
    story.asks(50).until(1100)
    assert len(story.ops("create")) + len(story.ops("start")) == bought


def test_a_drain_without_end_is_cut_at_its_deadline_and_says_so(engine):
    story = Story(create_s=10, inactivity_timeout=0, policy=Policy(name=engine, drain_deadline_s=200.0)).asks(50).until(700)
    worker = story.workers(WorkerState.READY)[0].worker_id
    story.machines[worker].backlog = 1e9
    story.asks(0)
    story.fold(observations.EndpointSeen(at=story.now, endpoint=None))
    story.decide()
    fact = story.state.workers[worker]
    story.until(820)
    assert story.machines[worker].instance == "running"
    proof = drain.progress(story.state.workers[worker], story.policy, fact.drain.deadline_at)
    assert proof.done and proof.cut_short and proof.inflight > 0
    story.until(910)
    assert story.machines[worker].instance == "gone"


def test_a_machine_that_will_be_taken_back_is_replaced_first():
    # skypilot 5371: want reaction to interruption notices.
    story = Story(create_s=60, groups=(group(),)).asks(150).until(900)
    victim = story.workers(WorkerState.READY)[0].worker_id
    story.fold(observations.Preempting(at=story.now, worker_id=victim, gone_at=story.now + 600))
    lowest = 2
    while story.machines[victim].instance == "running" and story.now < T0 + 1500:
        story.until(story.now - T0 + 2)
        lowest = min(lowest, story.ready)
    assert lowest == 2, "the replacement is ready before it goes"
    assert story.machines[victim].instance != "running"
    assert story.now < T0 + 1500


def test_a_start_that_hangs_ends_at_its_deadline_with_a_cause():
    # ashleykleynhans/runpod-worker-a1111 26: no time limit on initialisation.
    hanging = group(template=Template(name="t", start_timeout_s=120.0), expected_perf=None)
    story = Story(groups=(hanging,), create_s=1e9).asks(10).until(200)
    assert story.state.groups[G1].last_failure.cause is Cause.HANG
    assert len(story.ops("destroy")) == 1


def test_a_worker_that_comes_back_after_silence_is_taken_back():
    story = Story(create_s=20).asks(50).until(700)
    worker = story.workers(WorkerState.READY)[0].worker_id
    story.loses(worker)
    assert story.state.workers[worker].state is WorkerState.ERROR
    story.machines[worker].beats = True
    story.until(703)
    assert story.state.workers[worker].state is WorkerState.READY
    assert story.ops("destroy") == []


def test_a_ghost_of_an_earlier_start_is_not_believed():
    story = Story(create_s=20, start_s=60, inactivity_timeout=20).asks(50).until(300).asks(0)
    story.within(300, lambda s: s.cold == 1)
    worker = story.workers(WorkerState.STOPPED)[0].worker_id
    story.someone_waits()
    assert story.state.workers[worker].state is WorkerState.STARTING
    last_words = Heartbeat(
        worker_id=worker,
        endpoint_id=story.endpoint.id,
        group_id=G1,
        boot=f"{worker}-1",
        seq=10**6,
        sent_at=story.now,
        state=WorkerState.READY,
    )
    story.fold(observations.HeartbeatSeen(at=story.now, heartbeat=last_words))
    assert story.state.workers[worker].state is WorkerState.STARTING


def test_a_spike_overflows_to_the_cheap_tier_and_comes_back(engine):
    big, cheap = group(G1, tier=0), group(G2, tier=1)
    story = (
        Story(groups=(big, cheap), create_s=20, max_workers=20, policy=Policy(name=engine, cold_keep_s=60.0))
        .asks(180)
        .until(1800)
    )
    story.refuses.add(G1)  # the big machines are sold out
    story.asks(600).until(3000)
    by_group = [w.group_id for w in story.workers(WorkerState.READY)]
    assert by_group.count(G2) >= 1
    story.asks(180).until(4800)
    by_group = [w.group_id for w in story.workers(WorkerState.READY)]
    assert (by_group.count(G1), by_group.count(G2)) == (3, 0)


def test_a_lost_record_is_not_a_lost_worker():
    story = Story(create_s=20).asks(50).until(300)
    worker = story.workers(WorkerState.READY)[0].worker_id
    story.fold(observations.InstanceSeen(at=story.now, worker_id=worker, instance=None))
    story.until(310)
    assert story.state.workers[worker].state is WorkerState.READY
    assert story.state.workers[worker].liveness is Liveness.ALIVE


def test_an_observation_nobody_knows_is_refused():
    class Odd(observations.Observation, frozen=True, kw_only=True, tag="odd"):
        pass

    with pytest.raises(TypeError, match="Odd"):
        state.apply(Story().state, Odd(at=T0))


def test_bursts_a_minute_apart_are_met_by_the_same_workers():
    # knative 12765, ray 26455: thrash whenever the delay is shorter than the look-back window.
    story = Story(create_s=10, start_s=10, slots=2, cost=50, target_queue_time=2, max_workers=10)
    for minute in range(30):
        story.asks(20).until(minute * 50 + 40).asks(900).until(minute * 50 + 50)
    late = [op for at, op in story.acts() if at > 400]
    assert late.count("start") + late.count("create") <= 3
    assert late.count("drain") <= 3


def lone(**fields):
    """A group of which nobody knows anything yet, so the plain engine answers whichever is in use."""
    return group(name="usual", expected_perf=None, **fields)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ((lone(weight=0.0),), ["usual: weight 0"]),
        ((lone(provider="external"),), ["usual: its machines are brought by people"]),
        ((lone(max_workers=0),), ["usual: its max_workers allows 0"]),
        (
            (lone(weight=0.0), group(G2, name="own", provider="external"), group(G3, name="small", max_workers=0)),
            ["usual: weight 0", "own: its machines are brought by people", "small: its max_workers allows 0"],
        ),
        ((), ["it has no worker group"]),
    ],
    ids=["weight 0", "brought by people", "full", "all of it", "no group"],
)
def test_pain_60_nobody_waits_without_a_reason(engine, groups, said):
    # FootprintAI/Containarium 1469: no trace why nothing was done.
    story = Story().changes(groups=groups)
    story.someone_waits()
    for _ in range(3):
        decision = story.decide()
        assert (decision.hot_wanted, decision.actions) == (1, ())
        assert all(text in decision.sentence for text in said), decision.sentence


@pytest.mark.parametrize(
    ("groups", "kept", "said"),
    [
        ((lone(max_workers=1),), 1, "3 are to be kept, hot or cold, and 1 can be: usual: its max_workers allows 1"),
        ((lone(weight=0.0),), 0, "3 are to be kept, hot or cold, and 0 can be: usual: weight 0"),
        ((lone(provider="external"),), 0, "and 0 can be: usual: its machines are brought by people"),
        (
            (lone(max_workers=1), group(G2, name="small", max_workers=1)),
            2,
            "and 2 can be: usual: its max_workers allows 1; small: its",
        ),
        ((), 0, "3 are to be kept, hot or cold, and 0 can be: it has no worker group"),
    ],
    ids=["full", "weight 0", "brought by people", "two that are full", "no group"],
)
def test_pain_60_a_cold_pool_that_stays_too_small_says_why(engine, groups, kept, said):
    story = Story(cold_workers=3, create_s=20).changes(groups=groups).until(400)
    assert story.existing == kept
    assert all(said in decision.sentence for decision in story.decisions[-3:]), story.decisions[-1].sentence


def test_pain_60_a_cold_pool_that_is_whole_says_nothing(engine):
    idle = group(G2, name="idle", weight=0.0)
    story = Story(cold_workers=3, create_s=20, groups=(lone(), idle)).until(400)
    assert story.existing == 3
    assert not any("are to be kept" in decision.sentence or "idle:" in decision.sentence for decision in story.decisions)


def test_pain_60_workers_that_no_request_reaches_are_no_answer(engine):
    story = Story(create_s=20, groups=(lone(),), inactivity_timeout=-1).until(200)
    assert story.ready == 1
    story.changes(groups=(lone(weight=0.0),))
    story._serve = lambda: None  # routers give it nothing
    story.asks(50).until(230)
    assert "no group has a weight above 0, so no request reaches their workers" in story.decisions[-1].sentence


def test_pain_60_no_room_until_those_that_failed_are_gone(engine):
    story = Story(create_s=20, max_workers=1, groups=(lone(),), policy=Policy(name=engine, reboots_per_worker=0))
    story.asks(50).until(200)
    worker = story.workers(WorkerState.READY)[0].worker_id
    story.no_provider = True  # nobody carries out that it is destroyed
    story.breaks(worker).asks(50).until(240)
    assert (
        "max_workers allows 1, and those that fail or are on their way out count until they are gone"
        in story.decisions[-1].sentence
    )


def test_pain_60_one_request_is_one_request(engine):
    story = Story(slots=1, groups=(group(weight=0.0),))  # its speed is known, so each engine speaks for itself
    said = story.someone_waits().decisions[-1].sentence
    assert "1 request waits and no worker is ready" in said
    assert "1 requests wait" not in said and "1 slots" not in said
