"""Who is routable: the record and the heartbeat together, and silence only against the others."""

import pytest

from router.liveness import Liveness
from router.view import LOST_AFTER_S, SUSPECT_AFTER_S, Standing, Worker, fold_promise, fold_pulse, fold_record, standing
from schemas.states import WorkerState
from tests.router.fleets import Board, pulse, record

S = WorkerState


@pytest.mark.parametrize(
    "recorded, said, expected",
    [
        (S.READY, None, Standing.GOOD),  # a router that just started believes the record
        (S.READY, S.READY, Standing.GOOD),
        (S.BENCHMARKING, S.READY, Standing.GOOD),  # ready before the scaler has written it
        (S.CREATING, S.READY, Standing.GOOD),
        (S.BENCHMARKING, None, Standing.OUT),
        (S.READY, S.MODEL_LOADING, Standing.OUT),  # it started anew
        (S.READY, S.DRAINING, Standing.OUT),
        (S.READY, S.ERROR, Standing.OUT),
        (S.DRAINING, S.READY, Standing.OUT),  # the scaler wants it empty
        (S.STOPPED, S.READY, Standing.OUT),
        (S.DESTROYING, S.READY, Standing.OUT),
        (S.ERROR, S.READY, Standing.OUT),
        (S.REBOOTING, S.READY, Standing.OUT),  # last words of the process that goes down
    ],
)
def test_record_and_heartbeat_must_agree(recorded, said, expected):
    worker = Worker(record(1, state=recorded, boot="b1"))
    if said is not None:
        fold_pulse(worker, pulse(1, said), 10.0)
    assert standing(worker, 0.0, 10.0) is expected


def test_a_rebooted_worker_counts_with_its_new_boot():
    worker = Worker(record(1, state=S.REBOOTING, boot="b1"))
    fold_pulse(worker, pulse(1, boot="b2"), 10.0)
    assert standing(worker, 0.0, 10.0) is Standing.GOOD


def test_a_worker_without_an_address_gets_nothing():
    assert standing(Worker(record(1, url="")), 0.0, 10.0) is Standing.OUT


def test_repeats_and_stragglers_change_nothing():
    worker = Worker(record(1))
    assert fold_pulse(worker, pulse(1, seq=5, inflight=1), 10.0)
    assert not fold_pulse(worker, pulse(1, seq=5, inflight=9), 11.0)
    assert not fold_pulse(worker, pulse(1, seq=4, inflight=9), 11.0)
    assert not fold_pulse(worker, pulse(1, boot="b0", seq=99, sent_at=1.0, inflight=9), 11.0)
    assert worker.inflight == 1


def test_a_machine_whose_clock_was_set_back_while_it_restarted_is_heard():
    worker = Worker(record(1))
    assert fold_pulse(worker, pulse(1, boot="b1", sent_at=5000.0, inflight=3), 10.0)
    assert not fold_pulse(worker, pulse(1, boot="b2", sent_at=1.0), 11.0), "it may be a straggler"
    assert fold_pulse(worker, pulse(1, boot="b2", sent_at=6.0), 16.0), "the other one has fallen silent"
    assert worker.inflight == 0


def test_a_report_covers_promises_by_what_arrived_there_also_when_it_was_refused():
    worker = Worker(record(1))
    fold_pulse(worker, pulse(1, requests_total=10, rejected_total=1), 10.0)
    for _ in range(5):
        worker.ledger.promise(10.5, 1.0)
    fold_pulse(worker, pulse(1, requests_total=12, rejected_total=2, inflight=2), 11.0)
    assert worker.promised == 2
    fold_pulse(worker, pulse(1, boot="b2", requests_total=0, sent_at=1e9), 11.5)
    assert worker.promised == 0  # promises died with the process


def test_promises_that_nobody_keeps_are_forgotten_by_the_next_reports():
    worker = Worker(record(1))
    fold_pulse(worker, pulse(1), 10.0)
    fold_promise(worker, 1, 1.0, 100.0, 10.0)
    fold_pulse(worker, pulse(1), 12.0)
    assert (worker.promised, worker.there) == (1, 1.0)
    fold_pulse(worker, pulse(1), 13.5)
    assert (worker.promised, worker.there) == (0, 0.0)


