"""The demand engine alone: what holds for any traffic, and each of its parts by itself."""

import random
from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scaler.engine import departures, leap, load, memory, pool, rules, worth
from scaler.engine.constants import DEFAULT
from scaler.engine.memory import Memory
from scaler.engine.seen import Arrivals, Opinion, Seen
from scaler.engine.step import step

UNIX = 1_700_000_000.0


def begin(hot: int = 1, *, at_s: float = UNIX, lead_s: float = 27.3, caution_hot: int = 0, slots: int = 8) -> Memory:
    return memory.fresh(DEFAULT, at_s, hot, lead_s, slots=slots, caution_hot=caution_hot)


def seen(mind: Memory, count: float = 0.0, *, dt_s: float = 2.0, service_s: float = 8.0, **fields) -> Seen:
    arrivals = (Arrivals(count, service_s),) if count else ()
    facts = {"slots": mind.slots, "hot": mind.hot, "most": 48, "lead_s": mind.lead_s, "serving": 1 if count else 0, **fields}
    return Seen(at_s=mind.at_s + dt_s, arrivals=arrivals, **facts)


def play(mind: Memory, counts, **fields) -> tuple[list[int], Memory]:
    hots = []
    for count in counts:
        opinion, mind = step(mind, seen(mind, count, started=int(count), **fields))
        hots.append(opinion.hot)
    return hots, mind


def same(one: Memory, other: Memory) -> bool:
    return memory.pack(one, DEFAULT) == memory.pack(other, DEFAULT)


counts = st.lists(st.sampled_from([0.0, 0.0, 1.0, 3.0, 20.0, 150.0]), min_size=1, max_size=60)
law = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@law
@given(counts, st.floats(0, 100), st.floats(0, 200), st.sampled_from([0.5, 8.0, 90.0]), st.integers(0, 9))
def test_more_load_never_wants_fewer(history, count, more, service_s, waiting):
    _, mind = play(begin(), history)
    less, _ = step(mind, seen(mind, count, service_s=service_s, waiting=waiting))
    louder, _ = step(mind, seen(mind, count + more, service_s=service_s, waiting=waiting))
    longer, _ = step(mind, seen(mind, count, service_s=2 * service_s, waiting=waiting))
    fuller, _ = step(mind, seen(mind, count, service_s=service_s, waiting=waiting + 50))
    assert louder.hot >= less.hot
    assert longer.hot >= less.hot
    assert fuller.hot >= less.hot


#: Quiet, steady and busy minutes, more than ten in all: the rules are compared, and the first one and caution are past.
spans = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 6.0, 40.0, 300.0]), st.integers(20, 60)), min_size=8, max_size=10)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(spans, st.floats(0, 100), st.floats(0, 200), st.sampled_from([0.5, 8.0, 90.0]), st.integers(0, 9))
def test_more_load_never_wants_fewer_where_the_rules_decide(history, count, more, service_s, waiting):
    steps = [count for count, length in history for _ in range(length)]
    _, mind = play(begin(3, caution_hot=3), steps, dt_s=4.0, service_s=service_s)
    less, _ = step(mind, seen(mind, count, service_s=service_s, waiting=waiting))
    assert less.because not in ("prior", "caution")
    louder, _ = step(mind, seen(mind, count + more, service_s=service_s, waiting=waiting))
    longer, _ = step(mind, seen(mind, count, service_s=2 * service_s, waiting=waiting))
    fuller, _ = step(mind, seen(mind, count, service_s=service_s, waiting=waiting + 50))
    assert min(louder.hot, longer.hot, fuller.hot) >= less.hot


@law
@given(counts)
def test_equal_input_gives_equal_opinions_and_an_equal_memory_also_through_bytes(history):
    _, mind = play(begin(), history)
    back = memory.unpack(memory.pack(mind, DEFAULT), DEFAULT)
    assert back is not None
    assert same(back, mind)
    first, after = step(mind, seen(mind, 5.0))
    second, again = step(back, seen(back, 5.0))
    assert first == second
    assert same(after, again)


