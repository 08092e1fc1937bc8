"""Several groups side by side and on top of each other: shares, tiers, costs, tries. Told in virtual time over the pure core."""

import msgspec
import pytest

from scaler import observations
from scaler.types import Policy
from schemas.reasons import Cause, Why
from schemas.records import Failure, Override
from schemas.states import HOT, WorkerState
from tests.scaler.story import G1, G2, G3, T0, Story, group

OOM = Failure(cause=Cause.MODEL_OOM, message="out of memory", at=T0)


def by_cost(group_id, **fields):
    """A group that nobody gave a weight, and of which nobody knows how fast it is."""
    return group(group_id, **{"by_cost": True, "expected_perf": None, **fields})


def needs(story, workers, **more):
    """So many workers of the usual perf are to be hot, whatever an engine thinks of the load."""
    return story.sets(min_load=workers * 100.0 - 10.0, **more)


def counts(story) -> tuple[int, ...]:
    return tuple(story.count(g.id, WorkerState.READY) for g in story.endpoint.groups)


# --- weights ---


def test_a_tenth_for_a_new_group_is_a_worker_beside_the_two_that_serve():
    # A rollout whose new group has no worker would be no rollout; one that takes an old worker's place would get half the traffic.
    story = Story(groups=(group(G1),), create_s=20).asks(150).until(900)
    assert counts(story) == (2,)
    story.changes(groups=(group(G1, weight=9.0), group(G2, weight=1.0))).until(1500)
    assert counts(story) == (2, 1)
    assert "each weighted group keeps at least one worker" in story.decisions[-1].sentence
    assert story.decisions[-1].hot_wanted == 3


def test_a_share_is_not_given_up_when_the_others_are_busier():
    # Its worker is idle most of the time, and idle workers go first: but it is all that its group has.
    story = Story(groups=(group(G1, weight=9.0), group(G2, weight=1.0)), create_s=20, min_load=50, step_s=2.0).asks(30).until(300)
    assert counts(story) == (1, 1)
    (canary,) = (w.worker_id for w in story.state.workers.values() if w.group_id == G2)
    story.asks(450).until(700)
    assert canary in {w.worker_id for w in story.workers(WorkerState.READY)}
    story.asks(60).until(1800)
    assert counts(story) == (1, 1)


def test_weights_that_change_move_the_workers_and_capacity_never_dips():
    story = needs(Story(groups=(group(G1, weight=1.0), group(G2, weight=1.0)), create_s=40, step_s=2.0), 8).asks(400).until(900)
    assert counts(story) == (4, 4)
    story.changes(groups=(group(G1, weight=3.0), group(G2, weight=1.0)))
    lowest, most = 8, 8
    while counts(story) != (6, 2) and story.now < T0 + 2400:
        story.until(story.now - T0 + 2)
        lowest, most = min(lowest, story.ready), max(most, len(story.workers(*HOT)))
    assert counts(story) == (6, 2)
    assert lowest == 8, "who comes is ready before somebody goes"
    assert most <= 8 + 2 + 1, "a quarter at once, not all"
    story.until(story.now - T0 + 200)
    acts = len(story.acts())
    story.until(story.now - T0 + 600)
    assert story.acts()[acts:] == [], "and then it is quiet"


def test_a_weight_of_zero_hands_its_work_over():
    story = needs(Story(groups=(group(G1), group(G2)), create_s=30, step_s=2.0), 4).until(400)
    assert counts(story) == (2, 2)
    story.changes(groups=(group(G1), group(G2, weight=0.0))).until(1500)
    assert counts(story) == (4, 0)


def test_a_share_comes_true_although_there_is_no_room_to_replace_first():
    story = Story(groups=(group(G1),), create_s=20, max_workers=2).asks(150).until(900)
    story.changes(groups=(group(G1, weight=9.0), group(G2, weight=1.0))).until(2400)
    assert counts(story) == (1, 1)
    assert story.existing == 2


def test_a_fast_group_has_its_share_in_work_and_not_in_heads():
    story = Story(groups=(group(G1, weight=1.0), group(G2, weight=1.0, expected_perf=300.0)), create_s=20, max_workers=30)
    story.perfs[G2] = 300.0
    needs(story, 12).until(1200)
    slow, fast = counts(story)
    assert fast * 300 == pytest.approx(slow * 100, abs=300), "equal shares of the traffic"
    assert slow >= 5 and fast in (2, 3)


