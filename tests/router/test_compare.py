"""Groups side by side: sums by time, and what is made of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.compare import compare, quantile
from router.demand import WAIT_BOUNDS_S
from router.grouplog import STARTS_PER_GROUP, GroupLog, Start
from router.tallies import MINUTE_S, MINUTES, QUARTER_S, Tally
from schemas import codec, events
from schemas.ids import GroupId
from schemas.reasons import Cause, Phase
from schemas.records import Failure
from schemas.states import WorkerState
from tests.router.fleets import EP, Board, endpoint, pulse

NO_STARTS = lambda _group, _since: []  # noqa: E731


def rows(board, over_s=3600.0, starts=NO_STARTS):
    found = compare(
        board.the, since=board.now - over_s, now=board.now, wall=1e9 + board.now, router="r1", halts=board.halts, starts=starts
    )
    assert (found.router, found.endpoint) == ("r1", "ep")
    return found.groups


# --- sums by time ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    gaps=st.lists(st.sampled_from([0.0, 1.0, 30.0, 59.0, 61.0, 700.0, 900.0, 3601.0, 9000.0]), min_size=1, max_size=40),
    back_s=st.sampled_from([30.0, 600.0, 3600.0, 4000.0, 20_000.0, 86_400.0]),
)
def test_what_is_asked_for_is_what_was_counted_since_then(gaps, back_s):
    tally, now, told = Tally(1000.0), 1000.0, []
    for gap in gaps:
        now += gap
        tally.now(now).served += 1
        told.append(now)
    sums, begin = tally.over(now - back_s, now)
    bucket_s = MINUTE_S if back_s <= MINUTES * MINUTE_S else QUARTER_S
    assert begin == max(1000.0, (now - back_s) // bucket_s * bucket_s)
    assert sums.served == sum(at >= begin for at in told)


def test_a_tally_is_bounded():
    tally = Tally(0.0)
    for minute in range(5000):
        tally.placed(0.1, minute * 60.0, again=False)
    sums, begin = tally.over(-math.inf, 5000 * 60.0)
    assert 86_400 - 900 <= sums.routed * 60 <= 86_400 + 2 * 900
    assert 5000 * 60.0 - begin <= 86_400 + 900


def test_heartbeats_are_counted_by_differences_over_restarts_and_losses():
    tally = Tally(0.0)
    first = pulse(1, boot="a", served_total=100, served_units_total=900.0, requests_total=120)
    later = pulse(
        1, boot="a", served_total=103, served_units_total=930.0, requests_total=124, failed_total=1, service_s_total=1.5
    )
    anew = pulse(1, boot="b", served_total=2, served_units_total=20.0, requests_total=2)
    tally.heard(None, first, 1.0)  # what it did before anybody listened is nobody's
    assert tally.over(0.0, 1.0)[0].served == 0
    tally.heard(first, later, 2.0)
    tally.heard(later, anew, 3.0)
    sums, _ = tally.over(0.0, 3.0)
    assert (sums.served, sums.served_units, sums.requests, sums.failed, sums.service_s) == (5, 50.0, 6, 1, 1.5)


@given(st.lists(st.floats(0, 400), max_size=50), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_value_it_stands_for(waits, q):
    tally = Tally(0.0)
    for wait in waits:
        tally.placed(wait, 0.0, again=False)
    found = quantile(tally.over(0.0, 0.0)[0].waits, q)
    if not waits:
        assert found is None
        return
    exact = sorted(waits)[max(0, math.ceil(q * len(waits)) - 1)]
    upper = next((bound for bound in WAIT_BOUNDS_S if exact <= bound), WAIT_BOUNDS_S[-1])
    lower = max((bound for bound in WAIT_BOUNDS_S if bound < exact), default=0.0)
    assert min(lower, WAIT_BOUNDS_S[-1]) <= found <= upper


# --- side by side ---------------------------------------------------------------------------------------------------


def test_two_groups_of_different_hardware():
    board = Board({"name": "fast", "weight": 3.0}, {"name": "slow", "weight": 1.0})
    board.add(1, group=1, perf=400.0, slots=8, usd_per_hour=2.0)
    board.add(2, group=2, perf=100.0, slots=8, usd_per_hour=0.4, storage_usd_per_hour=0.1)
    for n in (1, 2):
        board.beat(n, perf=0.0, slots=8)
    for _ in range(8):
        board.ask(cost=50)
    board.later(1800)
    board.beat(1, slots=8, perf=400.0, requests_total=6, served_total=6, served_units_total=300.0, service_s_total=0.75)
    board.beat(
        2, slots=8, perf=100.0, requests_total=2, served_total=1, failed_total=1, served_units_total=50.0, service_s_total=0.5,
        queue_s_total=0.2,
    )  # fmt: skip
    fast, slow = rows(board)
    assert (fast.name, fast.ready, fast.perf, fast.usd_per_hour) == ("fast", 1, 400.0, 2.0)
    assert (fast.routed, slow.routed) == (6, 2)
    assert (fast.traffic_share, slow.traffic_share) == (0.75, 0.25)
    assert (fast.weight_share, slow.weight_share) == (0.75, 0.25)
    assert (fast.error_ratio, slow.error_ratio) == (0.0, 0.5)
    assert (fast.service_mean_s, slow.service_mean_s) == (0.125, 0.5)
    assert (fast.queue_mean_s, slow.queue_mean_s) == (0.0, 0.1)
    assert (fast.wait_mean_s, fast.wait_p95_s) == (0.0, pytest.approx(0.001, abs=0.001))
    assert fast.hot_worker_s == pytest.approx(1800)
    assert fast.cost_usd == pytest.approx(1.0)
    assert slow.storage_usd == pytest.approx(0.05)
    assert fast.usd_per_million_units == pytest.approx(1.0 / 300 * 1e6)
    assert slow.usd_per_million_units == pytest.approx(0.25 / 50 * 1e6)
    assert fast.usd_per_million_units_at_best == pytest.approx(2.0 / 3600 / 400 * 1e6)


def test_only_what_runs_costs_the_hot_price_and_all_that_exists_costs_storage():
    board = Board()
    states = [WorkerState.CREATING, WorkerState.LOADING, WorkerState.READY, WorkerState.STOPPED, WorkerState.DESTROYING]
    for state in states:
        board.add(1, state=state, usd_per_hour=3600.0, storage_usd_per_hour=36.0)
        board.later(10)
    (row,) = rows(board)
    assert row.cost_usd == pytest.approx(3600.0 / 3600 * 20)
    assert row.storage_usd == pytest.approx(36.0 / 3600 * 40)
    board.worker_gone(EP, "w1")
    board.later(1000)
    assert rows(board)[0].cost_usd == pytest.approx(20)


def test_where_nothing_was_measured_nothing_is_said():
    (row,) = rows(Board())
    assert (row.perf, row.usd_per_hour, row.error_ratio, row.usd_per_million_units, row.wait_p50_s) == (None,) * 5
    assert (row.traffic_share, row.weight_share, row.boot_max_s, row.starts_failed) == (None, 1.0, None, 0)


def test_shares_are_those_within_a_tier():
    board = Board({"tier": 0}, {"tier": 1, "weight": 5.0})
    assert [row.weight_share for row in rows(board)] == [1.0, 1.0]


def test_weights_that_changed_within_the_time_are_told_with_the_moment():
    board = Board({"weight": 1.0}, {"weight": 1.0}, {"tier": 1})
    for n in (1, 2, 3):
        board.add(n, group=n)
        board.beat(n)
    for _ in range(2):
        board.later(600)
    assert [row.weights_changed_at for row in rows(board)] == [None] * 3
    board.endpoint(endpoint({"weight": 5.0}, {"weight": 5.0}, {"tier": 1}), board.now)
    board.endpoint(endpoint({"weight": 5.0}, {"weight": 5.0}, {"tier": 1, "weight": 9.0}), board.now)
    assert [row.weights_changed_at for row in rows(board)] == [None] * 3, "the shares are the same"
    board.endpoint(endpoint({"weight": 4.0}, {"weight": 1.0}, {"tier": 1}), board.now)
    board.later(600)
    changed_at = 1e9 + board.now - 600
    assert [row.weights_changed_at for row in rows(board)] == [changed_at, changed_at, None]
    assert [row.weights_changed_at for row in rows(board, over_s=300)] == [None] * 3, "it was before"
    board.endpoint(endpoint({"weight": 4.0}, {"weight": 1.0}, {"tier": 1}, {"tier": 1}), board.now)
    board.later(60)
    assert [row.weights_changed_at for row in rows(board)] == [changed_at, changed_at, *[1e9 + board.now - 60] * 2]


def test_a_group_that_was_deleted_is_forgotten():
    board = Board({}, {})
    board.add(1, group=2)
    board.ask()
    assert set(board.the.fleet.tallies) == {2}
    board.endpoint(endpoint({}), board.now)
    assert set(board.the.fleet.tallies) == set()


# --- starts ---------------------------------------------------------------------------------------------------------


def event(kind, number, at, group=1, **fields):
    return codec.encode(kind(id=f"e{number}", at=at, endpoint_id=EP, group_id=GroupId(group), **fields))


def test_starts_are_told_by_their_events_each_once():
    log = GroupLog(None, 0.0)
    oom = Failure(cause=Cause.MODEL_OOM, phase=Phase.MODEL)
    told = [
        event(events.WorkerReady, 1, 10.0, worker_id="w1", url="", perf=1.0, cold_start_s=40.0),
        event(events.WorkerReady, 2, 20.0, worker_id="w1", url="", perf=1.0, cold_start_s=8.0, from_cold=True),
        event(events.WorkerFailed, 3, 30.0, worker_id="w2", failure=oom),
        event(events.WorkerFailed, 4, 40.0, worker_id="w1", failure=Failure(cause=Cause.START_CRASH), phase=Phase.SERVE),
        event(events.CommandDead, 5, 50.0, command_id="c", op="create", failure=Failure(cause=Cause.NO_OFFER)),
        event(events.CommandDead, 6, 60.0, command_id="c", op="destroy", failure=Failure(cause=Cause.RENT_FAILED)),
        b"{",
        b'{"kind": "worker_ready"}',
        b'{"kind": "of_the_future"}',
    ]
    for seq, data in enumerate(told * 2):
        log.add("", data, seq)
    assert log.starts(GroupId(1), 0.0) == [
        Start(10.0, 40.0),
        Start(20.0, 8.0, from_cold=True),
        Start(30.0, failed=Cause.MODEL_OOM),
        Start(50.0, failed=Cause.NO_OFFER),
    ]
    (row,) = rows(Board(), starts=log.starts, over_s=1e9 + 100)
    assert (row.starts_ok, row.starts_failed, row.failures) == (2, 2, {"model_oom": 1, "no_offer": 1})
    assert (row.boot_new_p50_s, row.boot_cold_p50_s, row.boot_max_s) == (40.0, 8.0, 40.0)
    assert log.starts(GroupId(1), 25.0)[0].failed is Cause.MODEL_OOM


def test_starts_are_forgotten_after_a_day_and_bounded():
    log = GroupLog(None, 0.0)
    for number in range(STARTS_PER_GROUP + 50):
        log.add("", event(events.WorkerReady, number, float(number), worker_id="w1", url="", perf=1.0, cold_start_s=1.0), number)
    assert len(log.starts(GroupId(1), 0.0)) == STARTS_PER_GROUP
    log.add("", event(events.WorkerReady, "late", 2e5, worker_id="w1", url="", perf=1.0, cold_start_s=1.0), 0)
    assert [start.at for start in log.starts(GroupId(1), 0.0)] == [2e5]