def test_a_step_leaves_the_memory_it_was_given_as_it_was():
    _, mind = play(begin(), [5.0] * 20)
    before = memory.pack(mind, DEFAULT)
    step(mind, seen(mind, 50.0))
    assert memory.pack(mind, DEFAULT) == before


@pytest.mark.parametrize(
    "data", [b"", b"ens", b"x" * 50_000, memory.pack(begin(), msgspec.structs.replace(DEFAULT, margins=(1.0,)))]
)
def test_bytes_of_other_rules_are_not_read(data):
    assert memory.unpack(data, DEFAULT) is None


def test_truncated_bytes_are_not_read():
    data = memory.pack(begin(), DEFAULT)
    for length in (len(data) - 1, len(data) - 1000, 40):
        assert memory.unpack(data[:length], DEFAULT) is None


@pytest.mark.parametrize("per_step, service_s", [(20.0, 8.0)])
def test_constant_load_never_flaps_in_a_day(per_step, service_s):
    _, mind = play(begin(6), [per_step] * 360, dt_s=10.0, service_s=service_s)  # an hour to settle
    hots, _ = play(mind, [per_step] * (24 * 360), dt_s=10.0, service_s=service_s)
    turns = sum(1 for k in range(2, len(hots)) if (hots[k] - hots[k - 1]) * (hots[k - 1] - hots[k - 2]) < 0)
    assert turns == 0
    assert len(set(hots)) <= 2, "it may find out once that fewer do"
    load = per_step / 10.0 * service_s / 8
    assert load <= hots[-1] <= load / 0.9 + 1.5


def test_nobody_is_woken_without_a_request():
    hots, _ = play(begin(0), [0.0] * 500)
    assert set(hots) == {0}


def test_it_goes_to_sleep_when_nobody_asks_any_more_and_keeps_somebody_where_that_paid():
    hots, mind = play(begin(0), [4.0] * 200)
    assert hots[-1] >= 2
    hots, _ = play(mind, [0.0] * 1500, dt_s=10.0)
    assert hots[-1] == 0
    # Two requests every minute, each late when it finds nobody: keeping one for a minute is cheaper.
    hots, _ = play(begin(0), ([2.0] + [0.0] * 29) * 60)
    assert set(hots[-300:]) == {1}
    # Two every hour: it is not.
    hots, _ = play(begin(0), ([2.0] + [0.0] * 359) * 8, dt_s=10.0)
    assert hots[-1] == 0


def test_who_waits_is_served_although_all_rules_sleep():
    mind = begin(0)
    opinion, _ = step(mind, seen(mind, waiting=1))
    assert (opinion.hot, opinion.because) == (1, "present")


def test_a_queue_that_outlasts_help_calls_for_one_more_until_it_is_half_gone():
    _, mind = play(begin(2), [2.0] * 200, hot=2)
    # 2 s of arrivals at 8 s each: half a worker. Now a queue that nobody's rules know of.
    busy, mind = step(mind, seen(mind, 2.0, waiting=120, hot=2))
    assert (busy.hot, busy.because) == (3, "queue")
    held, mind = step(mind, seen(mind, 2.0, waiting=70, hot=3))
    assert held.hot == 3, "one more is on its way: not another, and not one fewer"
    done, mind = step(mind, seen(mind, 2.0, waiting=10, hot=3))
    assert done.because != "queue"
    short, _ = step(mind, seen(mind, 2.0, waiting=40, hot=2))
    assert short.because != "queue", "40 of 8 s on 16 slots are gone in 20 s, help needs 27"


def test_a_pool_that_was_here_before_is_not_shrunk_at_first():
    hots, mind = play(begin(5, caution_hot=5), [0.0] * 290)
    assert set(hots) == {5}
    hots, _ = play(mind, [0.0] * 2000)
    assert hots[-1] == 0


def test_planned_use_stays_under_target_util():
    _, mind = play(begin(4), [8.0] * 400, target_util=0.5)
    opinion, _ = step(mind, seen(mind, 8.0, target_util=0.5))
    assert opinion.hot >= 8.0 / 2.0 * 8.0 / 8 / 0.5 - 0.5


