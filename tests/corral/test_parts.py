"""Budgets, retries, events and lines: pure parts, and what holds for any input."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral import retry
from corral.budget import PHASES, Budgets, Meter
from corral.sse import EventParser, LineSplitter

seconds = st.floats(min_value=0.001, max_value=1e4)


@given(st.builds(Budgets, **{f"{name}_s": st.none() | seconds for name in (*PHASES, "total")}), st.sampled_from(PHASES), seconds)
def test_no_step_may_take_longer_than_what_is_left_of_any_budget(budgets, phase, elapsed):
    meter = Meter(budgets, now=100.0)
    meter.spend("queue", elapsed)
    allowance = meter.allow(phase, now=100.0 + elapsed)
    assert 0 <= allowance.seconds
    if budgets.total_s is not None:
        assert allowance.seconds <= max(budgets.total_s - elapsed, 0) + 1e-6
    limit = getattr(budgets, f"{phase}_s")
    if limit is not None:
        assert allowance.seconds <= limit
    assert allowance.budget in {phase, "total"}
    assert (allowance.timeout_s is None) == math.isinf(allowance.seconds)


def test_the_queue_budget_adds_up_and_the_others_begin_anew():
    meter = Meter(Budgets(queue_s=10, connect_s=5, total_s=None), now=0)
    meter.spend("queue", 4)
    meter.spend("connect", 4)
    assert meter.allow("queue", 8).seconds == 6
    assert meter.allow("connect", 8).seconds == 5


def test_the_error_says_where_the_time_went():
    meter = Meter(Budgets(total_s=3), now=0)
    meter.spend("queue", 2.5)
    error = meter.exceeded("total", "w1 was asked")
    assert "total budget of 3 s" in str(error)
    assert "queue 2.5 s" in str(error)


@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_budget_that_makes_no_sense_is_refused(value):
    with pytest.raises(ValueError, match="idle_s"):
        Budgets(idle_s=value)


# --- retries ------------------------------------------------------------------------------------------------------


@given(st.integers(min_value=100, max_value=599), st.binary(max_size=200))
def test_a_body_that_is_no_refusal_of_ours_never_sends_the_request_elsewhere(status, body):
    if status not in {421, 502, 504}:
        assert retry.refusal(status, body, None) is None


@given(st.integers(min_value=0, max_value=10_000), st.integers())
def test_pauses_are_bounded_and_the_second_worker_is_asked_at_once(attempts, seed):
    policy = retry.Policy()
    pause = retry.pause_s(policy, attempts, random.Random(seed))
    assert 0 <= pause <= policy.backoff_max_s
    if attempts < 2:
        assert pause == 0


def test_a_worker_says_how_long_to_stay_away_within_reason():
    full = b'{"error": "queue_full", "msg": "full"}'
    assert retry.refusal(429, full, None).avoid_s == 1.0
    assert retry.refusal(429, full, 7.0).avoid_s == 7.0
    assert retry.refusal(429, full, 1e9).avoid_s == 60.0


def test_avoided_workers_get_another_chance():
    avoided = retry.Avoided()
    avoided.add("w1", 10, now=0)
    avoided.add("w2", 20, now=0)
    avoided.add("w2", 4, now=1)  # a shorter sentence does not shorten the longer
    assert avoided.now(5) == ("w1", "w2")
    assert avoided.next_change_s(5) == 5
    assert avoided.now(12) == ("w2",)
    assert avoided.now(20) == ()
    assert avoided.next_change_s(20) is None


def test_who_refuses_again_and_again_is_avoided_longer_each_time():
    """A lone worker whose drain was taken back, and that has not heard it: a few attempts must last for half a minute."""
    avoided, now, waits = retry.Avoided(), 0.0, []
    for _ in range(retry.Policy().max_attempts):
        avoided.add("w1", 1.0, now)
        waits.append(avoided.next_change_s(now))
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 32]
    avoided.add("w1", 1.0, now)
    assert avoided.next_change_s(now) == retry.LONGEST_AVOID_S
    avoided.add("w2", 120.0, now)
    assert avoided.next_change_s(now + 60) == 60, "what was asked for is kept"


@pytest.mark.parametrize(
    "headers,seconds_",
    [
        ({}, None),
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after-ms": "250", "Retry-After": "3"}, 0.25),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
    ],
)
def test_retry_after(headers, seconds_):
    assert retry.retry_after_s(headers) == seconds_


# --- lines and events ---------------------------------------------------------------------------------------------


def cut(data, places):
    edges = [0, *sorted({min(place, len(data)) for place in places}), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n")), max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 200)),
)
def test_lines_are_the_same_wherever_the_pieces_end(lines, end, places):
    data = "".join(line + end for line in lines).encode()
    splitter = LineSplitter()
    found = [line.decode() for piece in cut(data, places) for line in splitter.feed(piece)]
    assert found + [line.decode() for line in splitter.flush()] == lines


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff"), min_size=1), max_size=6),
    st.lists(st.integers(0, 300)),
)
def test_events_are_the_same_wherever_the_pieces_end(texts, places):
    data = "".join("".join(f"data: {line}\n" for line in text.split("\n")) + "\n" for text in texts).encode()
    parser = EventParser()
    found = [event for piece in cut(data, places) for event in parser.feed(piece)]
    assert [event.data for event in found + parser.flush()] == texts


def test_event_fields():
    parser = EventParser()
    [first, done] = parser.feed(b"\xef\xbb\xbf: hello\nid: 7\nevent: token\ndata: a\ndata:b\nfoo: bar\n\n\n\ndata: [DONE]\n\n")
    assert (first.data, first.name, first.id, first.done) == ("a\nb", "token", "7", False)
    assert done.done
    assert done.name == "message"


def test_a_server_that_forgets_the_last_blank_line_is_forgiven():
    parser = EventParser()
    assert parser.feed(b'data: {"a": 1}\n') == []
    assert [event.json() for event in parser.flush()] == [{"a": 1}]


def test_a_line_without_end_is_no_line():
    with pytest.raises(ValueError, match="a line of more than"):
        LineSplitter().feed(b"x" * (9 * 1024 * 1024))