def test_the_interval_of_heartbeats_is_learned_at_once_when_it_grows_and_slowly_when_it_shrinks():
    worker = Worker(record(1))
    for at in (10.0, 11.0, 12.0):
        fold_pulse(worker, pulse(1), at)
    assert worker.interval_s == 1.0
    fold_pulse(worker, pulse(1), 17.0)
    assert worker.interval_s == 5.0
    fold_pulse(worker, pulse(1), 17.1)  # at once, for a change
    assert worker.interval_s > 4.5
    fold_pulse(worker, pulse(1), 999.0)
    assert worker.interval_s == 10.0, "after an outage not longer than is believed"


def test_where_heartbeats_are_slow_more_is_bound_ahead_and_never_above_max_queue_time():
    for slow, max_queue_time, bound in ((False, 30.0, 1), (True, 30.0, 5), (True, 2.0, 2)):
        board = Board(max_queue_time=max_queue_time)
        board.add(1, slots=1)
        board.beat(1)
        board.now += 5.0 if slow else 1.0
        board.beat(1)
        placed = [board.ask(cost=100.0)[1] for _ in range(8)]  # 1 s each
        assert sum(placement is not None for placement in placed) == bound


def test_a_stopped_worker_forgets_what_it_said():
    worker = Worker(record(1))
    fold_pulse(worker, pulse(1, inflight=3), 10.0)
    fold_record(worker, record(1, state=S.STOPPED))
    fold_record(worker, record(1, state=S.READY))
    assert worker.pulse is None
    assert worker.inflight == 0


def test_one_silent_worker_among_speaking_ones_is_suspected_then_left_out():
    board = Board()
    board.add(1), board.add(2)
    board.beat(1), board.beat(2)
    for second in range(1, 12):
        board.now += 1.0
        board.beat(2)
        board.sweep(board.now)
        expected = Standing.GOOD if second < SUSPECT_AFTER_S else Standing.SUSPECT if second < LOST_AFTER_S else Standing.OUT
        assert board.the.fleet.workers["w1"].standing is expected, second
    board.beat(1)
    assert board.the.fleet.workers["w1"].standing is Standing.GOOD


def test_when_all_fall_silent_it_is_our_network_and_nobody_is_left_out():
    board = Board()
    board.add(1), board.add(2)
    board.beat(1), board.beat(2)
    board.later(3600.0)
    assert {worker.standing for worker in board.the.fleet.workers.values()} == {Standing.GOOD}


def test_without_reports_a_promise_stands_until_its_work_should_be_done():
    board = Board()
    worker = board.add(1, slots=8, perf=100.0)
    board.beat(1, slots=8)
    for _ in range(4):
        board.ask(cost=200.0)  # 16 s on one slot
    board.beat(1, slots=8, requests_total=4, inflight=4)
    assert worker.promised == 0
    for _ in range(3):
        board.ask(cost=200.0)
    board.later(18.0)
    assert worker.promised == 3
    board.later(2.0)
    assert worker.promised == 0


def test_suspects_serve_only_when_there_is_nobody_else():
    board = Board({}, {"tier": 1})
    board.add(1, slots=2), board.add(2, suspect=True), board.add(3, group=2, suspect=True)
    assert [board.ask()[1].worker.id for _ in range(2)] == ["w1", "w1"]
    assert board.ask()[1] is None
    board.worker_gone(board.the.id, "w1")
    assert board.ask()[1].worker.id == "w2"


def test_liveness_costs_nothing_for_those_who_speak():
    liveness, workers = Liveness(), [Worker(record(n)) for n in range(100)]
    for tick in range(20):
        for worker in workers:
            worker.pulse, worker.heard_at = pulse(1), float(tick)
            liveness.heard(worker, float(tick))
        assert list(liveness.changed()) == []


def test_what_a_router_repeats_is_no_fresher_than_it_says():
    worker = Worker(record(1))
    fold_pulse(worker, pulse(1, inflight=3, via="r2", age_s=4.0), 100.0)
    assert (worker.heard_at, worker.reported_at) == (100.0, 96.0), "alive now, busy as of then"
    assert worker.envelope


def test_a_worker_of_vasts_is_known_from_its_record_before_it_is_heard():
    worker = Worker(record(1, protocol=0))
    assert worker.envelope
    fold_record(worker, record(1))
    assert not worker.envelope
