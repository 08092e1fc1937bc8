"""What cannot be destroyed is tried again, less and less often, and everybody is told that it may cost money."""

import pytest

from scaler import endings, observations
from scaler.types import Policy
from schemas.ids import WorkerId
from schemas.reasons import Cause
from schemas.records import Failure
from tests.scaler.story import G1, T0, Activity, Story

NOT_ENABLED = Failure(cause=Cause.NO_OFFER, message="provider 'nasa' is not enabled here", at=T0)


def undying() -> Story:
    """One worker that failed and is not needed any more, and whose provider refuses to end it."""
    story = Story(create_s=10, policy=Policy(reboots_per_worker=0)).asks(60).until(200)
    assert story.ready == 1
    story.undying = NOT_ENABLED
    story.asks(0).breaks(next(iter(story.machines)))
    return story


def destroys(story: Story) -> list[float]:
    """Of the one that failed, which came first."""
    return [at for at, worker_id in story.ops("destroy") if worker_id == next(iter(story.machines))]


def gaps(moments: list[float]) -> list[float]:
    return [b - a for a, b in zip(moments, moments[1:], strict=False)]


@pytest.mark.parametrize("how", ["failed", "deleted", "stopped"])
def test_a_destroy_that_dies_is_ordered_again_less_and_less_often(how):
    story = undying()
    worker = next(iter(story.state.workers))
    if how == "deleted":
        story.fold(observations.EndpointSeen(at=story.now, endpoint=None))
    elif how == "stopped":
        story.changes(state=Activity.STOPPED)
    story.until(7200)
    times = destroys(story)
    assert 10 <= len(times) <= 45, "it is not forgotten, and no storm"
    assert gaps(times)[:4] == pytest.approx([5, 10, 20, 40], abs=2.5)
    assert max(gaps(times)) == pytest.approx(300, abs=3)
    assert f"{worker} could not be destroyed (no_offer" in story.decisions[-1].sentence
    story.undying = None
    story.until(7600)
    assert story.existing == 0


def test_a_destroy_that_dies_says_nothing_about_the_template():
    story = undying()
    story.until(1500)
    assert destroys(story)
    memory = story.state.groups[G1]
    assert (memory.failed_in_row, memory.missed_in_row, memory.breaker) == (0, 0, None)
    story.asks(60).until(1530)
    assert story.ready == 1, "a new one was bought beside it, without delay"


def test_what_died_is_known_to_the_next_leader():
    from scaler import memory

    story = undying()
    story.until(1500)
    worker = story.state.workers[next(iter(story.machines))]
    kept = memory.load(memory.dump(story.state)).workers[worker.worker_id]
    assert worker.end_failures > 3
    assert (kept.end_failures, kept.end_failed_at) == (worker.end_failures, worker.end_failed_at)


def test_the_wait_is_bounded():
    from scaler.types import WorkerFact

    policy, worker = Policy(), WorkerFact(worker_id=WorkerId("w1"), group_id=G1)
    assert endings.again_at(worker, policy) == 0.0
    for _ in range(500):
        worker = endings.died(worker, T0)
        assert 0 < endings.again_at(worker, policy) - T0 <= policy.backoff_max_s
