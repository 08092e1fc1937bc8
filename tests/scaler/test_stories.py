"""The scaler's day, told in virtual time over the pure core."""

from scaler import observations
from scaler.types import Policy, Telemetry
from schemas.reasons import Cause, Why
from schemas.records import Failure, Override
from schemas.states import WorkerState
from tests.scaler.story import COUNTS, EP, G1, G2, T0, Activity, Story, group

OOM = Failure(cause=Cause.MODEL_OOM, message="out of memory", at=T0)


def test_nothing_is_asked_and_nothing_is_bought():
    story = Story().until(600)
    assert story.commands == []
    assert story.decisions[-1].why is Why.STEADY


def test_the_first_waiting_request_wakes_an_endpoint_at_zero_at_once():
    story = Story().until(100)
    story.someone_waits()
    assert story.ops("create") == [(100.0, story.commands[0][2])]
    decision = story.decisions[-1]
    assert decision.why is Why.DEMAND_WAITING
    assert (decision.hot_before, decision.hot_wanted) == (0, 1)
    assert "wait" in decision.sentence


def test_the_first_request_after_zero_succeeds():
    # kedacore/http-add-on 432: the first request to a zero-scaled app always fails.
    story = Story(create_s=45).until(10)
    story.someone_waits()
    story.within(50, lambda s: s.waiting == 0)
    assert story.ready == 1
    assert len(story.ops("create")) == 1


def test_demand_after_a_day_of_silence_is_seen_even_if_only_as_a_mark():
    # kedacore/http-add-on 1692: after long idle no scale-up is requested.
    from schemas.records import DemandMark

    story = Story().until(86_400 / 10)
    story.fold(
        observations.DemandMarked(
            at=story.now, router="r9", mark=DemandMark(endpoint_id=EP, router="r9", waiting_since_at=story.now, cost=50)
        )
    )
    assert story.decide().why is Why.DEMAND_WAITING
    assert len(story.ops("create")) == 1


def test_a_twenty_minute_load_is_not_killed_before_it_is_ready():
    # kserve 1247, knative 15316: scaled down or killed before ready.
    slow = group(template=Story().endpoint.groups[0].template.__class__(name="t", start_timeout_s=3600.0))
    story = Story(groups=(slow,), create_s=1200, inactivity_timeout=30)
    story.someone_waits()
    story.waiting, story.waiting_since = 0.0, None  # the client gave up after its first try
    story.until(1215)
    assert story.ready == 1
    assert len(story.ops("create")) == 1
    assert story.ops("destroy") == []


@COUNTS
def test_load_up_and_down_again():
    story = Story(perf=100, target_util=0.9, max_workers=10)
    story.asks(250).until(900)
    assert story.ready == 3  # 250 / 0.9 / 100 = 2.8
    story.asks(40).until(1800)
    assert story.ready == 1
    story.asks(0).until(2000)
    assert story.ready == 0
    assert story.cold >= 1, "what was hot within six hours stays on disk"


@COUNTS
def test_cold_workers_are_started_before_new_ones_are_bought():
    story = Story(perf=100)
    story.asks(250).until(400).asks(0).until(900)
    assert story.ready == 0
    assert story.cold >= 3
    created = len(story.ops("create"))
    story.asks(250).until(1300)
    assert story.ready == 3
    assert len(story.ops("create")) == created
    assert len(story.ops("start")) >= 3


def test_inactivity_timeout_zero_rests_at_once_and_negative_never():
    at_once = Story(inactivity_timeout=0, create_s=5)
    at_once.someone_waits()
    at_once.within(20, lambda s: s.ready == 1)
    at_once.within(10, lambda s: s.workers(WorkerState.DRAINING))
    never = Story(inactivity_timeout=-1, create_s=5).until(5000)
    assert never.ready == 1
    assert len(never.ops("create")) == 1


def test_inactivity_timeout_counts_from_the_last_request():
    story = Story(inactivity_timeout=100, create_s=5)
    story.asks(30).until(100).asks(0)
    story.until(195)
    assert story.ready == 1
    story.until(206)
    assert story.ready == 0
    assert any(d.why is Why.IDLE for d in story.decisions)


def test_an_endpoint_that_went_to_rest_after_a_burst_stays_there():
    story = Story(inactivity_timeout=8, create_s=5, perf=30, cost=50)
    story.asks(60).until(40).asks(0).until(200)
    assert story.ready == 0
    # The load of the last minutes is still in the averages; it must not call anybody back from draining.
    assert [action.op for decision in story.decisions for action in decision.actions if action.op == "undrain"] == []


