"""Workers that the cold pool's floor asks for become ready before they can be stopped. They are no reason to let others go."""

import pytest

from scaler.types import Policy
from schemas.states import WorkerState
from tests.scaler.story import Story

ENGINES = ("ensemble", "reactive")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_floor_that_is_raised_does_not_cost_who_serves(engine):
    story = Story(policy=Policy(name=engine), create_s=120, inactivity_timeout=-1, max_workers=10).asks(80).until(300)
    serving = story.workers(WorkerState.READY)[0].worker_id
    needed = story.ready
    story.sets(cold_workers=5)
    least = needed
    while story.now < story.decisions[0].at + 700:
        story._second()
        least = min(least, story.ready)
    assert least >= 1 and story.waiting == 0
    assert story.ready + story.cold == 5
    assert serving in story.state.workers


@pytest.mark.parametrize("engine", ENGINES)
def test_a_new_endpoint_with_a_floor_serves_with_its_first_worker(engine):
    story = Story(policy=Policy(name=engine), max_workers=20, cold_mult=3.0, cold_workers=5)
    boots = iter(range(60, 600, 30))
    carry_out = story._carry_out

    def slower_and_slower(action):
        carry_out(action)
        if action.op == "create" and action.worker_id in story.machines:
            story.machines[action.worker_id].boot_s = next(boots)

    story._carry_out = slower_and_slower
    story.asks(80)
    first_s = story.within(90, lambda s: s.ready == 1)
    story.until(first_s + 2)
    while story.cold < 4:
        story._second()
        assert story.ready >= 1, story.decisions[-1].sentence
    assert story.waiting == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", [{"cold_mult": 0.5}, {"cold_mult": 0.0}, {"cold_mult": 0.9, "min_cold_load": 0.0}])
def test_a_cold_mult_below_one_keeps_none_cold(engine, settings):
    story = Story(policy=Policy(name=engine), create_s=20, max_workers=20, inactivity_timeout=30, **settings)
    story.asks(450).until(900)
    assert story.ready >= 5
    assert all(decision.cold_wanted == 0 for decision in story.decisions)
    story.asks(100).until(1500).asks(0).until(2400)
    assert all(decision.cold_wanted == 0 for decision in story.decisions)
    assert story.existing == 0, "whoever is not needed hot is destroyed, and none is stopped first"
    assert story.cold == 0


def test_who_lies_cold_when_it_is_set_is_given_up():
    story = Story(policy=Policy(name="ensemble"), create_s=20, max_workers=20, inactivity_timeout=30)
    story.asks(450).until(600).asks(0).until(1500)
    assert story.cold >= 5
    story.sets(cold_mult=0.5).until(1500 + 1000)  # nobody is destroyed who went cold a moment ago
    assert story.cold == 0


def test_a_cold_mult_below_one_leaves_the_floors_that_are_named():
    story = Story(
        policy=Policy(name="ensemble"), create_s=20, max_workers=20, inactivity_timeout=30, cold_mult=0.5, cold_workers=2
    )
    story.asks(450).until(900).asks(0).until(2400)
    assert (story.ready, story.cold) == (0, 2)
    story.sets(cold_workers=None, min_cold_load=150.0).until(3000)
    assert (story.ready, story.cold) == (0, 2)


def test_while_a_router_is_lost_the_cold_ones_stay_whatever_is_set():
    story = Story(policy=Policy(name="ensemble"), create_s=20, max_workers=20)
    story.asks(800).until(900).asks(100).until(3000)
    cold = story.cold
    assert cold >= 3
    story._report = lambda: None
    story.until(3020).sets(cold_mult=0.5).until(3100)
    assert story.cold >= cold