@pytest.mark.parametrize(("load", "util"), [(5.1, 0.5), (7.6, 0.75), (3.0, 0.3), (9.6, 0.5)])
def test_a_low_target_util_holds_for_small_pools_too(load, util):
    """`load` slots are busy, of eight to a worker."""
    hots, _ = play(begin(), [load * 2.0 / 8.0] * 600, target_util=util)
    assert all(load / (8 * hot) <= util + 0.01 for hot in hots[300:])


def test_the_ceiling_is_the_users_and_the_wish_above_it_is_told():
    _, mind = play(begin(4), [40.0] * 200, most=4)
    opinion, mind = step(mind, seen(mind, 40.0, most=4))
    assert opinion.hot > 10
    assert mind.shadows[0].max() == 4, "shadows live under the same ceiling"


def test_before_there_is_anything_to_compare_the_common_rule_is_followed():
    mind = begin(1)
    opinion, _ = step(mind, seen(mind, 1.0))
    assert opinion.because == "prior"
    assert opinion.rule == rules.table(DEFAULT).names[rules.table(DEFAULT).prior]


def test_bursty_traffic_gets_more_room_than_smooth_traffic_of_the_same_rate():
    chance = random.Random(3)
    smooth, _ = play(begin(3), [6.0] * 1200)
    bursts = [120.0 if chance.random() < 0.05 else 0.0 for _ in range(1200)]
    bursty, _ = play(begin(3), bursts)
    assert np.mean(bursty[500:]) > 1.3 * np.mean(smooth[500:])


def test_slack_shrinks_when_real_requests_are_late_and_grows_back():
    mind = begin(2)
    for _ in range(30):
        _, mind = step(mind, seen(mind, 4.0, started=10, late=3))
    assert mind.slack < 1.0
    low = mind.slack
    for _ in range(100):
        _, mind = step(mind, seen(mind, 4.0, started=10, late=0))
    assert low < mind.slack <= DEFAULT.slack_most


def test_another_lead_keeps_the_shadows():
    _, mind = play(begin(3), [6.0] * 300)
    slow = memory.restaged(mind, 240.0)
    assert slow.lead_s == 240.0
    assert memory.restaged(mind, mind.lead_s) is mind
    assert sorted(slow.recent_targets.min(axis=0)) == sorted(mind.recent_targets.min(axis=0))
    before, _ = step(mind, seen(mind, 6.0))
    after, _ = step(slow, seen(slow, 6.0, lead_s=240.0))
    assert abs(before.hot - after.hot) <= 2


#: Of `memory`: moments, by a clock. All else lasts or counts.
MOMENTS = {"at_s", "began_s", "last_active_s", "pool_used_s", "pool_at_s"}
#: And what lies where a moment says.
PLACED = {"departures", "recent_targets", "past_levels", "stage"}


@cache
def _busy_mind() -> Memory:
    _, mind = play(begin(3), [6.0] * 300)
    pool.use(mind, 7, mind.at_s, 20, DEFAULT)
    return mind


