"""The demand engine in use, on whole endpoints in virtual time: what people see of it."""

import math
import os
import time

import msgspec
import pytest
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st

from scaler import decide, memory, observations, replay, state
from scaler.types import EndpointState, Policy, WorkerFact
from schemas.ids import WorkerId
from schemas.reasons import Why
from schemas.states import WorkerState
from tests.scaler.story import T0, Story, group

ENSEMBLE = Policy(name="ensemble")


def told(**fields) -> Story:
    return Story(policy=ENSEMBLE, **fields)


def test_nobody_asks_and_nothing_is_bought():
    story = told().until(3600)
    assert story.acts() == []


def test_the_first_request_wakes_one_worker_at_once_and_says_so():
    story = told(create_s=30).asks(100).until(3)
    first = next(d for d in story.decisions if d.actions)
    assert first.at - T0 <= 2.0
    assert first.why is Why.DEMAND_WAITING
    assert "2 requests wait and no worker is ready" in first.sentence
    assert [a.op for a in first.actions] == ["create"]


@pytest.mark.parametrize("util", [0.5, 0.9])
def test_load_is_met_and_left_again(util):
    story = told(create_s=20, start_s=10, step_s=2.0, target_util=util)
    story.asks(250).until(3600)
    assert 3 <= story.ready <= 2.5 / util + 2.5
    story.asks(0).until(3600 + 5400)
    assert story.ready == 0


def test_who_went_cold_is_started_before_anybody_is_bought():
    story = told(create_s=60, start_s=10).asks(250).until(900).asks(0).until(3000)
    assert story.ready == 0 and story.cold >= 3
    created = len(story.ops("create"))
    story.asks(150).until(3600)
    assert story.ready >= 2
    assert len(story.ops("create")) == created


#: More than one: others each time.
LOADS = int(os.environ.get("CORRAL_LOADS", "1"))
SLOTS, UTILS = st.sampled_from([1, 4, 8, 20]), st.sampled_from([0.5, 0.7, 0.9, 1.0])


# Without shrinking: a day takes seconds.
@settings(max_examples=LOADS, derandomize=LOADS == 1, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.integers(1, 900), st.floats(0.3, 100), SLOTS, UTILS)
@example(1093, 10.0, 20, 0.7)  # departures that were rounded to bins made of it a load that was a fifth off, and moved
def test_constant_load_never_flaps_in_a_day(per_step, service_s, slots, util):
    load_slots = per_step / 30.0 * service_s
    assume(load_slots / slots / util < 32)  # of 40 there may be: with few to spare the backlog of the start lasts for hours
    never_flaps(with_load(load_slots, service_s, slots, util, step_s=30.0), 7200, 86_400)


@pytest.mark.parametrize(
    ("load_slots", "service_s", "slots", "util", "step_s"),
    [
        (243 / 30.0 * 46.71634123376376, 46.71634123376376, 20, 1.0, 30.0),  # whenever one was cold, help was nearer
        (16.0, 4.01, 1, 0.9, 2.0),  # departures that were rounded to bins
    ],
)
def test_loads_that_once_flapped_do_not(load_slots, service_s, slots, util, step_s):
    settled_s, watched_s = (7200, 86_400) if step_s > 2 else (3600, 5400)
    spread = {} if step_s > 2 else {"spread": math.sqrt(load_slots / slots)}
    never_flaps(with_load(load_slots, service_s, slots, util, step_s=step_s), settled_s, watched_s, **spread)


@settings(max_examples=LOADS, derandomize=LOADS == 1, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.floats(0.05, 20), st.floats(0.3, 100), st.sampled_from([4, 8, 20]), UTILS)
@example(5.585773911761573, 44.367544003630876, 1, 0.7)
def test_constant_load_of_single_requests_does_not_flap_at_the_pace_of_production(workers, service_s, slots, util):
    # Where requests are seldom each of them is a change of the load, as it is where one fills a worker.
    assume(workers * slots / service_s > 0.1)
    # So soon it cannot know that requests will go on coming like a clock.
    spread = math.sqrt(workers / slots)
    never_flaps(with_load(workers * slots, service_s, slots, util, step_s=2.0), 3600, 5400, spread)


def with_load(load_slots: float, service_s: float, slots: int, util: float, *, step_s: float) -> Story:
    """So many requests in service at a time."""
    cost = service_s * 100.0 / slots
    story = told(create_s=60, start_s=20, max_workers=40, cost=cost, slots=slots, target_util=util, step_s=step_s)
    return story.asks(load_slots / service_s * cost)


def never_flaps(story: Story, settled_s: float, end_s: float, spread: float = 0.0) -> None:
    story.until(settled_s)
    settled = story.decisions[-1].hot_wanted
    story.until(end_s)
    late = [d.hot_wanted for d in story.decisions if d.at > T0 + settled_s]
    assert late == sorted(late, reverse=True), "it may find out that fewer do, and never that more are needed after all"
    assert late[-1] >= max(1, settled - max(1, 0.1 * settled))
    workers, util = story.rate / story.perf, story.endpoint.settings.target_util
    assert min(workers - 0.3, 40) <= late[-1] <= workers / util + 1.5 + spread


