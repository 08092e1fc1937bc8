"""Which bars the benchmark of scaling holds the engine to."""

import json

import msgspec
import pytest

from bench import decide_cost
from bench.scaling import bar, bars, decision, page, rivals, table
from bench.scaling.cases import DOCUMENTED, LEARNED, NEW, OURS, POOL_TRACE, TRI
from bench.scaling.decision import Times
from tests.bench.results import CODE, CONV, bar_of, measured, played


def test_attainment_and_rejections():
    found = measured(played(0.96, 7), played(0.94, 20, trace=CODE), played(0.94, 9, trace="mooncake_conv", rejected=2))
    assert bar_of(found, f"attainment.{CONV}").ok
    assert bar_of(found, f"attainment.{CODE}").ok  # bursts: less is asked
    assert not bar_of(found, "attainment.mooncake_conv").ok
    assert bar_of(found, f"rejected.{CONV}").ok
    assert not bar_of(found, "rejected.mooncake_conv").ok
    late = bar_of(measured(played(0.96, 7, overdue=1, seed=1), played(0.96, 7, rejected=1, seed=2)), f"rejected.{CONV}")
    assert (late.value, late.ok) == (2, False), "whom only a crash kept from being given up counts"
    assert bar_of(found, f"rejected.{CODE}") is None


def test_hours_over_the_bound():
    found = measured(played(0.96, 7.6), played(0.94, 20, trace=CODE), bounds={CONV: 5.88, CODE: 3.87})
    assert bar_of(found, f"over_bound.{CONV}").ok
    assert bar_of(found, f"over_bound.{CODE}").ok is None
    assert not bar_of(measured(played(0.96, 7.7), bounds={CONV: 5.88}), f"over_bound.{CONV}").ok
    unknown = bar_of(measured(played(0.96, 7.7)), f"over_bound.{CONV}")
    assert (unknown.value, unknown.bar, unknown.not_judged) == (None, 0.3, True), "a bar never vanishes"
    assert "make bench-bounds" in unknown.vs
    assert bar_of(measured(played(0.94, 20, trace=CODE)), f"over_bound.{CODE}") is None


def test_against_the_peers():
    runs = [
        played(0.96, 9),
        played(0.97, 10, policy="AIBrix APA", starts=5),
        played(0.95, 5, policy="SkyServe"),
        played(0.965, 8.8, policy="SkyServe", knob=0.9, starts=20),
    ]
    found = measured(*runs)
    defaults, oracle = bar_of(found, f"vs_defaults.{CONV}"), bar_of(found, f"vs_oracle.{CONV}")
    assert (defaults.value, defaults.ok) == (-0.1, True)
    assert "AIBrix APA" in defaults.vs
    assert (oracle.value, oracle.ok) == (pytest.approx(0.0227), True)
    assert "SkyServe at 0.9" in oracle.vs
    assert bar_of(found, f"starts.{CONV}").ok
    assert not bar_of(measured(played(0.96, 9.2), *runs[1:]), f"vs_oracle.{CONV}").ok
    assert bar_of(measured(*runs[:3]), f"vs_oracle.{CONV}") is None  # without knobs there is no oracle


def test_means_are_held_to_a_bar_only_over_all_usual_traces():
    def both(traces, ours_h):
        return [
            one
            for trace in traces
            for one in (played(0.96, ours_h, trace=trace), played(0.97, 10, trace=trace, policy="AIBrix APA"))
        ]

    part = bar_of(measured(*both([CONV, CODE], 8.0)), "vs_defaults.mean")
    assert (part.value, part.bar, part.ok, part.not_judged) == (-0.2, None, None, False)
    whole = measured(*both(bars.USUAL, 8.0))
    assert bar_of(whole, "vs_defaults.mean").ok
    assert not bar_of(measured(*both(bars.USUAL, 9.5)), "vs_defaults.mean").ok


def test_who_attains_more_than_everybody_on_one_trace_does_not_escape_the_mean():
    def all_but_conv(ours_h, conv):
        runs = [played(conv, 50, trace=CONV), played(0.97, 10, trace=CONV, policy="AIBrix APA", knob=0.5)]
        runs.append(played(0.97, 10, trace=CONV, policy="AIBrix APA"))
        for trace in bars.USUAL:
            if trace != CONV:
                runs += [played(0.96, ours_h, trace=trace), played(0.97, 10, trace=trace, policy="AIBrix APA")]
                runs.append(played(0.97, 10, trace=trace, policy="AIBrix APA", knob=0.5))
        return measured(*runs)

    for name in ("vs_defaults", "vs_oracle"):
        for ours_h, value, ok in ((9.8, -0.02, False), (8.0, -0.2, True)):
            mean = bar_of(all_but_conv(ours_h, conv=0.99), f"{name}.mean")
            assert (mean.value, mean.ok) == (value, ok)
            assert "4 traces" in mean.vs
        alone = bar_of(all_but_conv(8.0, conv=0.99), f"{name}.{CONV}")
        assert (alone.not_judged, alone.vs) == (True, rivals.NOBODY)
    assert bar_of(all_but_conv(8.0, conv=0.99), f"starts.{CONV}").not_judged


def test_nobody_is_said_to_attain_as_much_only_when_that_is_known():
    """Under the first seed the peer attained a little less; the second seed was not played."""
    runs = [played(0.96, 8, trace=trace, seed=seed) for trace in bars.USUAL for seed in (1, 2)]
    runs += [played(0.95, 9, trace=trace, policy="AIBrix APA", knob=0.5) for trace in bars.USUAL]
    found = measured(*runs, seeds=(1, 2))
    assert bar_of(found, f"vs_oracle.{CONV}").vs == bar_of(found, f"starts.{CONV}").vs == rivals.NOT_SURE
    mean = bar_of(found, "vs_oracle.mean")
    assert (mean.value, mean.not_judged, mean.vs) == (None, True, rivals.NOT_SURE)
    sure = measured(*runs, *(played(0.95, 9, trace=t, policy="AIBrix APA", knob=0.5, seed=2) for t in bars.USUAL), seeds=(1, 2))
    mean = bar_of(sure, "vs_oracle.mean")
    assert (mean.value, mean.not_judged, mean.vs) == (None, True, rivals.NOBODY)


