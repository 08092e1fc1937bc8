"""Leaders whose clocks differ, and engines that begin anew beside a pool that is there: what was learned and what was kept stays."""

import copy
import random

import msgspec
import pytest

from scaler import decide, memory, observations, state, window
from scaler.desk import Desk
from scaler.engine import memory as minds
from scaler.engine.constants import DEFAULT
from scaler.types import EndpointState, Policy, Telemetry
from schemas.states import WorkerState
from tests.scaler.story import EP, T0, Story

ENSEMBLE = Policy(name="ensemble")
SKEWS_S = (0.0, 5.0, 20.0, 59.0, 70.0, 4000.0)


def heir(story: Story, ahead_s: float, *, away_s: float = 2.0, stored: EndpointState | None = None) -> None:
    """Another leader takes over: our clock is so far behind the one of the leader before, and nobody led for `away_s`."""
    away = story.now + away_s
    while story.now < away - 1e-9:  # traffic goes on
        story.now += story.step_s
        story._machines_move()
        story._arrive(story.rate * story.step_s)
        story._serve()
    now = story.now - ahead_s
    desk = Desk(EP, story.policy, now)
    desk.resume(stored or memory.load(memory.dump(story.state)), now)
    # The provisioner's records and the workers' own words repeat what is known of them.
    resumed = msgspec.structs.replace(desk.state, workers=story.state.workers)
    story.state = state.apply(resumed, observations.TelemetryJudged(at=now, telemetry=Telemetry.LIVE))
    story.now = now
    for machine in story.machines.values():
        machine.launched_at -= ahead_s  # by our clock


def waves() -> Story:
    """Eighteen lie cold, since bursts that come by the hour may want them again; two are hot."""
    story = Story(
        policy=ENSEMBLE, max_workers=20, cost=25.0, slots=4, create_s=240, start_s=15, inactivity_timeout=60, step_s=2.0
    )
    for hour in range(3):
        story.asks(800).until(3600 * hour + 600).asks(90).until(3600 * (hour + 1) - 1500)
    return story.until(3600 * 3 - 600)


@pytest.fixture(scope="module")
def resting() -> Story:
    story = waves()
    assert story.cold >= 15
    return story


@pytest.mark.parametrize("ahead_s", SKEWS_S)
def test_a_leader_whose_clock_was_ahead_costs_no_cold_worker(resting, ahead_s):
    story = copy.deepcopy(resting)
    cold = story.cold
    heir(story, ahead_s)
    until = story.now + 300
    while story.now < until:
        story._second()
    assert not [
        action
        for decision in story.decisions
        if decision.at > until - 301
        for action in decision.actions
        if action.op == "destroy"
    ]
    assert story.cold == cold


def test_an_engine_that_begins_anew_keeps_the_pool_that_is_there_and_lets_it_age(resting):
    story = copy.deepcopy(resting)
    cold = story.cold
    stored = memory.load(memory.dump(story.state))
    heir(story, 0.0, stored=msgspec.structs.replace(stored, engine=b"of another version"))
    begin = story.now
    while story.now < begin + 1750:
        story._second()
        assert story.cold + story.hot >= cold
    story.asks(0)
    while story.now < begin + 86_400:
        story.step_s = 60.0
        story._second()
    assert story.cold == 0, "and it is no pool for ever"


@pytest.mark.parametrize("ahead_s", SKEWS_S)
def test_a_leader_whose_clock_was_ahead_leaves_what_was_learned(ahead_s):
    story = Story(policy=ENSEMBLE, max_workers=20, cost=25.0, slots=4, create_s=60, start_s=15, chance=random.Random(2))
    story.asks(450).until(1800)
    before = minds.unpack(story.state.engine, DEFAULT)
    wanted = story.decisions[-1].hot_wanted
    heir(story, ahead_s, away_s=12.0)
    for _ in range(60):
        story._second()
    after = minds.unpack(story.state.engine, DEFAULT)
    assert before is not None and after is not None
    assert after.at_s == pytest.approx(story.now, abs=3)
    assert 1850 <= after.at_s - after.began_s <= 1960
    assert after.arrived[2] >= before.arrived[2]
    assert [d.hot_wanted for d in story.decisions[-20:]] == pytest.approx([wanted] * 20, abs=1), "what came meanwhile is no burst"
    since = [d for d in story.decisions if d.inputs and d.at > story.now - 61]
    loads = [read.value for d in since[-25:] for read in d.inputs if read.name == "load"]
    assert max(loads) < 2 * 18, "450 units a second of 25 a second and slot"


def test_all_that_was_seen_is_past_by_the_new_clock(resting):
    ahead_s = 4000.0
    now = resting.now - ahead_s
    desk = Desk(EP, ENSEMBLE, now)
    desk.resume(memory.load(memory.dump(resting.state)), now)
    demand, targets = desk.state.demand, desk.state.targets
    assert max(demand.sampled_at, demand.fresh.since_at, demand.last_activity_at, targets.hot_since_at) < now
    assert all(router.seen_at < now for router in desk.state.routers.values())
    for before, after in (
        (resting.state.targets.cold_peaks, targets.cold_peaks),
        (resting.state.demand.arrivals, demand.arrivals),
    ):
        assert after.values == before.values
        assert after.last == pytest.approx(int(now // after.bucket_s), abs=1)
        assert window.peak(after, now, 6 * 3600.0) == window.peak(before, resting.now, 6 * 3600.0)
    assert desk.state.at == now


def test_a_clock_that_was_behind_or_equal_changes_nothing(resting):
    stored = memory.load(memory.dump(resting.state))
    now = resting.now + 3.0
    desk = Desk(EP, ENSEMBLE, now)
    desk.resume(stored, now)
    assert desk.state.demand == stored.demand
    assert desk.state.targets == stored.targets
    assert desk.state.engine == stored.engine


def test_a_second_look_at_the_same_moment_forgets_nothing():
    story = Story(policy=ENSEMBLE, create_s=10).asks(300).until(900)
    again = decide.decide(story.state, ENSEMBLE, story.state.at)
    assert again.engine is not None
    mind = minds.unpack(again.engine, DEFAULT)
    assert mind is not None
    assert mind.at_s - mind.began_s > 800
    assert story.count(1, WorkerState.READY) == story.ready
    assert story.now == T0 + 900
