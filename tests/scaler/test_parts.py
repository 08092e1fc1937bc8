"""The small pure parts, one by one."""

import math
import random

import msgspec
import pytest

from scaler import drain, groups, learning, lifecycle, memory, news, records, shards, state, window
from scaler.liveness import AT_ONCE_S, LOST_S, SUSPECT_S, WARM_S, Vigil
from scaler.observations import EndpointSeen
from scaler.settings import ScalerSettings
from scaler.types import Drain, GroupMemory, HostMemory, Liveness, Policy, Telemetry, WorkerFact
from schemas import events
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.reasons import Cause, Phase, Why
from schemas.records import EndpointRecord, Failure, InstanceRecord
from schemas.signals import Heartbeat
from schemas.states import WorkerState
from tests.scaler.story import EP, G1, T0, group

POLICY = Policy()
W1, W2, W3 = WorkerId("w1"), WorkerId("w2"), WorkerId("w3")
OOM = Failure(cause=Cause.MODEL_OOM, message="out of memory", at=T0)


# --- window ---


def test_a_window_is_a_rate_over_what_was_really_measured():
    w = window.fresh(5.0, 20, 1000.0)
    assert window.mean_per_s(w, 1002.0, 60) is None, "two seconds are no rate"
    for second in range(1, 31):
        w = window.spread(w, 1000.0 + second - 1, 1000.0 + second, 7.0)
    assert window.mean_per_s(w, 1030.0, 60) == pytest.approx(7.0)
    assert window.mean_per_s(w, 1030.0, 10) == pytest.approx(7.0)
    assert window.mean_per_s(w, 1060.0, 60) == pytest.approx(3.5)
    assert window.mean_per_s(w, 9999.0, 60) == 0.0


def test_what_came_while_nobody_listened_is_spread_over_that_time():
    w = window.fresh(5.0, 20, 1000.0)
    w = window.spread(w, 1003.0, 1053.0, 500.0)
    assert sum(w.values) == pytest.approx(500.0)
    assert window.mean_per_s(w, 1053.0, 30) == pytest.approx(10.0)
    long_ago = window.spread(w, 0.0, 1060.0, 1060.0)
    assert sum(long_ago.values) < sum(w.values) + 101, "what is older than the window is not put into it"


def test_peaks_pass():
    w = window.fresh(10.0, 6, 1000.0)
    w = window.raised(window.raised(w, 1001.0, 9.0), 1021.0, 4.0)
    assert window.peak(w, 1025.0, 60) == 9.0
    assert window.peak(w, 1065.0, 60) == 4.0
    assert window.peak(w, 2000.0, 60) == 0.0


def test_a_window_never_goes_back():
    w = window.added(window.fresh(5.0, 4, 1000.0), 1012.0, 3.0)
    assert window.advanced(w, 990.0) == w
    assert sum(window.added(w, 990.0, 2.0).values) == 5.0


# --- liveness ---


def vigil(*speakers: WorkerId, at: float = 0.0) -> Vigil:
    found = Vigil(at)
    for worker in speakers:
        found.expect(worker, EP, at)
        found.heard(worker, at)
    found.judge(at, connected=True)
    return found


def run(watch: Vigil, begin: float, end: float, speakers: tuple[WorkerId, ...], *, carries: bool = True, connected: bool = True):
    """(time, worker or telemetry, what) of every change; a beat per second, a judgement four times."""
    changes = []
    telemetry = watch.telemetry
    at = begin
    while at < end:
        if float(at).is_integer():
            for worker in speakers:
                watch.heard(worker, at)
        if carries:
            watch.carried(at)
        for found in watch.judge(at, connected=connected):
            changes.append((at, found.worker_id, found.liveness))
        if watch.telemetry is not telemetry:
            telemetry = watch.telemetry
            changes.append((at, telemetry))
        at += 0.25
    return changes


def test_one_of_three_falls_silent():
    watch = vigil(W1, W2, W3)
    assert run(watch, 0.0, 5.0, (W1, W2, W3)) == []
    assert run(watch, 5.0, 30.0, (W1, W2)) == [(4.0 + SUSPECT_S, W3, Liveness.SUSPECT), (4.0 + LOST_S, W3, Liveness.LOST)]


def test_all_fall_silent_at_once_and_nobody_is_dead():
    watch = vigil(W1, W2, W3)
    run(watch, 0.0, 5.0, (W1, W2, W3))
    assert run(watch, 5.0, 600.0, ()) == [(4.0 + SUSPECT_S, Telemetry.FROZEN)]
    assert run(watch, 600.0, 609.0, (W1, W2, W3)) == [(600.0, Telemetry.LIVE)]


