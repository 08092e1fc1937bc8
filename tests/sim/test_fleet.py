"""Workers as they are asked for, taken back, cancelled and lost, step by step."""

import numpy as np
import pytest

from sim import fleet, machines, metrics
from sim.events import Rank
from sim.fleet import Tier
from sim.machines import Boot, Group, Machine, State
from sim.observation import Target
from sim.simulation import PENDING, REJECTED, Simulation
from sim.workload import Workload

S = 1_000_000
#: Boots take exactly 20 s (resume) and 100 s (40 of creating, 60 of loading); nothing fails.
STEADY = Machine(resume=Boot(20, 0, 20, 20, 0, 90), create=Boot(100, 0, 100, 100, 0, 600), crash_mtbf_s=0)


def world(*arrivals_s: float, tier=Tier.STOPPED_POOL, hot=0, total=None, work_s=50.0, machine=STEADY, workers=4, slots=1):
    """Requests of `work_s` seconds each; workers with `slots` slots."""
    workload = Workload(
        "by hand",
        np.array([round(at * S) for at in arrivals_s], np.int64),
        np.full(len(arrivals_s), float(work_s)),
        float(slots),
        slots,
        workers,
        0,
        0,
    )
    group = Group("workers", perf=float(slots), slots=slots, max_workers=workers, machine=machine)
    return Simulation(workload, (group,), tier=tier, seed=1, initial=(Target(hot, total),))


def states(w) -> list[State]:
    return [worker.state for worker in w.fleet.workers]


def test_a_stopped_worker_is_resumed_and_serves_who_waits():
    w = world(1.0)
    w.advance(5 * S)
    w.apply((Target(1),))
    w.advance(25 * S)
    assert w.wait_us == [24 * S]
    assert states(w) == [State.READY, State.STOPPED, State.STOPPED, State.STOPPED]


def test_creating_is_not_billed_for_the_gpu_and_loading_is():
    w = world(1000.0, tier=Tier.NOTHING)
    w.apply((Target(1),))
    w.advance(39 * S)
    assert states(w)[0] is State.CREATING
    w.advance(99 * S)
    assert states(w)[0] is State.LOADING
    w.advance(100 * S)
    assert states(w)[0] is State.READY
    w.fleet.ledger.settle(w.now_us)
    assert w.fleet.ledger.cost() * 3600 == pytest.approx(60 + 0.05 * 100)


def test_a_busy_worker_drains_and_can_be_taken_back():
    w = world(0.0, hot=1)
    w.advance(10 * S)
    w.apply((Target(0),))
    assert states(w)[0] is State.DRAINING
    w.advance(20 * S)
    w.apply((Target(1),))
    assert states(w)[0] is State.READY
    w.advance(50 * S)
    assert w.completed == 1
    w.apply((Target(0),))
    assert states(w)[0] is State.STOPPED


def test_a_draining_worker_stops_with_its_last_request():
    w = world(0.0, hot=1)
    w.advance(10 * S)
    w.apply((Target(0),))
    w.advance(50 * S)
    assert w.completed == 1
    assert states(w)[0] is State.STOPPED


def test_a_draining_worker_gets_no_new_request():
    w = world(0.0, 5.0, hot=1, slots=2, work_s=20)
    w.advance(2 * S)
    w.apply((Target(0),))
    w.advance(15 * S)
    assert w.observe().waiting == 1


def test_idle_workers_go_first_and_starting_ones_before_them():
    w = world(0.0, 0.0, hot=3)
    w.advance(1 * S)
    w.apply((Target(4),))
    assert states(w)[3] is State.STARTING
    w.apply((Target(3),))
    assert states(w)[3] is State.STOPPED
    w.apply((Target(2),))
    assert states(w) == [State.READY, State.READY, State.STOPPED, State.STOPPED]


def test_the_newest_start_is_cancelled_first():
    w = world(1000.0)
    w.apply((Target(1),))
    w.advance(5 * S)
    w.apply((Target(2),))
    w.advance(6 * S)
    w.apply((Target(1),))
    assert states(w)[:2] == [State.STARTING, State.STOPPED]


def test_the_least_busy_worker_has_the_next_request():
    w = world(0.0, 0.0, 1.0, 2.0, hot=2, slots=2)
    w.advance(3 * S)
    assert [list(worker.serving) for worker in w.fleet.workers[:2]] == [[0, 2], [1, 3]]


