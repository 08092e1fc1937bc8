"""What the engine says about its own decisions: true, of more than an instant, and with the reason that really holds."""

import re

import pytest

from scaler.types import Decision, Policy
from schemas.reasons import Why
from schemas.states import WorkerState
from tests.scaler.story import T0, Activity, Story

ENSEMBLE = Policy(name="ensemble")


def settled(**fields) -> Story:
    story = Story(policy=ENSEMBLE, **{"create_s": 20, "start_s": 10, "slots": 4, "cost": 25.0, **fields})
    return story.asks(250).until(1500)


def load_of(decision: Decision) -> float:
    found = re.search(r"load of ([0-9.]+) requests at once", decision.sentence)
    assert found is not None, decision.sentence
    return float(found.group(1))


def first_buy(story: Story, since_s: float) -> Decision:
    return next(
        d for d in story.decisions if d.at > T0 + since_s and any(a.op in ("create", "start", "undrain") for a in d.actions)
    )


def test_the_mean_of_the_rules_decides_and_is_named():
    decision = settled().decisions[-1]
    assert re.search(r": [0-9]+ by the rules' mean of [0-9.]+; the best of them: ", decision.sentence), decision.sentence
    assert re.match(r"best rule: .* \(([0-9.]+%|less than 0\.1%) of the weight\)", decision.candidates[0])
    assert "(0.0%" not in decision.candidates[0]
    assert "(0%" not in decision.candidates[0]


def test_a_look_a_moment_after_another_says_the_same_load():
    story = settled()
    before = story.decisions[-1]
    story.now += 0.1
    again = story.decide()
    assert load_of(again) == pytest.approx(load_of(before), rel=0.1)
    assert load_of(before) == pytest.approx(10.0, rel=0.3)
    loads = [read.value for d in (before, again) for read in d.inputs if read.name == "load"]
    assert loads[1] == pytest.approx(loads[0], rel=0.1)
    assert f"{story.state.workers and sum(w.inflight + w.queued for w in story.state.workers.values())} here" in again.sentence


def test_one_waits_and_two_wait():
    story = Story(policy=ENSEMBLE, create_s=60).until(10).someone_waits()
    assert story.decisions[-1].sentence.startswith("1 request waits and no worker is ready; load of")
    story.someone_waits()
    assert story.decisions[-1].sentence.startswith("2 requests wait and no worker is ready; load of")


def test_load_up_is_said_of_load_that_rises():
    story = settled()
    story.asks(900).until(1600)
    bought = first_buy(story, 1500)
    assert bought.why in (Why.LOAD_UP, Why.QUEUE_TIME)
    assert load_of(bought) > 10


def test_an_endpoint_that_is_resumed_after_its_load_has_ended_says_who_asked():
    story = settled(inactivity_timeout=3600.0)
    story.changes(state=Activity.STOPPED).asks(0).until(1800)
    assert story.ready == 0
    story.changes(state=Activity.ACTIVE).until(1810)
    bought = first_buy(story, 1800)
    assert bought.why is Why.MANUAL
    assert "the endpoint was resumed and has 0" in bought.sentence
    assert not [d for d in story.decisions if d.at > T0 + 1800 and d.why is Why.LOAD_UP]


def test_a_worker_that_is_lost_under_steady_load_is_replaced_and_no_load_is_up():
    story = settled()
    lost = story.workers(WorkerState.READY)[0].worker_id
    wanted = story.decisions[-1].hot_wanted
    story.loses(lost).until(1520)
    bought = first_buy(story, 1500)
    assert bought.hot_wanted <= wanted
    assert bought.why is Why.REPLACE
    assert f"as many were wanted before, {bought.hot_before} are left" in bought.sentence