def test_out_of_step_all_fall_silent_and_nobody_is_suspected_before():
    watch = Vigil(0.0)
    for worker in (W1, W2, W3):
        watch.expect(worker, EP, 0.0)
    changes, at = [], 0.0
    while at < 60.0:
        at += 0.125
        for phase, worker in ((0.125, W1), (0.5, W2), (0.875, W3)):
            if at < 20 and at % 1.0 == phase:
                watch.heard(worker, at)
        watch.carried(at)  # the bus brings other things all the time
        changes += watch.judge(at, connected=True)
    assert changes == []
    assert watch.telemetry is Telemetry.FROZEN


def test_who_stays_silent_after_the_thaw_is_judged_with_a_new_clock():
    watch = vigil(W1, W2, W3)
    run(watch, 0.0, 5.0, (W1, W2, W3))
    run(watch, 5.0, 100.0, ())
    changes = run(watch, 100.0, 120.0, (W1, W2))
    assert changes == [(100.0, Telemetry.LIVE), (100.0 + SUSPECT_S, W3, Liveness.SUSPECT), (100.0 + LOST_S, W3, Liveness.LOST)]


def test_two_that_die_apart_are_two_deaths():
    watch = vigil(W1, W2)
    run(watch, 0.0, 5.0, (W1, W2))
    run(watch, 5.0, 5.0 + AT_ONCE_S + 2, (W1,))
    lost = [change[1] for change in run(watch, 5.0 + AT_ONCE_S + 2, 40.0, ()) if change[-1] is Liveness.LOST]
    assert lost == [W2, W1]


def test_a_single_worker_is_judged_only_while_the_bus_carries_something():
    watch = vigil(W1)
    run(watch, 0.0, 5.0, (W1,))
    assert [c[-1] for c in run(watch, 5.0, 60.0, (), carries=False)] == [Liveness.SUSPECT], "until the bus fell silent too"
    assert [change[-1] for change in run(watch, 60.0, 61.0, ())] == [Liveness.LOST]


def test_deaf_ourselves_nobody_is_judged_and_all_clocks_start_anew():
    watch = vigil(W1, W2)
    run(watch, 0.0, 5.0, (W1, W2))
    assert run(watch, 5.0, 60.0, (), connected=False) == [(5.0, Telemetry.DEAF)]
    assert run(watch, 60.0, 63.0, ()) == [(60.0, Telemetry.LIVE)]


def test_when_we_stood_still_it_is_not_their_silence():
    watch = vigil(W1)
    run(watch, 0.0, 5.0, (W1,))
    watch.carried(65.0)
    assert watch.judge(65.0, connected=True) == (), "the process was stopped for a minute"
    assert run(watch, 65.25, 68.0, ()) == []


def test_a_new_leader_listens_before_it_judges():
    watch = Vigil(0.0)
    watch.expect(W1, EP, 0.0, spoke=True)
    watch.expect(W2, EP, 0.0, spoke=True)
    watch.judge(0.0, connected=True)
    assert watch.telemetry is Telemetry.WARMING
    watch.heard(W1, 1.0)
    watch.judge(1.0, connected=True)
    assert watch.telemetry is Telemetry.WARMING
    changes = run(watch, 1.25, 20.0, (W1,))
    assert (WARM_S, Telemetry.LIVE) in changes
    assert [change[1] for change in changes if change[-1] is Liveness.LOST] == [W2]


def test_who_never_spoke_is_not_lost_by_silence():
    watch = vigil(W1)
    watch.expect(W2, EP, 0.0)
    assert run(watch, 1.0, 60.0, (W1,)) == []


# --- lifecycle ---


def worker(worker_state: WorkerState = WorkerState.READY, **fields) -> WorkerFact:
    return WorkerFact(**{"worker_id": W1, "group_id": G1, "state": worker_state, **fields})


def beat(worker_state: WorkerState = WorkerState.READY, *, boot: str = "b1", seq: int = 1, **fields) -> Heartbeat:
    return Heartbeat(
        worker_id=W1,
        endpoint_id=EP,
        group_id=G1,
        boot=boot,
        seq=seq,
        sent_at=T0 + seq,
        state=worker_state,
        **{"perf": 10.0, **fields},
    )


