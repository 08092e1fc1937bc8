"""Policies, by example and by law."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import choose
from router.choose import Ask

POLICIES = (choose.least_expected_wait, choose.least_requests, choose.power_of_two, choose.round_robin, choose.uniform)


class Candidate(msgspec.Struct):
    name: str = "c"
    perf: float = 100.0
    slots: int = 1
    inflight: int = 0
    promised: int = 0
    there: float = 0.0
    there_at: float = 10.0
    standing: int = 0
    tie: int = 0


ASK = Ask(salt=7, mean_cost=100.0, now=10.0)

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        perf=st.floats(0.01, 1e6),
        slots=st.integers(1, 64),
        inflight=st.integers(0, 100),
        promised=st.integers(0, 100),
        there=st.floats(0, 200),
        there_at=st.floats(0, 10),
        standing=st.integers(0, 1),
        tie=st.integers(0, 2**32 - 1),
    ),
    max_size=12,
)
ASKS = st.builds(Ask, salt=st.integers(1, 2**53), mean_cost=st.floats(0.01, 1e6), now=st.just(10.0))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
@given(CANDIDATES, ASKS)
def test_a_policy_chooses_one_of_those_it_is_given_or_none_of_none(policy, candidates, ask):
    chosen = policy(candidates, ask)
    assert (chosen is None) == (not candidates)
    assert chosen is None or any(chosen is candidate for candidate in candidates)


@given(CANDIDATES, ASKS)
def test_nobody_trusted_as_well_has_a_shorter_wait_than_the_chosen(candidates, ask):
    chosen = choose.least_expected_wait(candidates, ask)
    if chosen is None:
        return
    best = min(c.standing for c in candidates)
    assert chosen.standing == best
    shortest = min(choose.expected_wait_s(c, ask.mean_cost, ask.now) for c in candidates if c.standing == best)
    assert choose.expected_wait_s(chosen, ask.mean_cost, ask.now) <= shortest * (1 + 1e-9)


def test_a_free_slot_makes_nobody_wait_and_a_full_worker_does():
    assert choose.expected_wait_s(Candidate(slots=4, there=3), 100, 10) == 0
    assert choose.expected_wait_s(Candidate(slots=4, there=4), 100, 10) == 1.0
    assert choose.expected_wait_s(Candidate(slots=4, there=6, perf=50), 100, 10) == 6.0


def test_what_was_reported_is_worked_off_while_the_report_grows_old():
    busy = Candidate(slots=2, there=4)
    assert choose.backlog(busy, 100, 10.0) == 4
    assert choose.backlog(busy, 100, 12.0) == 2
    assert choose.backlog(busy, 100, 14.0) == pytest.approx(2 * math.exp(-1))
    assert choose.backlog(busy, 100, 99.0) < 1e-9
    half = Candidate(slots=2, there=1)
    assert choose.backlog(half, 100, 12.0) == pytest.approx(math.exp(-1)), "one slot of two: half of the speed"


@given(st.floats(0, 300), st.integers(1, 64), st.floats(0, 20), st.floats(0, 20))
def test_a_backlog_shrinks_steadily_and_the_same_by_whatever_steps_it_is_looked_at(there, slots, first_s, then_s):
    worker = Candidate(perf=300.0, slots=slots, there=there, there_at=0.0)
    between = choose.backlog(worker, 100.0, first_s)
    at_last = choose.backlog(worker, 100.0, first_s + then_s)
    assert 0 <= at_last <= between <= there
    by_steps = choose.backlog(Candidate(perf=300.0, slots=slots, there=between, there_at=first_s), 100.0, first_s + then_s)
    assert by_steps == pytest.approx(at_last, abs=1e-6)


def test_of_two_idle_workers_the_faster_one():
    slow, fast = Candidate("slow", perf=10), Candidate("fast", perf=20)
    assert choose.least_expected_wait([slow, fast], ASK) is fast


def test_a_fast_worker_with_work_can_beat_a_slow_idle_one_only_while_it_has_a_slot():
    slow, fast = Candidate("slow", perf=10), Candidate("fast", perf=100, slots=8, there=3)
    assert choose.least_expected_wait([slow, fast], ASK) is fast
    fast.there = 8
    assert choose.least_expected_wait([slow, fast], ASK) is slow


def test_equal_workers_take_turns_by_the_request_and_routers_disagree_on_the_turn():
    pair = [Candidate("a", tie=1), Candidate("b", tie=2**31)]
    picks = {choose.least_expected_wait(pair, Ask(salt, 100.0, 10.0)).name for salt in range(1, 60)}
    assert picks == {"a", "b"}
