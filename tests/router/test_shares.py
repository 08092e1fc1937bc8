"""Weights are exact: at any moment each group has got its share, within one request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.shares import Share, next_turn

WEIGHTS = st.lists(st.floats(0.001, 1000), min_size=1, max_size=8)


@given(WEIGHTS, st.integers(1, 400))
def test_each_group_is_within_one_request_of_its_share_at_any_moment(weights, turns):
    shares, got, total = [Share(weight) for weight in weights], [0] * len(weights), sum(weights)
    for n in range(1, turns + 1):
        got[next_turn(shares)] += 1
        assert all(abs(count - n * weight / total) < 1 for count, weight in zip(got, weights, strict=True))


@given(WEIGHTS, st.lists(st.sets(st.integers(0, 7), min_size=1), max_size=60))
def test_who_could_not_take_requests_for_a_while_comes_back_without_a_claim(weights, steps):
    shares = [Share(weight) for weight in weights]
    for step in steps:
        there = sorted({n % len(shares) for n in step})
        before = [share.credit for share in shares]
        next_turn([shares[n] for n in there])
        assert all(shares[n].credit == before[n] for n in range(len(shares)) if n not in there)
        assert all(abs(share.credit) < len(shares) for share in shares)


def test_ten_percent_is_every_tenth_request():
    shares = [Share(90), Share(10)]
    turns = [next_turn(shares) for _ in range(1000)]
    assert turns.count(1) == 100
    assert all(turns[n : n + 10].count(1) == 1 for n in range(0, 1000, 10))


def test_nobody_there_is_an_error():
    with pytest.raises(ValueError, match="no group"):
        next_turn([])