def instance(instance_state: str, **fields) -> InstanceRecord:
    return InstanceRecord(worker_id=W1, endpoint_id=EP, group_id=G1, provider="process", state=instance_state, **fields)


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


def draining(**fields) -> WorkerFact:
    way_out = Drain(since_at=T0, deadline_at=T0 + 900, then="stop", why=Why.IDLE, shown_at=T0 + 1, told=True)
    return worker(WorkerState.DRAINING, **{"drain": way_out, "beat_at": T0 + 70.0, "liveness": Liveness.ALIVE, **fields})


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


# --- learning ---


def test_three_failures_in_a_row_open_the_breaker_and_one_success_between_does_not():
    memory_of_group = GroupMemory()
    for n in range(2):
        memory_of_group = learning.start_failed(memory_of_group, OOM, Phase.MODEL, 0.5, T0 + n, POLICY)
    assert memory_of_group.breaker is None
    mended = learning.start_failed(learning.start_proven(memory_of_group), OOM, Phase.MODEL, 0.5, T0, POLICY)
    assert mended.breaker is None
    broken = learning.start_failed(memory_of_group, OOM, Phase.MODEL, 0.5, T0, POLICY)
    assert broken.breaker is not None
    assert (broken.breaker.failures, broken.breaker.cost_usd, broken.breaker.cause) == (3, 1.5, Cause.MODEL_OOM)
    assert learning.breaker_reset(broken).breaker is None


def test_the_market_never_opens_the_breaker():
    known = GroupMemory()
    for n in range(50):
        known = learning.start_failed(known, Failure(cause=Cause.NO_OFFER, at=T0), Phase.RENT, 0.0, T0 + n, POLICY)
    assert known.breaker is None
    assert known.backoff_until_at <= T0 + 49 + POLICY.backoff_max_s


def test_boot_times_and_failure_rates_are_learned():
    known = GroupMemory()
    assert learning.boot_s(known, from_cold=False, guess_s=30.0) == 30.0
    chance = random.Random(1)
    for _ in range(40):
        known = learning.became_ready(known, worker(launched_at=T0, perf=100.0, slots=8), T0 + chance.uniform(40, 60))
        known = learning.start_proven(known)
    assert 40 <= learning.boot_s(known, from_cold=False, guess_s=30.0) <= 60
    assert learning.boot_s(known, from_cold=False, guess_s=30.0, quantile=0.95) >= learning.boot_s(
        known, from_cold=False, guess_s=30.0
    )
    assert learning.failure_rate(known) == 0.0
    assert learning.failure_rate(learning.start_failed(known, OOM, Phase.MODEL, 0.0, T0, POLICY)) == pytest.approx(0.1, abs=0.03)
    assert len(known.boot_new_s) == 16, "bounded"


def ready_on(known: GroupMemory, host: str) -> GroupMemory:
    return learning.became_ready(known, worker(host=host), T0)


def test_a_host_is_shut_out_only_where_the_template_works_elsewhere():
    first = learning.host_failed(None, T0, POLICY, template_works=True)
    assert first.quarantined_until_at == 0.0
    assert learning.host_failed(first, T0, POLICY, template_works=True).quarantined_until_at == T0 + POLICY.quarantine_s
    assert learning.host_failed(first, T0, POLICY, template_works=False).quarantined_until_at == 0.0
    known, none = GroupMemory(), {}
    assert not learning.works_elsewhere(known, none, "a", T0), "nothing was ready anywhere yet"
    known = ready_on(known, "a")
    assert not learning.works_elsewhere(known, none, "a", T0), "the only host that is known is not elsewhere"
    assert learning.works_elsewhere(known, none, "b", T0)
    known = ready_on(ready_on(known, "b"), "")
    assert known.good_hosts == ("a", "b"), "what has no name is nowhere"
    assert learning.works_elsewhere(known, none, "a", T0)
    shut = {"b": HostMemory(failures=2, quarantined_until_at=T0 + 1)}
    assert not learning.works_elsewhere(known, shut, "a", T0), "the last good host is kept"
    assert learning.works_elsewhere(known, shut, "a", T0 + 1)
    for name in ("c", "a"):
        known = ready_on(known, name)
    assert known.good_hosts == ("c", "a"), "bounded"


def test_of_many_bad_hosts_a_command_names_the_newest():
    bad = {f"h{n:02}": HostMemory(failures=2, quarantined_until_at=T0 + 1 + n, failed_at=T0 + n) for n in range(40)}
    here = msgspec.structs.replace(state.initial(EP, T0), hosts=bad)
    assert groups.quarantined(here, T0) == tuple(f"h{n:02}" for n in range(8, 40))
    assert groups.quarantined(here, T0 + 38.5) == ("h38", "h39")