def test_min_load_is_kept_hot_without_any_request():
    story = Story(min_load=250, perf=100, groups=(group(expected_perf=100.0),), create_s=20).until(200)
    assert story.ready == 3
    assert any(d.why is Why.MIN_LOAD for d in story.decisions)


def test_max_workers_is_the_ceiling_and_the_sentence_says_so():
    story = Story(max_workers=2, perf=100, create_s=20)
    story.asks(1000).until(600)
    assert story.existing == 2
    decision = story.decisions[-1]
    assert decision.why is Why.MAX_WORKERS
    assert "max_workers allows 2" in decision.sentence


def test_cold_workers_builds_a_stopped_pool():
    story = Story(cold_workers=2, create_s=20, inactivity_timeout=10).until(400)
    assert (story.ready, story.cold) == (0, 2)
    assert len(story.ops("create")) == 2
    assert story.ops("destroy") == []


def test_cold_mult_asks_for_capacity_in_all():
    story = Story(cold_mult=3.0, perf=100, create_s=20, max_workers=20)
    story.asks(150).until(6000)
    assert story.ready == 2
    assert story.existing == 5  # 3 x 150 / 100, rounded up


@COUNTS  # cold_keep_s is only for the engine that does not learn what pays
def test_what_lies_cold_longer_than_pays_is_destroyed(engine):
    story = Story(policy=Policy(name=engine, cold_keep_s=3600.0), create_s=20)
    story.asks(250).until(300).asks(0).until(900)
    assert story.cold >= 3
    story.until(6000)
    assert story.cold == 0
    assert story.existing == 0
    assert any(a.why is Why.COLD_POOL for d in story.decisions for a in d.actions)


@COUNTS  # the other one has two from the beginning
def test_a_long_wait_adds_a_worker_although_the_costs_look_small():
    # The clients say every request costs 1, it takes ten seconds each.
    story = Story(target_queue_time=5, perf=100, cost=200, slots=1, create_s=10)
    story.asks(95).until(60)
    story.machines[next(iter(story.machines))].backlog = 3000.0
    story.until(80)
    assert any(d.why is Why.QUEUE_TIME for d in story.decisions)


def test_suspended_changes_nothing():
    story = Story(create_s=10).asks(150).until(200)
    before = story.ready
    story.changes(state=Activity.SUSPENDED).asks(900).until(600)
    assert story.ready == before
    last = story.decisions[-1]
    assert last.why is Why.ENDPOINT_SUSPENDED
    saw = {read.name: read for read in last.inputs}
    assert saw["ready"].value == before and saw["ready"].age_s is not None
    assert saw["waiting"].age_s is not None and saw["coming"].value == 0


def test_stopped_drains_everybody_to_cold_and_active_wakes_them():
    story = Story(create_s=10, inactivity_timeout=-1).asks(150).until(700)
    created = len(story.ops("create"))
    story.changes(state=Activity.STOPPED).asks(0).until(900)
    assert (story.ready, story.cold) == (0, story.existing)
    story.changes(state=Activity.ACTIVE).until(1000)
    assert story.ready == 1
    assert len(story.ops("create")) == created


def test_a_deleted_endpoint_is_drained_and_destroyed():
    story = Story(create_s=10).asks(150).until(200).asks(0)
    story.fold(observations.EndpointSeen(at=story.now, endpoint=None))
    story.until(400)
    assert story.existing == 0
    assert [a.op for d in story.decisions for a in d.actions if a.why is Why.ENDPOINT_DELETED].count("drain") == 2


def test_a_deleted_group_makes_room_for_the_others():
    story = Story(groups=(group(G1), group(G2)), create_s=10).asks(150).until(200)
    story.changes(groups=(group(G2),)).until(500)
    assert {w.group_id for w in story.workers(WorkerState.READY)} == {G2}
    assert story.ready == 2


def test_shares_follow_weights():
    story = Story(groups=(group(G1, weight=3.0), group(G2, weight=1.0)), create_s=10, perf=100).asks(700).until(900)
    by_group = [w.group_id for w in story.workers(WorkerState.READY)]
    assert len(by_group) >= 8
    assert abs(by_group.count(G1) - 0.75 * len(by_group)) < 1


def test_a_higher_tier_is_used_only_when_the_lower_cannot():
    story = Story(groups=(group(G1, tier=0), group(G2, tier=1)), create_s=10).asks(150).until(700)
    assert {w.group_id for w in story.state.workers.values()} == {G1}
    story.refuses.add(G1)
    story.asks(350).until(1400)
    assert {w.group_id for w in story.workers(WorkerState.READY)} == {G1, G2}
    assert story.ready == 4


