"""The simulator against theory: what it says about queues must be what mathematics says."""

import math

import numpy as np
import pytest

from sim import chance
from sim.fleet import Tier
from sim.machines import PERFECT
from sim.observation import Target
from sim.policy import Fixed
from sim.run import one_group, run
from sim.service import ProcessorSharing
from sim.simulation import Simulation
from sim.workload import Workload


def poisson(*, rate: float, mean_service_s: float, requests: int, slots: int, workers: int, seed: int) -> Workload:
    """Poisson arrivals, exponential sizes; a worker serves `slots` requests at rate 1 each."""
    arrival_s = np.cumsum(-np.log(chance.units(seed, 1, requests)) / rate)
    units = -np.log(chance.units(seed, 2, requests)) * mean_service_s
    return Workload(
        name="poisson",
        arrival_us=np.rint(arrival_s * 1e6).astype(np.int64),
        units=np.maximum(units, 0.05),
        perf=float(slots),
        slots=slots,
        max_workers=workers,
        min_workers=workers,
        initial_workers=workers,
    )


def erlang_c(servers: int, offered: float) -> float:
    """Probability that a request waits, in M/M/servers."""
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    return blocked / (1 - (offered / servers) * (1 - blocked))


@pytest.mark.parametrize("workers,slots,load", [(4, 8, 0.8), (10, 2, 0.85), (4, 8, 0.9)])
def test_waits_are_those_of_erlang_c(workers, slots, load):
    servers, mean_service_s = workers * slots, 10.0
    rate = load * servers / mean_service_s
    workload = poisson(rate=rate, mean_service_s=mean_service_s, requests=200_000, slots=slots, workers=workers, seed=3)
    world = Simulation(
        workload,
        one_group(workload, PERFECT),
        tier=Tier.STOPPED_POOL,
        seed=1,
        give_up_us=1 << 60,
        initial=(Target(workers),),
    )
    world.advance(int(workload.arrival_us[-1]) + 10**10)
    waits_s = np.array(world.wait_us) / 1e6
    wait_probability = erlang_c(servers, rate * mean_service_s)
    mean_s = wait_probability / (servers / mean_service_s - rate)
    late = wait_probability * math.exp(-(servers / mean_service_s - rate) * 5)
    assert (waits_s > 0).mean() == pytest.approx(wait_probability, rel=0.08)
    assert waits_s.mean() == pytest.approx(mean_s, rel=0.12)
    assert (waits_s > 5).mean() == pytest.approx(late, rel=0.25, abs=0.002)


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_processor_sharing_depends_on_the_mean_size_only(sigma):
    """M/G/1-PS: load / (1 - load) requests are present on average, whatever the distribution of their sizes."""
    load, requests = 0.7, 80_000
    arrival_s = np.cumsum(-np.log(chance.units(5, 1, requests)) / load)
    normal = np.sqrt(-2 * np.log(chance.units(5, 2, requests))) * np.cos(2 * np.pi * chance.units(5, 3, requests))
    units = np.exp(sigma * normal - sigma * sigma / 2)
    slots = 256
    workload = Workload("ps", np.rint(arrival_s * 1e6).astype(np.int64), units, 1.0, slots, 1, 1, 1)
    world = Simulation(
        workload,
        one_group(workload, PERFECT),
        tier=Tier.STOPPED_POOL,
        seed=1,
        initial=(Target(1),),
        service=lambda units, groups: ProcessorSharing(units, groups, single_stream=slots),
    )
    world.advance(int(workload.arrival_us[-1]))
    present = world.observe().present_s / (workload.arrival_us[-1] / 1e6)
    assert present == pytest.approx(load / (1 - load), rel=0.08)


def test_under_processor_sharing_a_lone_request_runs_faster_and_a_full_worker_as_fast():
    workload = Workload("one", np.array([0], np.int64), np.array([80.0]), 8.0, 8, 1, 1, 1)
    lone = Simulation(
        workload, one_group(workload, PERFECT), tier=Tier.STOPPED_POOL, seed=1, initial=(Target(1),), service=ProcessorSharing
    )
    lone.advance(19_999_999)
    assert lone.completed == 0
    lone.advance(20_000_001)  # 80 units at 4 units per second: four times the rate of one slot of eight
    assert lone.completed == 1

    workload = Workload("eight", np.zeros(8, np.int64), np.full(8, 80.0), 8.0, 8, 1, 1, 1)
    full = Simulation(
        workload, one_group(workload, PERFECT), tier=Tier.STOPPED_POOL, seed=1, initial=(Target(1),), service=ProcessorSharing
    )
    full.advance(79_999_999)
    assert full.completed == 0
    full.advance(80_000_020)
    assert full.completed == 8


def test_a_fixed_pool_serves_all_work_and_no_more():
    workload = poisson(rate=3.0, mean_service_s=5.0, requests=5000, slots=4, workers=6, seed=9)
    result = run(workload, Fixed(6), machine=PERFECT)
    worked_h = float(np.maximum(workload.units, 0.05).sum()) / workload.slots / 3600
    assert result.rejected == 0
    assert result.utilisation * result.hot_h == pytest.approx(worked_h, rel=0.01)