# --- memory ---


def test_a_memory_of_a_hundred_workers_and_a_full_engine_fits():
    here = state.apply(
        state.initial(EP, T0),
        EndpointSeen(at=T0, endpoint=EndpointRecord(id=EP, name="x", groups=tuple(group(GroupId(n)) for n in range(20)))),
    )
    crowd = {WorkerId(f"w{n}"): draining(worker_id=WorkerId(f"w{n}"), url="http://x" * 8) for n in range(100)}
    chance = random.Random(2)
    times = {name: tuple(round(chance.uniform(1, 900), 1) for _ in range(12)) for name in ("rent", "boot", "model", "cold_boot")}
    boots = tuple(chance.uniform(20, 900) for _ in range(16))
    learned = {
        group_id: msgspec.structs.replace(known, phase_s=times, boot_new_s=boots, boot_cold_s=boots, rebooted_at=(T0,) * 6)
        for group_id, known in here.groups.items()
    }
    hosts = {f"host-{n}.example": HostMemory(failures=2, quarantined_until_at=T0, failed_at=T0) for n in range(64)}
    full = msgspec.structs.replace(here, workers=crowd, groups=learned, hosts=hosts, engine=chance.randbytes(32 * 1024))
    data = memory.dump(full)
    assert len(data) < memory.USUAL_BYTES
    assert memory.load(data).engine == full.engine
    assert set(memory.load(data).workers) == set(crowd)


def test_an_engine_that_outgrew_its_bound_is_left_out_and_the_rest_is_kept():
    full = msgspec.structs.replace(state.initial(EP, T0), engine=random.Random(1).randbytes(1024 * 1024), generation=7)
    back = memory.load(memory.dump(full))
    assert (back.engine, back.generation) == (b"", 7)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x78nonsense", b"{}", b'{"endpoint_id": 1, "format": 99}'])
def test_a_memory_that_is_none_is_refused(data):
    with pytest.raises(ValueError, match="scaler state"):
        memory.load(data)


def test_a_memory_of_a_later_format_says_so():
    later = msgspec.structs.replace(state.initial(EP, T0), format=99)
    with pytest.raises(ValueError, match="upgrade the scaler"):
        memory.load(memory.dump(later))


# --- the rest ---


def test_shards_are_even_and_the_same_everywhere():
    counts = [0] * shards.SHARDS
    for n in range(16_000):
        counts[shards.shard_of(EndpointId(n))] += 1
    assert min(counts) > 800 and max(counts) < 1200
    assert shards.shard_of(EndpointId(42)) == 14
    assert shards.lease_of(EndpointId(42), 1) == 0


def test_load_is_no_slow_change_and_a_state_is():
    before = worker(inflight=1, beat_at=T0)
    assert not records.is_slow_change(before, msgspec.structs.replace(before, inflight=9, beat_at=T0 + 1, load_units=7.0))
    assert records.is_slow_change(before, msgspec.structs.replace(before, state=WorkerState.ERROR))
    assert records.is_slow_change(before, msgspec.structs.replace(before, liveness=Liveness.SUSPECT))
    assert records.is_slow_change(None, before)


def test_news_of_one_change_have_ids_that_a_new_leader_would_choose_too():
    ready = worker(launched_at=T0, ready_at=T0 + 30, state_at=T0 + 30, boot="b1")
    record = records.worker_record(EP, ready, None, None)
    told = news.of_change(None, record, ready, T0 + 31)
    again = news.of_change(None, record, ready, T0 + 99)
    assert [event.id for event in told] == [event.id for event in again]
    assert [type(event) for event in told] == [events.WorkerChanged, events.WorkerReady]
    assert told[1].cold_start_s == 30.0


def test_settings_become_the_policy():
    policy = ScalerSettings(tick_s=5.0, mode="advisory", ticket_ttl_s=30.0, reboots_per_worker=0).policy("salt")
    assert (policy.reboots_per_worker, policy.horizon_s) == (0, Policy().horizon_s)
    assert (policy.tick_s, policy.mode, policy.ticket_ttl_s, policy.installation) == (5.0, "advisory", 30.0, "salt")
    assert all(math.isfinite(v) for v in msgspec.structs.asdict(policy).values() if isinstance(v, float))
