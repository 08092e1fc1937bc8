"""Nobody goes below the offline bound: not by hand, not any peer, not the engine."""

from dataclasses import replace

import numpy as np
import pytest

from bench.scaling import bounds
from sim import synthetic, traces
from sim.bound import Goal, bound, cover_bound, fluid_bound
from sim.corral_policy import CorralEngine
from sim.machines import RESUME
from sim.peers import PEERS
from sim.policy import Fixed, PoolFacts
from sim.run import run
from sim.workload import Workload

BOOT_S = RESUME.mean_s


def workload(arrival_s, service_s, *, slots=1, initial=0, least=0):
    """`service_s` of one slot; the worker does one unit per second and slot."""
    arrivals = np.rint(np.array(arrival_s, float) * 1e6).astype(np.int64)
    return Workload("by hand", arrivals, np.array(service_s, float), float(slots), slots, 50, least, initial)


def test_one_long_request_needs_its_work_and_a_start():
    two = workload([10.0, 300.0], [100.0, 0.05])
    # spread evenly over the 105 s that it may take, with a share of one worker
    assert fluid_bound(two, Goal(attainment=1.0, boot_s=30), 1.0) * 3600 == pytest.approx(100 + 30 * 100 / 105, rel=0.01)
    # Somebody is certainly on in the 95 s between the last moment to begin and the first moment to be done: a worker that is
    # there at first may stay until then, or go and come back.
    two = workload([10.0, 300.0], [100.0, 0.05], initial=1)
    assert cover_bound(two, Goal(attainment=1.0, boot_s=30)) * 3600 == pytest.approx(110)
    assert cover_bound(two, Goal(attainment=1.0, boot_s=10)) * 3600 == pytest.approx(10 + 95)
    three = workload([10.0, 300.0, 600.0], [100.0, 50.0, 0.05], initial=1)
    assert cover_bound(three, Goal(attainment=1.0, boot_s=30)) * 3600 == pytest.approx(110 + 30 + 45)
    assert cover_bound(three, Goal(attainment=1.0, boot_s=300)) * 3600 == pytest.approx(350)
    # One of three may be late: the cheapest course leaves the first.
    assert 0 < cover_bound(three, Goal(attainment=0.66, boot_s=30)) * 3600 <= 30 + 45


def test_workers_that_are_always_there_are_paid_for():
    quiet = workload([0.0, 3599.0], [1.0, 1.0], least=2, initial=2)
    assert fluid_bound(quiet, Goal(), 10.0) == pytest.approx(2.0, rel=0.01)


def test_a_request_given_more_time_or_let_go_costs_less():
    burst = synthetic.make("first_burst", hours=0.2)
    strict = fluid_bound(burst, Goal(attainment=0.99), 5.0)
    usual = fluid_bound(burst, Goal(), 5.0)
    patient = fluid_bound(burst, Goal(wait_s=15.0), 5.0)
    assert strict > usual > patient


def test_smaller_bins_find_no_lower_bound():
    steady = synthetic.make("steady", hours=0.1)
    coarse, fine = fluid_bound(steady, Goal(), 20.0), fluid_bound(steady, Goal(), 5.0)
    assert coarse <= fine * (1 + 1e-6)
    assert coarse == pytest.approx(fine, rel=0.02)


@pytest.mark.parametrize("name,hours", [("steady", 0.25), ("first_burst", 0.25), ("sparse", 3)])
def test_nobody_pays_less_than_the_bound_of_what_he_attains(name, hours):
    made = synthetic.make(name, hours=hours)
    policies = [*(peer.at_default(PoolFacts.of(made)) for peer in PEERS[: 13 if hours < 1 else 5]), CorralEngine(made)]
    policies += [Fixed(workers) for workers in (made.initial_workers, made.initial_workers + 2)]
    held = 0
    for policy in policies:
        result = run(made, policy)
        if result.rejected:
            continue  # who turns requests away has less to do than the bound thinks
        goal = Goal(attainment=result.within(5), boot_s=BOOT_S)
        least_h = bound(made, goal, 10.0 if name != "sparse" else 60.0).hours
        held += 1
        assert least_h <= result.hot_h * (1 + 1e-6), f"{policy.name}: {result.within(5):.4f} for {result.hot_h:.3f} h"
    assert held >= 5


def test_the_bound_is_not_trivial():
    """Close to the work itself on dense traffic, above nothing on sparse traffic."""
    steady, sparse = synthetic.make("steady", hours=0.25), synthetic.make("sparse", hours=3)
    work_h = steady.service_us.sum() / 3.6e9 / steady.slots
    assert 0.9 * work_h < bound(steady, Goal(), 10.0).hours < 1.1 * work_h
    found = bound(sparse, Goal(), 60.0)
    assert found.cover_h > found.fluid_h > 0


def test_the_recorded_bounds_are_of_the_usual_traces():
    recorded = bounds.recorded()
    assert set(recorded) >= set(traces.SIZING) - {"burstgpt_week"}
    for one in recorded.values():
        assert (one.attainment, one.wait_s) == (0.95, 5.0)
        assert one.hours > 0
    if traces.available():
        name = traces.available()[0]
        assert bounds.hours(name) == recorded[name].hours


def test_a_bound_counts_for_its_own_workload_only(monkeypatch):
    made = synthetic.make("steady", hours=0.1)
    monkeypatch.setattr(bounds, "workload", lambda name: replace(made, perf=made.perf * 2))
    assert bounds.hours("azure_conv_2023") is None
