"""A worker's fact: how records, heartbeats and our own acts make one state of it, and when a drain is over."""

import msgspec
import pytest

from scaler import drain, lifecycle
from scaler.types import Drain, Liveness
from schemas.reasons import Cause, Why
from schemas.records import Failure
from schemas.states import WorkerState
from tests.scaler.facts import POLICY, beat, draining, instance, worker
from tests.scaler.story import T0


def test_nobody_returns_from_the_dead():
    gone = worker(WorkerState.GONE, instance_state="running", beat_state=WorkerState.READY)
    assert lifecycle.settled(gone, T0).state is WorkerState.GONE
    assert lifecycle.MOVES[WorkerState.GONE] == frozenset()
    assert all(WorkerState.PENDING not in after for after in lifecycle.MOVES.values())


def test_every_state_has_its_moves_and_all_living_ones_can_end():
    assert set(lifecycle.MOVES) == set(WorkerState)
    for before, after in lifecycle.MOVES.items():
        assert before is WorkerState.GONE or WorkerState.GONE in after


def test_the_provider_rules_over_existence_and_the_worker_over_its_inside():
    ready = worker(instance_state="running", beat_state=WorkerState.READY)
    assert lifecycle.merged(ready) is WorkerState.READY
    assert lifecycle.merged(msgspec.structs.replace(ready, instance_state="stopped")) is WorkerState.STOPPED
    assert lifecycle.merged(msgspec.structs.replace(ready, liveness=Liveness.LOST)) is WorkerState.ERROR
    assert lifecycle.merged(worker(instance_state="running")) is WorkerState.LOADING
    assert lifecycle.merged(worker(instance_state="running", from_cold=True)) is WorkerState.STARTING


def test_the_order_of_the_record_and_the_first_heartbeat_does_not_matter():
    stopped = worker(WorkerState.STOPPED, instance_state="stopped", old_boot="b1")
    record_first = lifecycle.with_instance(stopped, instance("running", state_at=T0), T0)
    record_first = lifecycle.with_heartbeat(record_first, beat(boot="b2"), T0)
    beat_first = lifecycle.with_heartbeat(stopped, beat(boot="b2"), T0)
    beat_first = lifecycle.with_instance(beat_first, instance("running", state_at=T0), T0)
    for fact in (record_first, beat_first):
        assert lifecycle.settled(fact, T0).state is WorkerState.READY
        assert (fact.boot, fact.old_boot) == ("b2", "b1")


def test_the_last_words_of_an_ended_process_do_not_count():
    running = worker(instance_state="running", beat_state=WorkerState.READY, boot="b1", seq=9)
    resting = lifecycle.with_instance(running, instance("stopping", state_at=T0), T0)
    assert not lifecycle.hears(resting, beat(seq=10), T0)
    again = lifecycle.with_instance(resting, instance("running", state_at=T0 + 1), T0 + 1)
    assert not lifecycle.hears(again, beat(seq=11), T0 + 2)
    assert lifecycle.hears(again, beat(seq=60), T0 + 60), "it never ended after all"
    assert lifecycle.hears(again, beat(boot="b2", seq=1), T0 + 2)


def test_old_and_repeated_heartbeats_are_dropped():
    fact = lifecycle.with_heartbeat(worker(instance_state="running"), beat(seq=5), T0)
    assert not lifecycle.hears(fact, beat(seq=5), T0)
    assert not lifecycle.hears(fact, beat(seq=4), T0)
    assert not lifecycle.hears(fact, beat(boot="b0", seq=1), T0), "an earlier boot, sent earlier"
    assert lifecycle.hears(fact, beat(seq=6), T0)


def test_a_machine_whose_clock_was_set_back_while_it_restarted_is_heard():
    fact = lifecycle.with_heartbeat(worker(instance_state="running"), beat(seq=5000), T0)
    assert not lifecycle.hears(fact, beat(boot="b2", seq=1), T0 + 1), "it may be a straggler"
    assert lifecycle.hears(fact, beat(boot="b2", seq=6), T0 + 6), "the other one has fallen silent"
    down = lifecycle.with_instance(fact, instance("stopping", state_at=T0 + 1), T0 + 1)
    up = lifecycle.with_instance(down, instance("running", state_at=T0 + 2), T0 + 2)
    assert lifecycle.hears(up, beat(boot="b2", seq=1), T0 + 2), "we know that the other one has ended"


