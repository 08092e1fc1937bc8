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
