"""A router that is cut off goes on routing; we see nothing of what comes to it. No data is not zero."""

import msgspec
import pytest

from scaler import hearing, observations, state
from scaler.types import Policy, Telemetry
from schemas.reasons import Why
from schemas.signals import DemandReport
from tests.scaler.story import EP, T0, Story

ENGINES = ("ensemble", "reactive")
POLICY = Policy()


def cut_off(story: Story, for_s: float) -> list[int]:
    """What was wanted while no report came, under the same traffic."""
    begin, report = story.now, story._report
    story._report = lambda: None
    story.until(begin - T0 + for_s)
    story._report = report
    return [decision.hot_wanted for decision in story.decisions if decision.at > begin]


def busy(engine: str) -> Story:
    return Story(policy=Policy(name=engine), max_workers=12).asks(450).until(1500)


def bought(story: Story) -> int:
    return len(story.ops("create")) + len(story.ops("start"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gap_s", [30, 600])
def test_a_router_that_is_cut_off_does_not_look_like_clients_that_left(engine, gap_s):
    story = busy(engine)
    wanted = cut_off(story, gap_s)
    assert min(wanted) >= 5, "450 units a second are the work of four and a half"
    before, back_at = bought(story), story.now
    story.until(back_at - T0 + 600)
    assert bought(story) - before <= 1, "what came meanwhile is no burst"
    assert min(decision.hot_wanted for decision in story.decisions if decision.at > back_at) >= 5
    assert story.waiting == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_for_two_minutes_nobody_is_let_go_and_then_who_has_no_work_is(engine):
    """The router has died, and its clients with it."""
    story = busy(engine)
    ready, died_at = story.ready, story.now - T0
    story._report = lambda: None
    story.asks(0).until(died_at + 120)
    assert story.ready == ready
    assert "router r1 fell silent" in story.decisions[-1].sentence
    assert story.decisions[-1].why in (Why.NO_DATA, Why.STEADY)
    story.until(died_at + 900)
    assert story.ready < ready


def test_the_record_says_that_there_is_no_data():
    story = busy("ensemble")
    cut_off(story, 60)
    inputs = {read.name: read for read in story.decisions[-1].inputs}
    assert inputs["arrivals"].value is None
    assert inputs["silent_routers"].value == 1
    assert 55 < inputs["silent_routers"].age_s < 65
    assert inputs["load"].value == pytest.approx(90, rel=0.2), "what workers have in hand"


def test_a_router_that_takes_its_leave_is_not_missed():
    story = busy("ensemble")
    report = story._report
    fold = story.fold

    def leaves(observation):
        if isinstance(observation, observations.DemandSeen):
            observation = msgspec.structs.replace(observation, report=msgspec.structs.replace(observation.report, leaving=True))
        fold(observation)

    story.fold = leaves
    report()
    story.fold = fold
    assert story.state.routers["r1"].quiet
    assert not hearing.lost(story.state, story.policy, story.now + 60)


def heard(here, at, seq, arrivals, **fields):
    report = DemandReport(router="r", endpoint_id=EP, boot="b", seq=seq, sent_at=at, arrivals_total=arrivals, **fields)
    return state.apply(here, observations.DemandSeen(at=at, report=report), POLICY)


def test_who_repeats_old_news_may_fall_silent():
    here = state.apply(state.initial(EP, T0), observations.TelemetryJudged(at=T0, telemetry=Telemetry.LIVE), POLICY)
    here = heard(here, T0 + 1, 1, 10, last_arrival_at=T0 + 0.9)
    assert hearing.lost(here, POLICY, T0 + 7) == ["r"], "it never said that this was all"
    assert not hearing.lost(here, POLICY, T0 + 5)
    for seq in range(2, 6):
        here = heard(here, T0 + seq, seq, 10, last_arrival_at=T0 + 0.9)
    assert not hearing.lost(here, POLICY, T0 + 60)
    waits = heard(here, T0 + 9, 9, 10, last_arrival_at=T0 + 0.9, waiting=1)
    assert hearing.lost(waits, POLICY, T0 + 15) == ["r"]
    assert not hearing.lost(waits, POLICY, T0 + 9 + POLICY.router_gone_s + 1), "nobody waits for ever"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("quiet_s", [3, 30])
@pytest.mark.parametrize("late_s", [1, 4])
def test_traffic_that_begins_while_nobody_leads_is_no_burst(engine, quiet_s, late_s):
    """The router was quiet, so nobody missed it; then the leader died, and its clients came back before the next one led. What it counts
    in its first report came over all that time.
    """
    story = Story(policy=Policy(name=engine), slots=4, cost=16.0, create_s=10, max_workers=40, inactivity_timeout=-1)
    story.asks(250).until(700)
    report, news_at = story._report, [story.now]

    def tells_its_news():
        """As routers do: five seconds long."""
        news_at[0] = story.now if story.rate > 0 else news_at[0]
        if story.now - news_at[0] <= 5:
            report()

    story._report = tells_its_news
    story.asks(0).until(700 + quiet_s)
    hot = story.decisions[-1].hot_wanted
    decide, story.decide, story.silent = story.decide, lambda: None, True
    story.asks(250).until(748 + quiet_s)
    story.decide, story.silent = decide, False
    story.telemetry(Telemetry.WARMING)
    story.telemetry(Telemetry.LIVE)
    story._report = lambda: None
    begin = story.now
    story.until(begin - T0 + late_s)
    story._report = tells_its_news
    story.until(begin - T0 + 60)
    wanted = [decision.hot_wanted for decision in story.decisions if decision.at > begin]
    assert max(wanted) <= max(hot, 3) + 1, "250 units a second are the work of two and a half"
    assert story.ready >= 3 and story.waiting == 0


def test_what_comes_long_after_a_new_leader_began_came_just_now():
    """Its silence was heard, and there was none to hear of before."""
    story = Story(policy=Policy(name="ensemble"), create_s=10).asks(90).until(600).asks(0).until(700)
    report, story._report = story._report, lambda: None
    story.until(710)
    story.telemetry(Telemetry.WARMING)
    story.telemetry(Telemetry.LIVE)
    story.until(1000)
    before = story.state.demand
    for _ in range(10):
        story._arrive(story.cost)
    report()
    demand = story.state.demand
    assert demand.fresh.arrivals - before.fresh.arrivals == 10
    assert demand.arrivals.values[-1] == pytest.approx(10), "in the newest bucket, all of them"