def test_what_could_not_be_judged_is_counted_and_named():
    met, missed = bar.at_most("a", 1, 2, "u"), bar.at_most("b", 3, 2, "u")
    unknown, told = bar.without("c", None, "u", "no such trace"), bar.at_most("d", 3, None, "u")
    assert bar.verdict([met, told]) == "All 1 bars are met."
    assert bar.verdict([met, missed, unknown, told]) == (
        "1 of 3 bars are met; 1 missed: `b` (3, asked 2); 1 not judged: `c` (no such trace)."
    )
    assert bar.verdict([met, unknown]) == "1 of 2 bars are met; 1 not judged: `c` (no such trace)."
    assert json.loads(unknown.line())["not_judged"] is True
    text = "\n".join(page.lines(measured(played(0.96, 9)), [met, unknown]))
    assert "1 of 2 bars are met; 1 not judged: `c`" in text
    assert "| not judged | `c` |  |  | u | no such trace |" in text
    table.of_bars([met, unknown])


def test_without_traces_that_had_no_part_in_tuning_their_bar_is_not_judged():
    runs = [played(0.96, 9, trace=trace) for trace in bars.USUAL]
    assert bar_of(measured(*runs), "held_out.vs_oracle.mean").not_judged
    assert bar_of(measured(*runs[:2]), "held_out.vs_oracle.mean") is None


def test_new_workers_and_stopped_pools():
    day = {"trace": "alibaba_r1_day", "tier": NEW, "hours": 24.0}
    week = {"trace": "alibaba_tenant_diurnal_week", "tier": NEW, "hours": 164.0}
    runs = []
    for where in (day, week):
        runs += [
            played(0.96, 97, **where),
            played(0.97, 100, policy="SkyServe", knob=0.9, **where),
            played(0.5, 1, policy="SkyServe", **where),
        ]
    found = measured(*runs)
    assert bar_of(found, "new.vs_oracle.alibaba_r1_day").ok
    assert bar_of(found, "new.vs_oracle.mean").ok
    assert bar_of(found, "new.vs_oracle.mean_with_bursty") is None
    bursty = {"trace": POOL_TRACE, "tier": NEW, "hours": 168.0}
    more = [played(0.92, 80, **bursty), played(0.93, 100, policy="SkyServe", knob=0.9, **bursty)]
    close = [msgspec.structs.replace(one, result=msgspec.structs.replace(one.result, hot_h=99.0)) if one.case.policy == OURS else one
             for one in runs]  # fmt: skip
    found = measured(*close, *more)
    mean, beside = bar_of(found, "new.vs_oracle.mean"), bar_of(found, "new.vs_oracle.mean_with_bursty")
    assert (mean.value, mean.ok) == (-0.01, False), "few hours at too little attainment do not make up for the others"
    assert (beside.value, beside.bar) == (pytest.approx(-0.0779), None)
    assert bar_of(found, f"new.vs_oracle.{POOL_TRACE}").bar is None
    assert bar_of(measured(*runs[:3]), "new.vs_oracle.mean").bar is None
    said = "\n".join(page.lines(measured(played(0.96, 7), *close, *more), []))
    assert f"`{POOL_TRACE}` has no bar: ours attains 0.920 there, less than the goal" in said

    def pools(learned, literal):
        where = {"trace": POOL_TRACE, "tier": TRI}
        return measured(
            played(*learned[:1], 900, cost=learned[1], pool=LEARNED, **where),
            played(*literal[:1], 900, cost=literal[1], pool=DOCUMENTED, **where),
        )

    good = pools((0.95, 1200), (0.92, 1800))
    assert bar_of(good, f"pool.cost.{POOL_TRACE}").ok
    assert bar_of(good, f"pool.attainment.{POOL_TRACE}").ok
    bad = pools((0.91, 1500), (0.92, 1800))
    assert not bar_of(bad, f"pool.cost.{POOL_TRACE}").ok
    assert not bar_of(bad, f"pool.attainment.{POOL_TRACE}").ok


def test_traces_that_had_no_part_in_tuning():
    runs = [played(0.92, 9, trace="new_week"), played(0.97, 10, trace="new_week", policy="SkyServe", knob=0.9)]
    found = measured(*runs)
    assert not bar_of(found, "held_out.attainment.new_week").ok
    assert bar_of(found, "held_out.vs_oracle.mean").ok
    assert bar_of(found, "attainment.new_week") is None


def test_how_long_a_decision_takes():
    assert bar_of(measured(decision=Times("of", 9e-4)), "decision.p99").ok
    assert not bar_of(measured(decision=Times("of", 2e-3)), "decision.p99").ok
    step = bar_of(measured(decision=Times("of", 9e-4), engine_step=Times("alone", 5e-3)), "engine_step.p99")
    assert (step.value, step.bar, step.vs) == (5.0, None, "alone")


def test_the_whole_decision_is_measured_with_a_hundred_workers(monkeypatch):
    monkeypatch.setattr(decision, "DECISIONS", 150)
    monkeypatch.setattr(decide_cost, "PASSES", 1)
    found = decision.whole()
    assert found.of.startswith("150 whole decisions, 100 workers in 3 groups, ")
    assert found.of.endswith("of each the quickest of 2 tries")
    assert 1e-5 < found.p99_s < 1