def test_a_group_that_cannot_start_leaves_its_share_to_the_others_and_is_not_asked_for_ever():
    story = needs(Story(groups=(group(G1), group(G2)), create_s=20, step_s=20.0), 4)
    story.refuses.add(G2)
    story.until(6 * 3600)
    assert counts(story) == (4, 0)
    tries = [at for at, worker in story.ops("create") if at > 2 * 3600 and worker not in story.machines]
    assert 2 <= len(tries) <= 8, "about an hour between tries in the end"
    story.refuses.clear()
    story.until(9 * 3600)
    assert counts(story) == (2, 2)


def test_a_person_who_says_at_most_one_is_obeyed_also_by_weights():
    story = Story(groups=(group(G1), group(G2)), create_s=20)
    story.changes(override=Override(owner="ada", expires_at=T0 + 9e9, hot_max=1))
    story.asks(80).until(600)
    assert sum(counts(story)) == 1
    assert max(d.hot_wanted for d in story.decisions) == 1


def test_a_halted_group_has_no_claim():
    story = Story(groups=(group(G1), group(G2)), create_s=20)
    story.fails[G2] = OOM
    story.asks(80).until(1800)
    assert story.decisions[-1].halted == (G2,)
    assert counts(story) == (1, 0)
    assert story.decisions[-1].hot_wanted == 1


# --- tiers ---


def test_a_full_group_opens_the_next_tier_and_is_filled_first_again():
    own, cloud = group(G1, max_workers=2), group(G2, tier=1)
    story = needs(Story(groups=(own, cloud), create_s=20, max_workers=10), 2).until(300)
    assert counts(story) == (2, 0)
    needs(story, 5).until(600)
    assert counts(story) == (2, 3)
    needs(story, 2).until(1500)
    assert counts(story) == (2, 0), "who helped out goes first"


def test_a_spike_opens_the_fast_tier_by_its_queue_and_comes_back():
    # The usual machines take five minutes to come, the dear ones twenty seconds.
    usual, dear = group(G1), group(G2, tier=1, overflow_queue_s=8.0)
    story = Story(groups=(usual, dear), target_queue_time=5, max_workers=40, inactivity_timeout=-1)
    story.boots_s, story.prices = {G1: 300.0, G2: 20.0}, {G1: 1.0, G2: 3.0}
    story.until(600)
    assert counts(story) == (1, 0)
    story.asks(450)
    story.within(60, lambda s: s.count(G2, WorkerState.READY) >= 1)
    assert story.count(G1, WorkerState.READY) == 1, "the usual ones are still on their way"
    coming = {w.worker_id for w in story.state.workers.values() if w.group_id == G1}
    assert len(coming) >= 4
    story.within(300, lambda s: s.count(G1, WorkerState.READY) >= len(coming))
    assert not [w for _, w in story.ops("destroy") + story.ops("stop") if w in coming], "none was given up for the dear ones"
    story.until(2700)
    assert counts(story)[0] >= 5 and counts(story)[1] == 0, "they took over"


def test_without_a_threshold_the_same_spike_waits_for_the_usual_tier():
    story = Story(groups=(group(G1), group(G2, tier=1)), target_queue_time=5, max_workers=40, inactivity_timeout=-1)
    story.boots_s = {G1: 300.0, G2: 20.0}
    story.until(600).asks(450).until(800)
    assert story.count(G2) == 0
    assert story.count(G1) > 1


def test_a_tier_opens_above_its_use_and_the_next_worker_comes_from_it():
    usual, spare = group(G1, max_workers=6), group(G2, tier=1, overflow_util=0.95)
    story = needs(Story(groups=(usual, spare), create_s=30, slots=4, cost=50, max_workers=12, step_s=2.0), 2).asks(100).until(600)
    assert counts(story) == (2, 0)
    needs(story, 3).until(700)
    assert counts(story) == (3, 0), "half used: the usual tier has what is needed"
    story.asks(330)  # more than three can do
    story.within(200, lambda s: s.count(G2) >= 1)
    assert story.count(G1) < 6, "it was not full: it was busy"
    story.asks(100).until(2400)
    assert counts(story) == (3, 0)


def test_who_helped_out_goes_home_at_constant_load():
    story = needs(Story(groups=(group(G1), group(G2, tier=1)), create_s=20), 3)
    story.refuses.add(G1)
    story.until(900)
    assert counts(story) == (0, 3)
    story.refuses.clear()
    lowest = 3
    while counts(story) != (3, 0) and story.now < T0 + 3 * 3600:
        story.until(story.now - T0 + 2)
        lowest = min(lowest, story.ready)
    assert counts(story) == (3, 0)
    assert lowest == 3