def test_what_a_router_repeats_is_as_old_as_it_says():
    fact = lifecycle.with_heartbeat(worker(instance_state="running"), beat(seq=5, via="r1", age_s=7.0), T0)
    assert fact.beat_at == T0 - 7
    assert fact.liveness is Liveness.ALIVE


def test_no_log_of_a_worker_gets_into_the_state():
    failure = Failure(cause=Cause.START_CRASH, message="x" * 999, log_tail="prompt: my secret")
    fact = lifecycle.with_heartbeat(worker(instance_state="running"), beat(WorkerState.ERROR, failure=failure), T0)
    assert fact.failure is not None
    assert (fact.failure.log_tail, len(fact.failure.message)) == ("", 200)


# --- drain ---


def test_a_drain_is_done_when_no_ticket_can_arrive_and_nothing_is_in_flight():
    assert drain.progress(draining(), POLICY, T0 + 65).waits_for.startswith("tickets")
    assert drain.progress(draining(inflight=1), POLICY, T0 + 70).waits_for == "1 requests in flight"
    assert drain.progress(draining(beat_at=T0 + 60), POLICY, T0 + 70).waits_for == "a heartbeat from after the ticket window"
    done = drain.progress(draining(), POLICY, T0 + 70)
    assert (done.done, done.cut_short, done.inflight, done.ticket_window_s) == (True, False, 0, 65.0)


def test_the_ticket_window_begins_when_routers_can_read_it():
    unseen = draining(drain=Drain(since_at=T0, deadline_at=T0 + 900, then="stop", why=Why.IDLE))
    assert not drain.progress(unseen, POLICY, T0 + 500).done
    late = draining(
        drain=Drain(since_at=T0, deadline_at=T0 + 900, then="stop", why=Why.IDLE, shown_at=T0 + 100), beat_at=T0 + 150
    )
    assert not drain.progress(late, POLICY, T0 + 150).done


def test_who_was_on_its_way_up_goes_when_it_would_be_known_that_it_is_ready():
    way_out = Drain(since_at=T0, deadline_at=T0 + 900, then="destroy", why=Why.LOAD_DOWN, shown_at=T0 + 1, unready=True)
    loading = worker(
        WorkerState.DRAINING,
        drain=way_out,
        instance_state="running",
        beat_state=WorkerState.MODEL_LOADING,
        liveness=Liveness.ALIVE,
    )
    assert drain.progress(loading, POLICY, T0 + 2).waits_for.startswith("tickets")
    assert drain.progress(loading, POLICY, T0 + 4).done
    assert lifecycle.merged(loading) is WorkerState.DRAINING
    for said in (beat(WorkerState.READY), beat(WorkerState.DRAINING, inflight=1)):
        serves = lifecycle.with_heartbeat(loading, said, T0 + 3)
        assert lifecycle.merged(serves) is WorkerState.DRAINING
        assert not drain.progress(serves, POLICY, T0 + 4).done, "a ticket may be on its way"
    still = lifecycle.with_heartbeat(loading, beat(WorkerState.DRAINING), T0 + 3)
    assert drain.progress(still, POLICY, T0 + 4).done, "it was told before it was ready"


def test_a_drain_ends_at_its_deadline_or_with_its_worker():
    cut = drain.progress(draining(inflight=3, queued=1), POLICY, T0 + 900)
    assert (cut.done, cut.cut_short, cut.inflight) == (True, True, 4)
    assert drain.progress(draining(inflight=1, liveness=Liveness.LOST), POLICY, T0 + 2).cut_short
    with pytest.raises(ValueError, match="not draining"):
        drain.progress(worker(), POLICY, T0)
