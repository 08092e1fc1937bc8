"""Schedules and overrides: what people ask for by the clock, and for a while."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import schedules
from schemas.reasons import Why
from schemas.records import Override, ScalingSettings, Schedule
from tests.scaler.story import T0, Story

#: T0 is 22:13:20 UTC: the schedule begins 1000 s later.
EVENING = Schedule(cron="30 22 * * *", lasts_s=600, hot_min=3)
BEGIN, END = 1000, 1600


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def shown(moment: float | None) -> str:
    assert moment is not None
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def test_workers_are_there_when_the_schedule_begins_and_go_when_it_ends():
    story = Story(create_s=25, inactivity_timeout=60).changes(schedules=(EVENING,))
    story.until(BEGIN - 40)
    assert story.commands == []
    story.until(BEGIN)
    assert story.ready == 3, "started as early as a start takes"
    began = next(d for d in story.decisions if d.why is Why.SCHEDULE)
    assert (began.at - T0, began.hot_wanted) == (BEGIN - 30, 3)  # nothing was learned yet: boot_guess_s
    assert "30 22 * * *" in began.sentence
    assert [(i.name, i.value) for i in began.inputs if i.name == "schedule_floor"] == [("schedule_floor", 3.0)]
    story.until(END - 1)
    assert (story.ready, len(story.ops("create"))) == (3, 3)
    story.until(END + 120)
    assert story.ready == 0
    assert not [op for op in ("stop", "destroy") for at_s, _ in story.ops(op) if at_s < END]


def test_how_early_is_what_starts_take_here():
    twice = Schedule(cron="30 22 * * *", lasts_s=300, hot_min=2)
    later = Schedule(cron="0 23 * * *", lasts_s=300, hot_min=2)
    story = Story(create_s=200, start_s=12, inactivity_timeout=60).changes(schedules=(twice, later))
    story.until(1500)  # over the first, in which starts anew took 200 s
    assert (story.ready, story.cold) == (0, 2)
    story.until(2800)
    assert story.ready == 2
    starts = [at_s for at_s, _ in story.ops("start")]
    assert len(starts) == 2
    assert min(starts) == pytest.approx(2800 - 30, abs=3)  # from a stopped disk: nobody has seen that before
    assert len(story.ops("create")) == 2


def test_what_was_started_early_is_not_let_go_when_the_lead_turns_out_shorter():
    first = Schedule(cron="30 22 * * *", lasts_s=300, hot_min=2)
    larger = Schedule(cron="0 23 * * *", lasts_s=300, hot_min=4)
    story = Story(create_s=200, start_s=12, inactivity_timeout=60).changes(schedules=(first, larger))
    story.until(1500)
    story.create_s = 20
    story.until(2800)
    begun = [at_s for at_s, _ in story.ops("create")][2:]
    assert begun and min(begun) == pytest.approx(2800 - 200, abs=3), "two of four must be made anew"
    assert story.ready == 4
    before = [d for d in story.decisions if T0 + 2600 < d.at < T0 + 3100]
    assert [a.op for d in before for a in d.actions if a.op not in ("create", "start")] == []


def test_the_load_may_ask_for_more_than_the_schedule_and_max_workers_stays_law():
    story = Story(create_s=5, max_workers=4).changes(schedules=(EVENING,)).asks(450)
    story.until(BEGIN + 300)
    assert story.ready == 4
    assert story.sets(max_workers=2).until(BEGIN + 500).ready == 2


def test_the_next_edge_is_when_it_is_looked_at_again():
    story = Story().changes(schedules=(EVENING,)).until(BEGIN - 31)
    assert story.decide().look_again_s == pytest.approx(1.0)
    story.now = T0 + END - 0.5
    assert story.decide().look_again_s == pytest.approx(0.5)


def test_a_time_zone_that_this_machine_does_not_know_asks_for_nothing_and_says_so():
    story = Story().changes(schedules=(Schedule(cron="* * * * *", lasts_s=60, hot_min=1, time_zone="Mars/Olympus"),)).until(10)
    decision = story.decide()
    assert decision.hot_wanted == 0
    assert any("Mars/Olympus" in text for text in decision.candidates)


def test_an_override_limits_from_above_too_and_ends_to_the_second():
    story = Story(create_s=5, max_workers=9).asks(500).until(300)
    assert story.ready == 6
    story.changes(override=Override(owner="ada", expires_at=T0 + 500.5, hot_max=2, reason="saving money")).until(480)
    assert story.ready == 2
    assert story.decisions[-1].why is Why.MANUAL
    assert "ada allows at most 2 (saving money)" in story.decisions[-1].sentence
    story.now = T0 + 499
    assert story.decide().look_again_s == pytest.approx(1.5)
    assert story.until(600).ready >= 6  # and what waited meanwhile


@pytest.mark.parametrize(
    "fields, words",
    [
        ({}, "needs hot_min or hot_max"),
        ({"hot_min": -1}, "hot_min must be at least 0"),
        ({"hot_min": 3, "hot_max": 2}, "hot_min (3) is more than hot_max (2)"),
        ({"hot_min": 21}, "hot_min (21) is more than max_workers (20)"),
        ({"hot_min": 1, "expires_at": T0}, "must end between now and 30 days from now"),
        ({"hot_min": 1, "expires_at": float("nan")}, "must end between"),
        ({"hot_min": 1, "expires_at": T0 + 40 * 86400}, "must end between"),
    ],
)
def test_an_override_that_cannot_be_says_why(fields, words):
    (sentence,) = Override(**{"owner": "ada", "expires_at": T0 + 60, **fields}).problems(ScalingSettings(), T0)
    assert words in sentence


def test_what_people_say_an_hour_costs_is_the_price_of_all_of_the_groups_workers():
    from tests.scaler.story import group

    story = Story(groups=(group(usd_per_hour=1.5),), create_s=5).asks(250).until(60)
    assert {w.usd_per_hour for w in story.state.workers.values()} == {1.5}, "the provider says it is free"
    story.changes(groups=(group(usd_per_hour=0.5),))
    assert {w.usd_per_hour for w in story.state.workers.values()} == {0.5}
    story.until(90)  # the provider's records come again
    assert {w.usd_per_hour for w in story.state.workers.values()} == {0.5}


# --- the calendar itself ----------------------------------------------------------------------------------------------

BERLIN = "Europe/Berlin"  # clocks go forward on 2026-03-29 at 02:00, back on 2026-10-25 at 03:00


@pytest.mark.parametrize(
    "cron, after, then",
    [
        # the skipped hour: right after it, once
        ("30 2 * * *", "2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-30 00:30"]),
        # the hour that comes twice: in its first pass
        ("30 2 * * *", "2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),
        # ... and asked in its second pass: not a moment that is over
        ("30 2 * * *", "2026-10-25 01:10", ["2026-10-26 01:30"]),
        # what comes often comes in both passes
        ("*/30 * * * *", "2026-10-25 00:10", ["2026-10-25 00:30", "2026-10-25 01:00", "2026-10-25 01:30", "2026-10-25 02:00"]),
        # eight in the morning is eight in the morning
        ("0 8 * * 1-5", "2026-03-27 12:00", ["2026-03-30 06:00"]),
        ("0 8 * * 1-5", "2026-10-23 12:00", ["2026-10-26 07:00"]),
        ("0 0 29 2 *", "2026-01-01 00:00", ["2028-02-28 23:00"]),
    ],
)
def test_moments_over_the_changes_of_the_clock(cron, after, then):
    schedule, moment = Schedule(cron=cron, lasts_s=60, hot_min=1, time_zone=BERLIN), at(after)
    for expected in then:
        moment = schedules.next_after(schedule, moment)
        assert shown(moment) == expected


def test_a_stretch_over_the_change_of_the_clock_lasts_as_long_as_it_says():
    night = Schedule(cron="0 1 * * *", lasts_s=4 * 3600, hot_min=1, time_zone=BERLIN)
    span = schedules.span(night, at("2026-03-29 00:30"))
    assert span is not None
    assert (shown(span.begin_at), shown(span.end_at)) == ("2026-03-29 00:00", "2026-03-29 04:00")


@settings(max_examples=150, deadline=None)
@given(
    cron=st.sampled_from(["30 2 * * *", "0 * * * *", "*/7 1-3 * * *", "15 2 * * 0", "59 23 * * *", "5 0 25 10 *"]),
    lasts_s=st.sampled_from([60.0, 90.0, 3600.0, 7200.0, 30 * 3600.0]),
    zone=st.sampled_from(["UTC", BERLIN, "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]),
    moment=st.floats(at("2026-10-24 00:00"), at("2026-10-27 00:00")) | st.floats(at("2026-03-28 00:00"), at("2026-03-31 00:00")),
)
def test_a_schedule_holds_exactly_for_its_time_after_each_moment(cron, lasts_s, zone, moment):
    schedule = Schedule(cron=cron, lasts_s=lasts_s, hot_min=1, time_zone=zone)
    long_before = datetime.fromtimestamp(moment - lasts_s - 3 * 86400, ZoneInfo(zone))
    moments = [found.timestamp() for found in takewhile(lambda m: m.timestamp() <= moment, CronSim(cron, long_before))]
    expected = any(begin <= moment < begin + lasts_s for begin in moments)
    span = schedules.span(schedule, moment)
    assert span is not None
    assert span.holds(moment) is expected
    assert span.end_at > moment


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"cron": "61 * * * *"}, "bad minute"),
        ({"cron": "* * * * * *"}, "five fields"),
        ({"cron": "@daily"}, "five fields"),
        ({"cron": ""}, "five fields"),
        ({"cron": "0 0 30 2 *"}, "bad day-of-month"),
        ({"cron": "0 0 */20 * 1L"}, "never comes"),
        ({"time_zone": "Europe/Atlantis"}, "unknown time zone 'Europe/Atlantis'"),
        ({"time_zone": "../../etc/passwd"}, "unknown time zone"),
        ({"time_zone": ""}, "unknown time zone"),
        ({"lasts_s": 0}, "lasts_s must be from 60"),
        ({"lasts_s": float("nan")}, "lasts_s must be from 60"),
        ({"lasts_s": 8 * 86400.0}, "lasts_s must be from 60"),
        ({"hot_min": 0}, "hot_min must be at least 1"),
        ({"hot_min": 21}, "hot_min (21) is more than max_workers (20)"),
    ],
)
def test_a_schedule_that_cannot_be_says_why_and_which(fields, words):
    wrong = Schedule(**{"cron": "0 8 * * *", "lasts_s": 60.0, "hot_min": 1, **fields})
    (sentence,) = schedules.problems((EVENING, wrong), ScalingSettings())
    assert sentence.startswith("schedules[1]: ")
    assert words in sentence


def test_there_are_not_too_many():
    assert "at most 32" in schedules.problems((EVENING,) * 40, ScalingSettings())[-1]