def test_a_tier_that_helps_out_is_shared_by_its_weights():
    groups_ = (group(G1, max_workers=1), group(G2, tier=1, weight=2.0), group(G3, tier=1, weight=1.0))
    story = needs(Story(groups=groups_, create_s=20, max_workers=12), 3).until(100)
    assert counts(story) == (1, 1, 1)
    needs(story, 7).until(300)
    assert counts(story) == (1, 4, 2)


# --- cost ---


def measured(story, **perfs):
    """Let every group have been measured, at the story's prices."""
    groups_ = {
        group_id: msgspec.structs.replace(
            memory, perf=story.perfs[group_id], usd_per_hour=story.prices[group_id], ready_seen=True
        )
        for group_id, memory in story.state.groups.items()
    }
    story.state = msgspec.structs.replace(story.state, groups=groups_)
    return story


def test_the_cheapest_delivered_work_is_bought_and_not_the_cheapest_machine():
    story = Story(groups=(by_cost(G1), by_cost(G2), by_cost(G3)), create_s=20, max_workers=20)
    story.perfs = {G1: 100.0, G2: 300.0, G3: 50.0}
    story.prices = {G1: 1.0, G2: 2.0, G3: 0.6}  # $ per unit: 1/100, 2/300, 0.6/50
    needs(measured(story), 8).until(300)
    assert counts(story) == (0, 3, 0)


def test_a_group_that_often_fails_is_as_dear_as_it_is():
    story = Story(groups=(by_cost(G1), by_cost(G2)), create_s=20, policy=Policy(horizon_s=600.0))
    story.perfs, story.prices = {G1: 100.0, G2: 100.0}, {G1: 1.0, G2: 1.3}
    measured(story)
    often = msgspec.structs.replace(story.state.groups[G1], starts_ok=2.0, starts_failed=8.0, boot_new_s=(120.0,))
    story.state = msgspec.structs.replace(story.state, groups={**story.state.groups, G1: often})
    story.asks(80).until(300)
    assert counts(story) == (0, 1)


def test_while_somebody_waits_the_one_that_is_there_in_time_is_bought():
    slow_and_cheap, fast_and_dear = by_cost(G1), by_cost(G2)
    story = Story(groups=(slow_and_cheap, fast_and_dear), max_workers=10)
    story.perfs, story.prices, story.boots_s = {G1: 100.0, G2: 100.0}, {G1: 1.0, G2: 1.5}, {G1: 300.0, G2: 20.0}
    measured(story)
    memories = {g: msgspec.structs.replace(m, boot_new_s=(story.boots_s[g],)) for g, m in story.state.groups.items()}
    story.state = msgspec.structs.replace(story.state, groups=memories)
    story.someone_waits()
    assert (story.count(G1), story.count(G2)) == (0, 1)
    needs(story.until(60), 3).until(900)  # nobody waits for these
    assert counts(story) == (2, 1)


def test_the_worst_price_for_its_performance_goes_first():
    story = Story(groups=(by_cost(G1), by_cost(G2)), create_s=20, max_workers=20)
    story.perfs, story.prices = {G1: 100.0, G2: 100.0}, {G1: 1.0, G2: 2.0}
    measured(story)
    story.refuses.add(G1)
    needs(story, 3).until(300)
    assert counts(story) == (0, 3)
    story.refuses.clear()
    needs(story, 7).until(900)
    assert counts(story) == (4, 3)
    needs(story, 5).until(1500)
    assert counts(story) == (4, 1)
    needs(story, 2).until(2100)
    assert counts(story) == (2, 0)


def test_a_weight_in_a_tier_makes_all_of_it_go_by_weights():
    story = Story(groups=(group(G1, weight=3.0), by_cost(G2, expected_perf=100.0)), create_s=20)
    needs(story, 8).until(900)
    assert counts(story) == (6, 2)


# --- tries ---


def test_groups_nobody_has_measured_are_tried_within_bounds_and_it_ends():
    story = needs(Story(groups=(by_cost(G1), by_cost(G2), by_cost(G3)), max_workers=20), 0.5)
    story.perfs = {G1: 50.0, G2: 200.0, G3: 100.0}
    story.prices = {G1: 1.0, G2: 1.0, G3: 1.0}
    story.boots_s = dict.fromkeys((G1, G2, G3), 60.0)
    most = 0
    while story.now < T0 + 900:
        story.until(story.now - T0 + 2)
        most = max(most, len(story.workers(*HOT)))
    assert {g: m.perf for g, m in story.state.groups.items()} == {G1: 50.0, G2: 200.0, G3: 100.0}, "compare has its data"
    assert most == 2, "the one that is needed, and one try at a time"
    told = [d.sentence for d in story.decisions if "is not measured yet: one of it is tried above need" in d.sentence]
    assert ["(2 to go)" in told[0], "(1 to go)" in told[-1]] == [True, True]
    reasons = [a.reason for d in story.decisions for a in d.actions if "is not measured yet" in a.reason]
    assert len(reasons) == 3
    created = len(story.ops("create"))
    story.until(3600)
    assert len(story.ops("create")) == created == 3, "it ends by itself"
    needs(story, 3.5).until(4500)
    assert story.count(G2, WorkerState.READY) >= 1 and story.count(G1, WorkerState.READY) <= 1, "and it was worth it"


