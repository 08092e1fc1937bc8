"""The router benchmark in short, on made-up traffic; and that the arena itself is right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bench import routing
from sim import synthetic
from sim.routers import central, ours
from sim.routers.arena import Arena
from sim.routers.policies import POLICIES
from sim.routers.pool import Pool, estimates, sized
from sim.workload import SECOND_US, Workload

STEADY = synthetic.make("steady", hours=0.4)
ALL = {**POLICIES, "ours": ours.make, "central": central.make}


def outcome(name, *, workload=STEADY, pool=None, routers=1, report_s=1.0, seed=1, sigma=0.6, load=0.75):
    pool = pool or sized(workload, load, seed=seed)
    return Arena(workload, pool, ALL[name], routers=routers, report_s=report_s, sigma=sigma, seed=seed).run()


def by_hand(arrival_s, units):
    at_us = np.rint(np.array(arrival_s) * SECOND_US).astype(np.int64)
    return Workload("by hand", at_us, np.array(units, dtype=np.float64), 1.0, 1, 1, 1, 1)


@pytest.mark.parametrize("report_s", [1.0, 5.0])
def test_ours_is_near_the_central_queue_and_ahead_of_what_others_know(report_s):
    found = {
        name: outcome(name, report_s=report_s).within
        for name in ("ours", "central", "least-request (reports)", "p2c (own in-flight)")
    }
    assert found["ours"] >= 0.95
    assert found["central"] - found["ours"] <= 0.04
    assert found["ours"] > found["least-request (reports)"]
    assert found["ours"] > found["p2c (own in-flight)"]


def test_three_routers_of_ours_get_in_each_others_way_only_a_little():
    assert outcome("ours", routers=3, report_s=5.0).within >= 0.94


@pytest.mark.parametrize("name", ["random", "JSEW (reports)", "Prequal-like"])
def test_nobody_is_ahead_of_the_central_queue(name):
    assert outcome(name).within < outcome("central").within


def test_it_is_the_same_to_the_last_wait_and_another_with_another_seed():
    once, again, other = (outcome("ours", routers=2, seed=seed) for seed in (1, 1, 2))
    assert once == again
    assert once.digest != other.digest


@pytest.mark.parametrize("name", ALL)
def test_with_one_worker_and_no_slot_free_all_wait_in_line(name):
    # One slot, a second each, all at once: the waits are 0, 1, 2, 3 s, whoever decides.
    four = by_hand([1.0] * 4, [10.0] * 4)
    found = outcome(name, workload=four, pool=Pool((10.0,), (10.0,), slots=1), sigma=0.0)
    assert found.mean_s == pytest.approx(1.5, abs=0.3), "ours looks at its queue four times a second"
    assert found.within == 1.0


def test_a_free_worker_is_found_at_once_by_who_knows_of_it():
    pair = by_hand([1.0, 2.0, 3.0], [100.0, 100.0, 100.0])
    three = Pool((10.0, 10.0, 10.0), (10.0, 10.0, 10.0), slots=1)
    for name in ("ours", "central", "least-request (own in-flight)", "JSEW (reports and own sends)"):
        assert outcome(name, workload=pair, pool=three, sigma=0.0).mean_s == 0.0, name


def test_pools_are_as_fast_as_asked_and_estimates_are_right_on_average():
    pool = sized(STEADY, 0.85, seed=1)
    work = STEADY.units.sum() / (STEADY.end_us / SECOND_US)
    assert sum(pool.perf) == pytest.approx(work / 0.85) == pytest.approx(sum(pool.true_perf))
    assert max(abs(a / b - 1) for a, b in zip(pool.perf, pool.true_perf, strict=True)) > 0.02
    said = estimates(STEADY, seed=1, sigma=0.6)
    assert float(said.mean() / STEADY.units.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(np.log(said / STEADY.units).std()) == pytest.approx(0.6, abs=0.03)


def test_the_benchmark_says_its_bars_and_without_traces_what_it_used(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRACES", str(tmp_path / "none"))
    case = routing.Case("mooncake_conv", 0.85, 5, 1, bar=0.95, near=0.04)
    case, workload, recorded = routing.traffic_of(case)
    assert not recorded and workload.name == case.trace == "steady" and case.load == 0.8
    found = {
        name: [outcome("ours" if name == routing.OURS else "central", report_s=5.0)] for name in (routing.OURS, routing.CENTRAL)
    }
    bars = routing.judge(case, found, recorded)
    said = capsys.readouterr().out
    assert '"bar":0.95' in said and '"bar":0.04' in said and "made up: no traces" in said and "steady 80%" in said
    assert routing.play(routing.Case("x", 0.5, 1, 3), STEADY, routing.CENTRAL, (1,)) is None
    text = routing.page([(case, found)], bars, routing.SEEDS)
    assert "| **ours** | 0.9" in text
    assert "All 2 bars are met. Of *ours*, mean of seeds 1, 2, 3, 4, 5:" in text
    assert f"| ok | steady 80%, 5-s reports | share within 5 s | {bars[0].value:.4f} | at least 0.95 |" in text
    missed = [dataclasses.replace(bar, ok=False) for bar in bars]
    assert "**2 of 2 bars are missed.**" in routing.page([(case, found)], missed, (1,))