def test_requests_of_a_crashed_worker_go_to_the_front_of_the_queue():
    machine = Machine(resume=STEADY.resume, create=STEADY.create, crash_mtbf_s=1e-4)
    w = world(0.0, 1.0, hot=0, machine=machine)
    w.apply((Target(1),))
    w.advance(19 * S)
    assert w.observe().waiting == 2
    w.advance(21 * S)  # ready at 20 s, crashed at once
    assert w.fleet.crashes == 1
    assert w.observe().waiting == 2
    w.fleet.groups = (Group("workers", 1.0, 1, 4, STEADY),)
    w.apply((Target(1),))
    w.advance(60 * S)
    assert w.wait_us[0] == 41 * S
    assert w.wait_us[1] == -1


def test_who_begins_late_because_its_worker_crashed_is_counted():
    """It was in service, so its patience began anew at the crash; by its arrival it would have been given up."""
    w = world(0.0, 0.0, hot=2, work_s=1000.0)
    for number, at_s in ((0, 290), (1, 279)):
        w._agenda.plan(at_s * S, Rank.CRASH, number, w.fleet.workers[number].life, fleet._CRASHES)
    w.advance(279 * S)
    w.apply((Target(2),))  # resumed in 20 s: its request begins at 299 s, the other one at 310 s
    w.advance(290 * S)
    w.apply((Target(2),))
    w.advance(400 * S)
    assert sorted(w.wait_us) == [299 * S, 310 * S]
    assert metrics.rejected(w.wait_us) == 0
    assert metrics.overdue(w.wait_us, w.give_up_us) == 1
    assert metrics.overdue([300 * S, PENDING, REJECTED], w.give_up_us) == 0


def test_a_request_is_given_up_after_its_patience():
    w = world(10.0, 20.0)
    w.advance(309 * S)
    assert w.observe().waiting == 2
    w.advance(310 * S)
    seen = w.observe()
    assert seen.waiting == 1
    assert seen.waits_s == [float("inf")]
    w.apply((Target(1),))
    w.advance(330 * S)
    assert w.observe().waiting == 0
    assert w.fleet.workers[0].serving == {}


def test_a_failed_start_is_billed_and_goes_back_to_the_pool():
    machine = Machine(resume=Boot(20, 0, 20, 20, 1.0, 90), create=STEADY.create, crash_mtbf_s=0)
    w = world(1000.0, machine=machine)
    w.apply((Target(1),))
    w.advance(90 * S)
    assert states(w)[0] is State.STOPPED
    assert w.fleet.failed_boots == 1
    assert w.observe().groups[0].failed_starts == 1
    assert w.observe().groups[0].failed_starts == 0
    w.fleet.ledger.settle(w.now_us)
    assert w.fleet.ledger.hours(State.STARTING) == pytest.approx(90 / 3600)


def test_with_a_chosen_pool_the_cold_surplus_is_destroyed_and_the_lack_created():
    w = world(1000.0, tier=Tier.CHOSEN, total=2)
    assert states(w) == [State.STOPPED, State.STOPPED, State.ABSENT, State.ABSENT]
    w.apply((Target(0, 3),))
    assert states(w)[2] is State.CREATING
    w.advance(100 * S)
    w.apply((Target(0, 1),))  # the new one was wanted for the pool only: not hot, so it stops, then two are too many
    w.apply((Target(0, 1),))
    assert states(w) == [State.STOPPED, State.ABSENT, State.ABSENT, State.ABSENT]


def test_with_a_chosen_pool_stopped_workers_come_before_new_ones():
    w = world(1000.0, tier=Tier.CHOSEN, total=1)
    w.apply((Target(2, 2),))
    assert states(w)[:2] == [State.STARTING, State.CREATING]
    w.apply((Target(2, 2),))
    assert w.fleet.creations == 1


@pytest.mark.parametrize("work_s,completed,lost", [(60, 2, 0), (500, 0, 2)])
def test_an_evicted_worker_finishes_what_it_can_and_is_gone(work_s, completed, lost):
    machine = Machine(resume=STEADY.resume, create=STEADY.create, crash_mtbf_s=0, preempt_mtbf_s=100, preempt_notice_s=60)
    notice_us = machines.time_to_notice_us(machine, 1, 0, 0)
    assert notice_us is not None
    w = world(0.0, 0.0, hot=1, machine=machine, slots=2, work_s=work_s + notice_us / S - 30)
    w.advance(notice_us)
    w.apply((Target(1),))
    seen = w.observe().groups[0]
    assert (seen.evicted, seen.ready, seen.resuming) == (1, 0, 1)  # a replacement is under way, the evicted one is not taken back
    w.apply((Target(0),))
    w.advance(notice_us + 60 * S)
    assert states(w)[0] is State.ABSENT
    assert (w.fleet.preemptions, w.completed, w.observe().waiting) == (1, completed, lost)