@given(st.floats(0.1, 200_000))
def test_another_clock_moves_every_moment_and_nothing_else(by_s):
    mind = _busy_mind().copy()
    before = memory.pack(mind, DEFAULT)
    moved = leap.along(mind, -by_s)
    assert memory.pack(mind, DEFAULT) == before, "it is a copy"
    really_s = mind.at_s - moved.at_s
    assert really_s == pytest.approx(by_s)
    for name in Memory.__struct_fields__:
        was, now = getattr(mind, name), getattr(moved, name)
        if name in MOMENTS:
            assert np.all(was - now == pytest.approx(really_s, abs=1e-6)), name
        elif name not in PLACED:
            assert np.array_equal(was, now), name
    bins = int(mind.at_s // departures.BIN_S) - int(moved.at_s // departures.BIN_S)
    assert np.array_equal(np.roll(moved.departures, bins), mind.departures)
    for rows in ("recent_targets", "past_levels"):
        before_rows, after_rows = getattr(mind, rows), getattr(moved, rows)
        assert np.array_equal(before_rows[mind.stage % memory.STAGES], after_rows[moved.stage % memory.STAGES]), rows
        assert np.array_equal(before_rows[(mind.stage + 1) % memory.STAGES], after_rows[(moved.stage + 1) % memory.STAGES]), rows
    assert moved.stage == int(moved.at_s // moved.stage_s)


def test_under_another_clock_it_goes_on_as_it_would_have():
    _, mind = play(begin(3, lead_s=memory.STAGES - 0.5), [6.0] * 300)  # stages of a second, so that they begin when they did
    moved = leap.along(mind, -70.0)
    for k in range(60):
        count = 40.0 if k % 7 == 0 else 3.0
        here, mind = step(mind, seen(mind, count, started=int(count)))
        there, moved = step(moved, seen(moved, count, started=int(count)))
        assert there == here
    assert same(leap.along(mind, -70.0), moved)


def test_long_gaps_between_steps_do_no_harm():
    _, mind = play(begin(3), [6.0] * 100)
    opinion, mind = step(mind, seen(mind, 0.0, dt_s=30_000.0))
    assert isinstance(opinion, Opinion)
    hots, _ = play(mind, [6.0] * 100)
    assert hots[-1] >= 3


def test_who_was_called_for_a_queue_is_not_sent_away_because_it_is_on_its_way():
    _, mind = play(begin(hot=1, lead_s=3.0, slots=4), [1.0], service_s=4.55)
    opinion, mind = step(mind, seen(mind, 5, service_s=4.55, waiting=6, serving=4, hot=1, target_wait_s=5.0))
    assert (opinion.hot, opinion.because) == (2, "queue")
    for _ in range(3):
        opinion, mind = step(mind, seen(mind, 1, service_s=4.55, dt_s=0.5, waiting=6, serving=4, hot=2, target_wait_s=5.0))
        assert opinion.hot == 2, "without it the queue would be as long as it was"
    opinion, mind = step(mind, seen(mind, 0, dt_s=0.5, waiting=0, serving=5, hot=2, target_wait_s=5.0))
    assert mind.net_hot == 0


def test_help_that_gets_nearer_changes_no_forecast_of_a_constant_load():
    _, mind = play(begin(hot=5, lead_s=60.0), [4.0] * 600, service_s=20.0)
    nearer = memory.restaged(mind, 10.0)
    assert load.levels(mind, seen(mind, dt_s=0.0)) == pytest.approx([40.0] * 9, rel=0.03)
    assert load.levels(nearer, seen(nearer, dt_s=0.0)) == pytest.approx([40.0] * 9, rel=0.06)


def test_the_infinite_pool_holds_each_request_for_its_service():
    bins = np.zeros(departures.BINS, dtype=np.float32)
    crowd = departures.Pool(bins)
    area = crowd.pass_time(UNIX, UNIX + 2, (Arrivals(3.0, 10.0),))
    assert area == pytest.approx(3.0)  # come half way through two seconds
    for k in range(1, 10):
        area += crowd.pass_time(UNIX + 2 * k, UNIX + 2 * k + 2, ())
    assert area == pytest.approx(30.0, abs=3.0)
    assert crowd.present == 0.0
    assert float(bins.sum()) == 0.0


@given(st.floats(0.01, 900), st.floats(0.3, 40), st.integers(0, 10_000))
@example(3.99, 8.0, 0)
@example(4.01, 8.0, 0)
def test_the_load_of_requests_of_one_length_is_measured_whatever_the_length(service_s, per_step, offset_ms):
    """Little's law: who comes at a rate and stays for so long is there so many at a time."""
    crowd, begin = departures.Pool(np.zeros(departures.BINS, dtype=np.float32)), UNIX + offset_ms / 1000
    settled, steps = int(service_s / 2) + 3, 20
    areas = [crowd.pass_time(begin + 2 * k, begin + 2 * k + 2, (Arrivals(per_step, service_s),)) for k in range(settled + steps)]
    assert areas[settled:] == pytest.approx([per_step * service_s] * steps, rel=1e-3)
    end = begin + 2 * (settled + steps)
    crowd.pass_time(end, end + service_s + 4, ())
    assert crowd.present == 0.0, "and nothing of them stays for ever"


def test_who_came_in_a_long_time_is_there_as_if_it_had_been_told_step_by_step():
    """A minute of a request a second, each of 8 s: 8 at once, in one piece or in thirty."""
    once, often = (departures.Pool(np.zeros(departures.BINS, dtype=np.float32)) for _ in range(2))
    area = once.pass_time(UNIX, UNIX + 60, (Arrivals(60.0, 8.0),))
    steps = sum(often.pass_time(UNIX + 2 * k, UNIX + 2 * k + 2, (Arrivals(2.0, 8.0),)) for k in range(30))
    assert area == pytest.approx(steps, rel=0.05)
    assert once.present == pytest.approx(often.present, rel=0.3)
    assert once.present == pytest.approx(8.0, rel=0.3)


def test_who_will_still_be_there():
    crowd = departures.Pool(np.zeros(departures.BINS, dtype=np.float32))
    crowd.pass_time(UNIX, UNIX + 2, (Arrivals(3.0, 10.0), Arrivals(1.0, 100.0)))
    assert crowd.still_there(UNIX + 2, 0.0) == 4.0
    assert crowd.still_there(UNIX + 2, 20.0) == 1.0
    assert crowd.still_there(UNIX + 2, 5000.0) == 0.0


def test_costs_are_worth_what_workers_make_of_them():
    mind = begin()
    assert worth.service_s_per_unit(mind, 100.0, 8, 0.0, DEFAULT) == pytest.approx(0.08)
    for _ in range(3000):  # clients say 100, workers count 10 and need the time of 20
        worth.remember(mind, 1000.0, 100.0, 2.0, 2.0, DEFAULT)
    assert worth.service_s_per_unit(mind, 100.0, 8, 0.0, DEFAULT) == pytest.approx(0.08 * 0.2, rel=0.3)
    fast = begin()
    for _ in range(3000):  # half empty workers look faster than their benchmark; full ones are not
        worth.remember(fast, 100.0, 100.0, 0.2, 2.0, DEFAULT)
    assert worth.service_s_per_unit(fast, 100.0, 8, 0.0, DEFAULT) == pytest.approx(0.08)


def test_work_that_is_not_finished_yet_is_worth_what_it_costs():
    mind = begin()
    for _ in range(100):  # long requests, all of them still in the hands of workers
        worth.remember(mind, 1000.0, 0.0, 0.0, 2.0, DEFAULT)
    assert worth.service_s_per_unit(mind, 100.0, 8, mind.routed_units, DEFAULT) == pytest.approx(0.08)


def test_levels_that_are_used_often_are_kept_long_and_others_not():
    mind, day_s = begin(0, at_s=0.0), 86_400.0
    for day in range(4):
        for hour in range(24):
            at_s = day * day_s + hour * 3600.0
            pool.use(mind, 2, at_s, 20, DEFAULT)
            if (day, hour) == (3, 0):
                pool.use(mind, 6, at_s + 600, 20, DEFAULT)
            pool.use(mind, 0, at_s + 1200, 20, DEFAULT)
    end_s = 4 * day_s
    assert pool.total(mind, 3 * day_s + 1800, DEFAULT.storage_share, DEFAULT) == 6
    assert pool.total(mind, end_s, DEFAULT.storage_share, DEFAULT) == 2, "six were wanted once, two every hour"
    assert pool.total(mind, end_s + 12 * 3600, DEFAULT.storage_share, DEFAULT) == 2
    assert pool.total(mind, end_s + 3 * day_s, DEFAULT.storage_share, DEFAULT) == 0
    assert pool.total(mind, end_s + 12 * 3600, 1.0, DEFAULT) == 0, "storage that costs as much as work is not worth it"


def test_a_pool_of_thousands_counts_several_to_a_level():
    mind = begin(0, at_s=0.0)
    pool.use(mind, 3000, 0.0, 10_000, DEFAULT)
    assert 3000 <= pool.total(mind, 60.0, 0.05, DEFAULT) <= 3040
    pool.use(mind, 10, 120.0, 20, DEFAULT)
    assert pool.total(mind, 200.0, 0.05, DEFAULT) >= 10
