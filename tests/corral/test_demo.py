"""The demo tells the truth: what counts as shown, and what as failed."""

import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from corral.demo import closing
from corral.demo.record import Asked, Decision, Phase, Record, Seen, percentile, summarise


def asked(**more):
    values = {"phase": "burst", "at_s": 1, "wait_s": 2, "total_s": 3, "tokens": 10, "worker_id": "w1"}
    return Asked(**(values | more))


def good():
    record = Record()
    record.asked = [asked(cold_start=True, wait_s=9), asked(), asked(worker_id="w2")]
    for at_s, held in enumerate(
        [{}, {"w1": "loading"}, {"w1": "ready", "w2": "ready"}, {"w1": "draining"}, {"w1": "stopped", "w2": "stopped"}]
    ):
        record.see(Seen(at_s=at_s, states=held))
    record.decisions = [
        Decision(at_s=1, actions=("create w1",), why="demand_waiting", reason="one waits", hot_before=0, hot_wanted=1)
    ]
    record.phases = [Phase(name="burst", began_s=0, ended_s=3)]
    return record


def test_a_good_demo():
    summary = summarise(good(), took_s=5)
    assert summary.ok
    assert (summary.requests, summary.errors, summary.tokens, summary.most_ready, summary.served_by) == (3, 0, 30, 2, 2)
    assert (summary.first_wait_s, summary.wait_p50_s, summary.wait_p95_s, summary.hot_at_end) == (9, 2, 9, 0)


def spoil(record, how):
    if how == "error":
        record.asked.append(asked(error="the queue budget ran out"))
    elif how == "no scale-up":
        record.seen = [Seen(at_s=1, states={"w1": "ready"}), Seen(at_s=2, states={"w1": "stopped"})]
    elif how == "no scale-down":
        record.see(Seen(at_s=9, states={"w1": "ready"}))
    elif how == "did not wait":
        record.asked[0] = asked()
    elif how == "no decision":
        record.decisions = []
    elif how == "was empty":
        record.asked.append(asked(tokens=0))
    elif how == "no request was answered":
        record.asked = []


@pytest.mark.parametrize(
    "how,word",
    [
        ("error", "requests failed, the first with: the queue budget"),
        ("no scale-up", "no scale-up"),
        ("no scale-down", "no scale-down"),
        ("did not wait", "did not wait for a cold worker"),
        ("no decision", "no decision"),
        ("was empty", "empty"),
        ("no request was answered", "no request was answered"),
    ],
)
def test_each_missing_part_fails_it_and_says_so(how, word):
    record = good()
    spoil(record, how)
    summary = summarise(record, took_s=5)
    assert not summary.ok
    assert word in "; ".join(summary.failures)
    console = Console(record=True, width=200, file=io.StringIO())
    closing.show(console, summary)
    assert "demo: failed: " in console.export_text()


def test_a_demo_that_could_not_go_on_says_only_that():
    assert summarise(Record(), took_s=1, broken="corral up ended").failures == ("corral up ended",)


def test_the_closing_page():
    console = Console(record=True, width=200, file=io.StringIO())
    closing.show(console, summarise(good(), took_s=5))
    text = console.export_text()
    assert text.rstrip().endswith("demo: ok")
    assert "create w1: one waits [demand_waiting]" in text


def test_the_summary_is_json():
    assert msgspec.json.decode(msgspec.json.encode(summarise(good(), took_s=5)))["ok"] is True


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_was_seen(values, share):
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6


def test_workers_over_time():
    line = closing.sparkline(good().seen and tuple(good().seen), 5)
    assert len(line) == 48
    assert line[0] == " "
    assert line.strip() != ""
