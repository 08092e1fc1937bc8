"""The small pure parts, one by one."""

import math
import random

import msgspec
import pytest

from scaler import groups, learning, memory, news, records, shards, state, window
from scaler.observations import EndpointSeen
from scaler.settings import ScalerSettings
from scaler.types import GroupMemory, HostMemory, Liveness, Policy
from schemas import events
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.reasons import Cause, Phase
from schemas.records import EndpointRecord, Failure
from schemas.states import WorkerState
from tests.scaler.facts import OOM, POLICY, draining, worker
from tests.scaler.story import EP, T0, group

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