def test_the_ceiling_and_the_floor_of_the_user_are_named():
    high = told(create_s=10, max_workers=2).asks(900).until(700)
    assert high.ready == 2
    assert any(d.why is Why.MAX_WORKERS and "max_workers allows 2" in d.sentence for d in high.decisions)
    low = told(create_s=10, min_load=250).until(300)
    assert low.ready == 3
    assert any(d.why is Why.MIN_LOAD for d in low.decisions)


def test_a_timeout_that_the_user_set_ends_it_and_one_not_set_leaves_it_to_the_engine():
    for timeout_s in (0.0, 30.0):
        story = told(create_s=10, inactivity_timeout=timeout_s).asks(100).until(600).asks(0).until(600 + 60 + timeout_s)
        assert story.decisions[-1].hot_wanted == 0
    never = told(create_s=10, inactivity_timeout=-1.0, step_s=10.0).asks(100).until(600).asks(0).until(12_000)
    assert never.ready == 1


def test_a_new_leader_goes_on_exactly_where_the_old_one_stopped():
    story = told(create_s=10).asks(300).until(900)
    kept = memory.load(memory.dump(story.state))
    assert kept.engine == story.state.engine
    before = decide.decide(story.state, ENSEMBLE, story.now + 2)
    heir = msgspec.structs.replace(story.state, engine=kept.engine, demand=kept.demand)
    assert decide.decide(heir, ENSEMBLE, story.now + 2) == before


def test_every_decision_comes_out_of_its_record_again():
    story = told(create_s=20).asks(200).until(300)
    for _ in range(20):
        recorded = replay.unpack(replay.pack(story.state, ENSEMBLE, story.now + 2))
        assert decide.decide(recorded.state, recorded.policy, recorded.now) == decide.decide(story.state, ENSEMBLE, story.now + 2)
        story.until(story.now - T0 + 10)


def test_the_memory_of_another_version_is_not_read_and_the_pool_is_not_shrunk_for_a_while():
    story = told(create_s=10).asks(400).until(1200)
    ready = story.ready
    story.state = msgspec.structs.replace(story.state, engine=b"of another version", engine_format="ensemble/0")
    story.asks(0).until(1200 + 300)
    assert story.ready == ready
    assert any("before this engine began" in d.sentence for d in story.decisions)


def test_a_lost_minute_of_reports_does_not_count_as_silence_of_the_clients():
    story = told(create_s=10).asks(300).until(1800)
    ready = story.ready
    story.silent = True
    story.until(1860)
    assert story.ready == ready


def test_costs_that_mean_nothing_still_get_their_workers():
    # Every request says that it costs 0: who is here counts.
    story = told(create_s=10, cost=50.0)
    report = story._report

    def worthless():
        story.arrived_units = 0.0
        report()

    story._report = worthless
    story.asks(350).until(2400)
    assert story.ready >= 4


def test_load_does_not_sink_while_nobody_serves_it():
    story = told(create_s=300, max_workers=20, slots=8).asks(500).until(60)
    asked = story.decisions[-1].hot_asked
    story.until(295)
    assert story.ready == 0
    late = [d for d in story.decisions if d.at > T0 + 60]
    loads = [read.value for d in late for read in d.inputs if read.name == "load"]
    assert min(loads) >= 30, "500 units a second, of 100 a worker, hold 40 slots of 8 each"
    assert min(d.hot_asked for d in late) >= min(asked, 5)


def test_until_a_speed_is_known_one_worker_is_enough():
    story = told(groups=(group(expected_perf=None),), create_s=120).asks(500).until(100)
    assert len(story.ops("create")) == 1
    assert all(d.engine is None for d in story.decisions)
    story.until(900)
    assert story.ready >= 5
    assert story.decisions[-1].engine is not None


def test_the_pool_of_a_quiet_endpoint_is_given_up_after_it_stopped_paying():
    story = told(create_s=10, step_s=20.0).asks(150).until(600).asks(0).until(8 * 3600)
    assert story.existing == 0
    assert any(a.why is Why.COLD_POOL for d in story.decisions for a in d.actions)


def _crowd(workers: int) -> EndpointState:
    """An endpoint in full swing with many workers."""
    story = told(create_s=10, max_workers=workers, cost=50).asks(90.0 * workers / 2).until(600)
    ready = next(w for w in story.state.workers.values() if w.state is WorkerState.READY)
    crowd: dict[WorkerId, WorkerFact] = dict(story.state.workers)
    for n in range(workers - len(crowd)):
        crowd[WorkerId(f"x{n}")] = msgspec.structs.replace(ready, worker_id=WorkerId(f"x{n}"))
    return msgspec.structs.replace(story.state, workers=crowd)


@pytest.mark.parametrize("workers", [100])
def test_a_decision_is_quick_and_what_it_remembers_is_small(workers, capsys):
    here = _crowd(workers)
    took_ms = []
    for k in range(120):
        here = state.apply(here, observations.Ticked(at=here.at + 2.0), ENSEMBLE)
        began = time.process_time()
        decision = decide.decide(here, ENSEMBLE, here.at)
        took_ms.append((time.process_time() - began) * 1000)
        here = state.apply(here, observations.DecisionTaken(at=here.at, decision=decision, recorded=k == 0), ENSEMBLE)
    took_ms.sort()
    size = len(memory.dump(here))
    with capsys.disabled():
        print(f"\ndecide, {workers} workers: p50 {took_ms[60]:.2f} ms, p99 {took_ms[-2]:.2f} ms of CPU; memory {size} bytes")
    assert size <= memory.USUAL_BYTES
    assert decision.engine is not None