def test_a_new_revision_replaces_first_and_releases_then():
    # skypilot 3245: old replicas stopped before the fallback is ready.
    story = Story(create_s=30).asks(150).until(800)
    story.changes(groups=(group(revision=2),))
    lowest = 2
    for t in range(802, 1400, 2):
        story.until(t)
        lowest = min(lowest, story.ready)
    assert lowest == 2
    assert {w.revision for w in story.workers(WorkerState.READY)} == {2}
    assert story.existing == 2


def test_a_new_revision_that_cannot_start_leaves_the_old_one_serving():
    # dstack 4186: a failed rollout destroys a healthy service.
    story = Story(create_s=30).asks(150).until(200)
    story.changes(groups=(group(revision=2),))
    story.fails[G1] = OOM
    story.fails_after_s = 25.0  # so long that whoever was let go too early is gone by then
    lowest = min(story.until(t).ready for t in range(202, 1500, 2))
    assert (lowest, story.ready) == (2, 2)
    assert {w.revision for w in story.workers(WorkerState.READY)} == {1}
    assert story.decisions[-1].halted == (G1,)
    story.asks(0).until(2400)
    assert story.ready == 0
    assert {w.revision for w in story.workers(WorkerState.STOPPED)} == {1}, "and it keeps what works"


def test_a_rollout_without_room_makes_way_one_by_one():
    # LLMKube 192: deadlock on scarce GPUs.
    story = Story(create_s=30, max_workers=2).asks(150).until(200)
    story.changes(groups=(group(revision=2),))
    assert min(story.until(t).ready for t in range(202, 1200, 2)) == 1
    assert {w.revision for w in story.workers(WorkerState.READY)} == {2}
    assert story.ready == 2


def test_a_rollout_that_is_cancelled_keeps_who_is_left_and_can_go_on_later():
    story = Story(create_s=30, max_workers=2).asks(150).until(200)
    story.changes(groups=(group(revision=2),))
    half_way = next(t for t in range(202, 900, 2) if any(w.revision == 2 for w in story.until(t).state.workers.values()))
    story.changes(groups=(group(revision=2, oldest_revision=1),)).until(half_way + 600)
    assert sorted(w.revision for w in story.workers(WorkerState.READY)) == [1, 2], "and it stays so"
    story.changes(groups=(group(revision=3),)).until(half_way + 1600)
    assert {w.revision for w in story.workers(WorkerState.READY)} == {3}


def test_an_override_has_an_owner_and_an_end():
    # dynamo 4420: a manual change fights the planner for ever.
    story = Story(create_s=10)
    story.changes(override=Override(owner="ada", expires_at=T0 + 300, hot_min=3, reason="launch day"))
    story.until(100)
    assert story.ready == 3
    manual = next(d for d in story.decisions if d.why is Why.MANUAL)
    assert "ada" in manual.sentence and "launch day" in manual.sentence
    story.until(600)
    assert story.ready == 0


def test_an_advisory_policy_says_and_does_nothing(engine):
    story = Story(policy=Policy(name=engine, mode="advisory"))
    story.fold(observations.Ticked(at=story.now))
    story.asks(100)
    from scaler import decide

    story._arrive(100)
    story._report()
    decision = decide.decide(story.state, story.policy, story.now)
    assert decision.advisory and decision.actions
    story.fold(observations.DecisionTaken(at=story.now, decision=decision))
    assert story.state.workers == {}


def test_while_frozen_deaf_or_warming_nothing_is_decided():
    for telemetry in (Telemetry.FROZEN, Telemetry.DEAF, Telemetry.WARMING):
        story = Story(create_s=10).asks(250).until(800)
        before = story.ready
        story.telemetry(telemetry)
        story.silent = True
        acts = len(story.acts())
        story.until(1200)
        assert story.ready == before
        assert len(story.acts()) == acts
        story.silent = False
        story.telemetry(Telemetry.LIVE).until(1300)
        assert story.ready == before, "and afterwards all goes on"


def test_an_explicit_cold_pool_does_not_churn_with_the_load():
    # Taken literally, cold_mult buys and destroys with every breath of the load.
    import random

    story = Story(cold_mult=3.0, perf=100, create_s=20, cost=50, chance=random.Random(5), max_workers=40)
    story.asks(300).until(7200)
    late = [(at, op) for at, op in story.acts() if at > 1800]
    assert [op for _, op in late].count("create") <= 4
    assert [op for _, op in late].count("destroy") <= 4
    assert 9 <= story.existing <= 13