def test_a_group_alone_or_of_a_known_perf_is_not_tried():
    alone = Story(groups=(by_cost(G1), by_cost(G2, tier=1)), create_s=20, inactivity_timeout=-1).until(600)
    assert alone.count(G2) == 0
    known = Story(
        groups=(by_cost(G1, expected_perf=100.0), by_cost(G2, expected_perf=100.0)), create_s=20, inactivity_timeout=-1
    ).until(600)
    assert len(known.ops("create")) == 1


def test_a_try_above_need_that_would_be_dear_is_not_made():
    story = Story(groups=(by_cost(G1), by_cost(G2)), create_s=60)
    story.fold(observations.PriceSeen(at=story.now, group_id=G2, usd_per_hour=98.0))
    needs(story, 2).until(900)
    assert story.count(G2, *WorkerState) == 0
    assert story.count(G1) == 2
    assert story.state.groups[G1].perf > 0


def test_an_endpoint_at_rest_tries_nothing():
    story = Story(groups=(by_cost(G1), by_cost(G2))).until(1200)
    assert story.commands == []


def test_a_group_that_fails_its_tries_is_left_alone_after_three():
    story = needs(Story(groups=(by_cost(G1), by_cost(G2)), create_s=20), 0.5)
    story.fails[G2] = OOM
    story.until(3600)
    tries = [w for _, w in story.ops("create") if story.machines[w].group_id == G2]
    assert len(tries) == 3
    assert story.decisions[-1].halted == (G2,)


# --- more starts than needed ---


def often_failing(story, ok, failed):
    memory = msgspec.structs.replace(story.state.groups[G1], starts_ok=ok, starts_failed=failed, ready_seen=True)
    story.state = msgspec.structs.replace(story.state, groups={G1: memory})
    return story


def test_where_starts_often_fail_more_are_started_than_needed():
    story = often_failing(Story(create_s=60, min_load=790, max_workers=20), 8.0, 2.0).until(4)
    assert len(story.ops("create")) == 10  # 8 / (1 - 0.2)
    assert "10 starts for 8" in " ".join(d.sentence for d in story.decisions)
    story.until(40)
    assert len(story.ops("create")) == 10, "what is on its way is not bought again"
    story.until(600)
    assert story.ready == 8 and story.existing - story.cold == 8


def test_but_never_more_than_allowed_and_not_for_a_rare_failure():
    bounded = often_failing(Story(create_s=60, min_load=790, max_workers=9), 8.0, 2.0).until(4)
    assert len(bounded.ops("create")) == 9
    rare = often_failing(Story(create_s=60, min_load=790, max_workers=20), 9.6, 0.4).until(4)
    assert len(rare.ops("create")) == 8
    unsure = often_failing(Story(create_s=60, min_load=290, max_workers=20), 1.0, 1.0).until(4)
    assert len(unsure.ops("create")) == 3


def test_a_group_faster_than_the_average_is_not_bought_by_heads():
    story = needs(Story(groups=(group(G1, tier=1), group(G2, expected_perf=400.0)), create_s=20, max_workers=30), 4)
    story.perfs[G2] = 400.0
    story.refuses.add(G2)
    story.until(300)
    assert story.count(G1) >= 1
    slow = story.count(G1)
    story.refuses.clear()
    needs(story, 12)
    story.within(700, lambda s: s.count(G2) >= 1)
    assert len(story.ops("create")) and story.count(G2) * 400 + slow * 100 <= 1200 + 400


def test_why_is_told():
    story = needs(Story(groups=(group(G1, max_workers=1, name="own"),), create_s=20), 3).until(100)
    decision = story.decisions[-1]
    assert "own: its max_workers allows 1" in decision.sentence
    assert decision.why is Why.MIN_LOAD


def test_an_endpoint_without_a_group_is_decided_about_too():
    story = Story()
    story.changes(groups=()).asks(50).until(20)
    assert story.acts() == []
    assert story.decisions
