"""Nothing is lost: every request starts once or is given up, every worker is in one state at every moment."""

import numpy as np
import pytest

from sim import synthetic
from sim.fleet import Tier
from sim.machines import HOT, Boot, Group, Machine, State
from sim.observation import Target
from sim.run import one_group
from sim.service import FixedRate, ProcessorSharing
from sim.simulation import PENDING, REJECTED, Simulation

#: Breaks all the time, so that every path is taken.
FRAGILE = Machine(
    resume=Boot(25, 0.45, 10, 60, 0.2, 90),
    create=Boot(60, 0.45, 30, 120, 0.2, 200),
    crash_mtbf_s=900,
    preempt_mtbf_s=1200,
    preempt_notice_s=20,
)


def wander(step: int) -> int:
    """A restless policy."""
    return int(6 + 5 * np.sin(step / 3) + 3 * np.cos(step * 1.7))


@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize("service", [FixedRate, ProcessorSharing])
def test_under_every_fault_nothing_is_lost_and_every_second_is_billed_once(tier, service):
    workload = synthetic.make("steady", seed=2, hours=0.5)
    world = Simulation(
        workload,
        one_group(workload, FRAGILE),
        tier=tier,
        seed=5,
        service=service,
        initial=(Target(workload.initial_workers, 20),),
        give_up_us=60_000_000,
    )
    for step in range(600):
        world.advance((step + 1) * 5_000_000)
        seen = world.observe()
        assert sum(len(worker.serving) for worker in world.fleet.workers) == seen.serving
        world.apply((Target(wander(step), 20),))
        assert sum(world.fleet.ledger.count[0]) == workload.max_workers
        assert all(len(worker.serving) <= workload.slots for worker in world.fleet.workers)
        assert all(not worker.serving for worker in world.fleet.workers if worker.state not in HOT)
    world.apply((Target(20, 20),))
    world.advance(world.now_us + 3600_000_000)
    assert world.present == 0
    waits = np.array(world.wait_us, dtype=np.int64)
    assert (waits != PENDING).all()
    started = waits != REJECTED
    assert world.completed == started.sum()
    assert (waits[started] >= 0).all()
    assert 0 < (~started).sum() < len(waits) / 2

    fleet, ledger = world.fleet, world.fleet.ledger
    assert min(fleet.crashes, fleet.failed_boots, fleet.preemptions, fleet.stops, fleet.starts) > 0
    ledger.settle(world.now_us)
    for worker in fleet.workers:
        assert worker.since_us == world.now_us
    spent = ledger.spent_us[0]
    assert sum(spent) <= workload.max_workers * world.now_us
    assert ledger.cost() == pytest.approx((sum(spent[s] for s in HOT) + 0.05 * sum(spent)) / 3.6e9)


def test_work_is_conserving_no_slot_is_free_while_a_request_waits():
    workload = synthetic.make("first_burst", seed=3, hours=0.3)
    world = Simulation(workload, one_group(workload, FRAGILE), tier=Tier.STOPPED_POOL, seed=2, initial=(Target(3),))
    waited = 0
    for step in range(1500):
        world.advance((step + 1) * 1_000_000)
        seen = world.observe()
        if seen.waiting:
            waited += 1
            ready = [worker for worker in world.fleet.workers if worker.state is State.READY]
            assert all(len(worker.serving) == workload.slots for worker in ready)
        world.apply((Target(wander(step // 20)),))
    assert waited > 50


def test_integrals_agree_with_the_waits():
    """Little's law, exactly: the integral of requests present equals the sum of their times in the system."""
    workload = synthetic.make("steady", seed=4, hours=0.2)
    machine = Machine(crash_mtbf_s=0)
    world = Simulation(workload, one_group(workload, machine), tier=Tier.STOPPED_POOL, seed=1, initial=(Target(7),))
    world.advance(workload.end_us + 7200_000_000)
    times_s = np.array(world.wait_us) / 1e6 + workload.service_us / 1e6
    assert world.observe().present_s == pytest.approx(times_s.sum(), rel=1e-9)
    assert world.busy_us == workload.service_us.sum()


def test_prices_move_and_offers_run_out():
    workload = synthetic.make("steady", hours=0.1)
    group = Group(
        "spot",
        perf=workload.perf,
        slots=8,
        max_workers=10,
        machine=Machine(resume=FRAGILE.resume, create=Boot(60, 0.0, 60, 60, 0.0, 1), creating_share=0.0, crash_mtbf_s=0),
        price=((0, 2.0), (1800_000_000, 4.0)),
        storage_price=0.0,
        offers=((0, 3), (900_000_000, 5)),
    )
    world = Simulation(workload, (group,), tier=Tier.NOTHING, seed=1)
    world.apply((Target(6),))
    assert world.observe().groups[0].coming == 3
    assert world.fleet.no_offers == 3
    world.advance(900_000_000)
    world.apply((Target(6),))
    assert world.observe().groups[0].coming == 2
    world.advance(3600_000_000)
    world.fleet.ledger.settle(world.now_us)
    assert world.fleet.ledger.cost() == pytest.approx(3 * (0.5 * 2 + 0.5 * 4) + 2 * (0.25 * 2 + 0.5 * 4))


def test_prices_out_of_order_are_refused():
    workload = synthetic.make("steady", hours=0.1)
    group = Group("odd", 1.0, 1, 1, price=((0, 1.0), (5, 2.0), (5, 3.0)))
    with pytest.raises(ValueError, match="in order of time"):
        Simulation(workload, (group,), tier=Tier.NOTHING, seed=1)
