"""A client may say of a request whatever it likes. One absurd cost must not decide for hours how many workers there are."""

import copy
import random

import msgspec
import pytest

from scaler import belief, observations
from scaler.engine import memory, worth
from scaler.engine.constants import DEFAULT
from scaler.engine.departures import LONGEST_S
from scaler.engine.seen import Seen
from scaler.engine.step import step
from scaler.types import Fresh, Policy
from schemas import sizes
from tests.scaler.story import T0, Story

RATE = 450.0


class Market(Story):
    """Its routers tell the sizes of requests and how many got a worker; some requests cost what they say only to the client."""

    def __init__(self, **fields):
        super().__init__(policy=Policy(name="ensemble"), max_workers=20, cost=25.0, slots=4, chance=random.Random(3), **fields)
        self.said: list[float] = []  # absurd costs
        self.held = 0.0  # of these, units that have no worker yet
        self.in_hand: dict[str, float] = {}  # and what workers say they have of them
        self.finished: dict[str, float] = {}  # and have served

    def says(self, units: float) -> None:
        self.said.append(units)
        self.arrivals += 1
        self.arrived_units += units

    def fold(self, observation):
        if isinstance(observation, observations.DemandSeen):
            report = observation.report
            told = {sizes.class_of(self.cost): report.arrivals_total - len(self.said)}
            for units in self.said:
                told[sizes.class_of(units)] = told.get(sizes.class_of(units), 0) + 1
            waiting = report.waiting + (1 if self.held else 0)
            report = msgspec.structs.replace(
                report,
                sizes=told,
                routed_total=report.arrivals_total - waiting,
                routed_units_total=report.routed_units_total - self.held,
                waiting=waiting,
                waiting_units=report.waiting_units + self.held,
            )
            observation = msgspec.structs.replace(observation, report=report)
        elif isinstance(observation, observations.HeartbeatSeen):
            beat = observation.heartbeat
            beat = msgspec.structs.replace(
                beat,
                load=beat.load + self.in_hand.get(beat.worker_id, 0.0),
                served_units_total=beat.served_units_total + self.finished.get(beat.worker_id, 0.0),
            )
            observation = msgspec.structs.replace(observation, heartbeat=beat)
        super().fold(observation)

    @property
    def backlog_s(self) -> float:
        return (sum(machine.backlog for machine in self.machines.values()) + self.waiting) / RATE


@pytest.fixture(scope="module")
def hour() -> Market:
    """One of ordinary traffic."""
    story = Market(create_s=60, start_s=15, inactivity_timeout=600)
    story.asks(RATE).until(3600)
    return story


@pytest.fixture
def story(hour) -> Market:
    return copy.deepcopy(hour)


def holds(story: Market, for_s: float = 1500) -> None:
    """Five are enough for four and a half, and six while it was not yet clear."""
    begin, worst, wanted = story.now, 0.0, []
    while story.now < begin + for_s:
        story._second()
        worst = max(worst, story.backlog_s)
        if story.now > begin + 300:
            wanted.append(story.decisions[-1].hot_wanted)
    assert worst < 5.0
    assert 5 <= min(wanted) <= max(wanted) <= 7


@pytest.mark.parametrize("units", [1e6, 1e12])
def test_a_cost_that_no_worker_ever_finds_is_forgotten_within_minutes(story, units):
    story.says(units)
    holds(story)


def test_nor_does_it_matter_when_it_had_to_wait_for_its_worker(story):
    story.says(1e12)
    story.held = 1e12
    story.until(story.now - T0 + 20)
    story.held = 0.0
    holds(story)


def test_nor_when_a_worker_believes_it(story):
    story.says(1e12)
    worker = next(iter(story.machines))
    story.in_hand[worker] = 1e12
    holds(story, 600)
    story.in_hand.clear()
    story.finished[worker] = 1e12
    holds(story, 900)


def test_a_memory_in_which_costs_are_worth_nothing_does_not_leave_clients_waiting(story):
    """Whatever made it so: that requests really wait is seen all the same."""
    mind = memory.unpack(story.state.engine, DEFAULT)
    assert mind is not None
    mind.routed_units = 1e12
    story.state = msgspec.structs.replace(story.state, engine=memory.pack(mind, DEFAULT))
    worst = 0.0
    while story.now < T0 + 3600 + 1800:
        story._second()
        worst = max(worst, story.backlog_s)
    assert worst < 60.0


# --- the bounds -------------------------------------------------------------------------------------------------------


def mind_of(usual_s: float, requests: float) -> memory.Memory:
    mind = memory.fresh(DEFAULT, T0, 1, 30.0, slots=4)
    mind.service_mean_s = usual_s
    mind.arrived[0] = requests
    return mind


def fresh(counts: dict[float, int], *, routed: float | None = None, ended: int | None = None) -> Fresh:
    """So many requests of each cost."""
    units, arrivals = sum(cost * count for cost, count in counts.items()), sum(counts.values())
    return Fresh(
        sizes={sizes.class_of(cost): count for cost, count in counts.items()},
        arrivals=arrivals,
        units=units,
        routed_units=units if routed is None else routed,
        ended=arrivals if ended is None else ended,
    )


PER_UNIT_S = 4 / 100.0


@pytest.mark.parametrize("counts", [{25.0: 40}, {25.0: 40, 25_000.0: 3}, {1.0: 500, 90_000.0: 1}, {90_000.0: 8}])
def test_what_real_traffic_may_be_is_believed_to_the_last_unit(counts):
    usual_s = sum(cost * count for cost, count in counts.items()) / sum(counts.values()) * PER_UNIT_S
    believed, told = belief.of(mind_of(usual_s, 5000.0), 100.0, 4), fresh(counts)
    assert believed.routed(told, PER_UNIT_S) == told.routed_units
    assert sum(a.count * a.service_s for a in believed.arrivals(told, PER_UNIT_S)) == pytest.approx(told.units * PER_UNIT_S)
    assert believed.served(told.units, 5, 2.0) == told.units
    assert believed.in_hand(told.units, sum(counts.values())) == told.units


@pytest.mark.parametrize("usual_s, requests", [(1.0, 40_000.0), (1.0, 100.0), (300.0, 40.0), (0.01, 1e6), (0.0, 0.0)])
def test_one_request_weighs_no_more_than_a_quarter_of_what_is_remembered_or_than_the_engine_looks_ahead(usual_s, requests):
    believed = belief.of(mind_of(usual_s, requests), 100.0, 4)
    assert believed.longest_s <= max(LONGEST_S, usual_s * max(10.0, requests / 4))
    bad = fresh({1e12: 1})
    (group,) = believed.arrivals(bad, PER_UNIT_S)
    assert group.service_s == believed.longest_s
    assert believed.routed(bad, PER_UNIT_S) <= 2 * believed.longest_s / PER_UNIT_S
    without_sizes = msgspec.structs.replace(fresh({25.0: 40, 1e12: 1}), sizes={})
    (group,) = believed.arrivals(without_sizes, PER_UNIT_S)
    assert group.service_s <= (believed.longest_s if not usual_s else believed.longest_s / 41 + usual_s)


def test_many_that_waited_are_believed_when_they_get_their_workers():
    believed = belief.of(mind_of(1.0, 100.0), 100.0, 4)
    told = fresh({25.0: 2}, routed=25.0 * 80, ended=80)
    assert believed.routed(told, PER_UNIT_S) == told.routed_units


def test_one_absurd_cost_moves_what_costs_are_worth_by_little():
    mind = mind_of(1.0, 47_000.0)
    mind.routed_units = mind.served_units = 47_000 * 25.0
    mind.busy_s = 11_750.0
    before = worth.service_s_per_unit(mind, 100.0, 4, 0.0, DEFAULT)
    believed = belief.of(mind, 100.0, 4)
    worth.remember(mind, believed.routed(fresh({25.0: 36, 1e12: 1}), before), 900.0, 9.0, 2.0, DEFAULT)
    assert worth.service_s_per_unit(mind, 100.0, 4, 0.0, DEFAULT) == pytest.approx(before, rel=0.06)


# --- the net ----------------------------------------------------------------------------------------------------------


def look(mind: memory.Memory, **facts) -> Seen:
    """Nobody is thought to wait for long: requests take no time."""
    here = {"waiting": 9, "serving": 20, "hot": 5, "slots": 4, "most": 20, "lead_s": 30.0, "settled_s": 500.0, **facts}
    return Seen(at_s=mind.at_s + 2.0, **here)


def wish(mind: memory.Memory, **facts) -> tuple[int, str]:
    opinion, _ = step(mind, look(mind, **facts))
    return opinion.hot, opinion.because


def test_who_has_really_waited_too_long_gets_help_whatever_requests_are_thought_to_take():
    mind = memory.fresh(DEFAULT, T0, 2, 30.0, slots=4)
    mind.service_mean_s = 0.001
    assert wish(mind, oldest_s=31.0) == (6, "queue")
    assert wish(mind, oldest_s=29.0)[1] != "queue", "help could not be there before"
    assert wish(mind, oldest_s=31.0, settled_s=29.0)[1] != "queue", "help has just come: it has its time"
    assert wish(mind, oldest_s=31.0, serving=19)[1] != "queue", "there is room, or help is on its way"
    assert wish(mind, oldest_s=31.0, waiting=0)[1] != "queue"
    assert wish(mind)[1] != "queue", "nobody tells how long anybody waits"


def test_help_that_was_called_is_kept_while_it_comes_and_until_nobody_waits_long():
    mind = memory.fresh(DEFAULT, T0, 2, 30.0, slots=4)
    mind.service_mean_s = 0.001
    _, mind = step(mind, look(mind, oldest_s=31.0))
    coming, mind = step(mind, look(mind, oldest_s=40.0, hot=6))
    assert (coming.hot, coming.because) == (6, "queue")
    there, mind = step(mind, look(mind, oldest_s=35.0, hot=6, serving=24, settled_s=2.0))
    assert (there.hot, there.because) == (6, "queue")
    _, mind = step(mind, look(mind, oldest_s=10.0, hot=6, serving=24, settled_s=40.0))
    assert mind.net_hot == 0
