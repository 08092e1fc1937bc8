"""The parts that only think: lifecycle, queue, counters, replay cache, causes, routes, configuration, settings."""

import base64
import math

import hypothesis
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from worker_kit import bundle

from pyworker import (
    BenchmarkConfig,
    ConfigError,
    HandlerConfig,
    LogActionConfig,
    SettingsError,
    WorkerConfig,
    admit,
    agent,
    causes,
    settings,
)
from pyworker import config as configuration
from pyworker.call import without_api_key
from pyworker.lifecycle import NEXT, IllegalMove, Life
from pyworker.load import Job, Load, Outcome
from pyworker.replay import ReplayCache, ReplayCacheFull
from pyworker.routes import Routes
from schemas.reasons import Cause
from schemas.records import Failure
from schemas.states import SELF_REPORTED, WorkerState

W = WorkerState
READY = Life().to(W.MODEL_LOADING, 1).to(W.BENCHMARKING, 2).to(W.READY, 3)
FAILURE = Failure(cause=Cause.START_CRASH, message="gone")


# --- lifecycle --------------------------------------------------------------------------------------------------------


def test_the_way_to_ready_and_back_from_an_error():
    assert READY.state is W.READY
    broken = READY.fail(FAILURE, 4)
    assert (broken.state, broken.failure) == (W.ERROR, FAILURE)
    again = broken.to(W.MODEL_LOADING, 5)
    assert (again.state, again.failure) == (W.MODEL_LOADING, None)


def test_every_state_a_worker_may_claim_is_in_the_table_or_is_draining():
    assert set(NEXT) | {W.DRAINING} == set(SELF_REPORTED)


@pytest.mark.parametrize("base", NEXT)
@pytest.mark.parametrize("to", list(WorkerState))
def test_moves_outside_the_table_change_nothing(base, to):
    life = Life(base=base)
    if to in NEXT[base] - {W.ERROR}:
        assert life.to(to, 1).base is to
    else:
        with pytest.raises(IllegalMove):
            life.to(to, 1)


def test_the_first_failure_is_the_cause():
    second = Failure(cause=Cause.HANG)
    assert READY.fail(FAILURE, 1).fail(second, 2).failure is FAILURE


def test_draining_lies_over_the_rest():
    draining = READY.drain(10)
    assert (draining.state, draining.base, draining.since) == (W.DRAINING, W.READY, 10)
    assert draining.drain(11).draining_since == 10
    assert draining.undrain(12).state is W.READY
    assert draining.fail(FAILURE, 11).state is W.ERROR, "a failure shows through"
    with pytest.raises(IllegalMove):
        draining.drain(11, leaving=True).undrain(12)


# --- the door ---------------------------------------------------------------------------------------------------------


def test_the_door():
    assert admit.doorway(READY, 0) is None
    assert admit.doorway(Life(), 0).code == "loading"
    assert admit.doorway(READY.fail(FAILURE, 4), 0).code == "unavailable"
    draining = READY.drain(100)
    assert admit.doorway(draining, 90) is None, "its ticket was given before the drain"
    assert admit.doorway(draining, 104) is None, "or by a router that had not heard"
    assert admit.doorway(draining, 106).code == "draining"
    assert admit.doorway(READY.drain(100, leaving=True), 90).code == "draining"


# --- the queue --------------------------------------------------------------------------------------------------------


def test_the_worked_example():
    assert admit.expected_wait_s([50, 20], [100], 2, 100) == pytest.approx(1.0)


units = st.lists(st.floats(0, 1e6), max_size=12)


@given(units, units, st.integers(1, 8), st.floats(0.1, 1e6))
def test_expected_wait_laws(running, queued, slots, perf):
    running = running[:slots]
    wait = admit.expected_wait_s(running, queued, slots, perf)
    assert wait >= 0
    if len(running) < slots and not queued:
        assert wait == 0
    assert admit.expected_wait_s(running, [*queued, 1000.0], slots, perf) >= wait, "more in front never helps"
    assert wait <= (sum(running) + sum(queued)) * slots / perf * (1 + 1e-9) + 1e-9
    if slots == 1:
        assert wait == pytest.approx((sum(running) + sum(queued)) / perf), "one slot: all of it has to be done first"


@given(units, units, st.integers(1, 8), st.floats(0.1, 1e6))
def test_expected_wait_is_that_of_a_simulation(running, queued, slots, perf):
    """Against the same service written differently: each slot's finish time, step by step."""
    running = running[:slots]
    ends = sorted([u * slots / perf for u in running] + [0.0] * (slots - len(running)))
    for u in queued:
        ends = sorted([ends[0] + u * slots / perf, *ends[1:]])
    assert admit.expected_wait_s(running, queued, slots, perf) == pytest.approx(ends[0])


def test_progress_is_credited():
    gate = admit.Gate(slots=1, max_queued=10)
    first = Job(100.0, admit.PARALLEL)
    gate.offer(first, max_queue_time_s=5, perf=10, now=0)
    first.started_at = 0.0
    late = Job(1.0, admit.PARALLEL)
    refused = gate.offer(late, max_queue_time_s=5, perf=10, now=0.0)
    assert isinstance(refused, admit.Refuse)
    assert refused.retry_after_s == pytest.approx(5.0)
    accepted = gate.offer(late, max_queue_time_s=5, perf=10, now=6.0)
    assert accepted == admit.Wait(pytest.approx(4.0))
    assert gate.expected_wait_s(admit.PARALLEL, perf=10, now=1000.0) == pytest.approx(0.1), "an overdue request is nearly done"


def test_unknown_speed_refuses_nobody_for_time():
    gate = admit.Gate(slots=1, max_queued=1)
    gate.offer(Job(1e9, admit.PARALLEL), max_queue_time_s=0.1, perf=0, now=0)
    assert gate.offer(Job(1, admit.PARALLEL), max_queue_time_s=0.1, perf=0, now=0) == admit.Wait(None)
    assert gate.offer(Job(1, admit.PARALLEL), max_queue_time_s=None, perf=0, now=0).code == "queue_full"


def test_serial_and_parallel_do_not_block_each_other():
    gate = admit.Gate(slots=None, max_queued=10)
    assert [type(gate.offer(Job(1, admit.SERIAL), max_queue_time_s=None, perf=1, now=0)).__name__ for _ in range(2)] == [
        "Start",
        "Wait",
    ]
    assert all(gate.offer(Job(1, admit.PARALLEL), max_queue_time_s=0, perf=1, now=0) == admit.Start() for _ in range(50))


class GateAndLoad(RuleBasedStateMachine):
    """Whatever comes and goes: first come first served, never more than the slots, nothing below zero, nothing lost."""

    def __init__(self):
        super().__init__()
        self.gate = admit.Gate(slots=3, max_queued=5)
        self.load = Load()
        self.running = {admit.SERIAL: [], admit.PARALLEL: []}
        self.waiting = {admit.SERIAL: [], admit.PARALLEL: []}
        self.now = 0.0

    @rule(lane=st.sampled_from([admit.SERIAL, admit.PARALLEL]), cost=st.floats(0, 1e6), limit=st.sampled_from([None, 5.0]))
    def offer(self, lane, cost, limit):
        self.now += 1
        job = Job(cost, lane, self.now)
        verdict = self.gate.offer(job, max_queue_time_s=limit, perf=100.0, now=self.now)
        slots = 1 if lane == admit.SERIAL else 3
        if isinstance(verdict, admit.Refuse):
            assert len(self.running[lane]) == slots
            return
        self.load.accept(job)
        if isinstance(verdict, admit.Start):
            assert not self.waiting[lane]
            self.load.start(job, self.now)
            self.running[lane].append(job)
        else:
            assert len(self.running[lane]) == slots
            self.waiting[lane].append(job)

    @precondition(lambda self: any(self.running.values()) or any(self.waiting.values()))
    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)))
    def leave(self, data, outcome):
        self.now += 1
        job = data.draw(st.sampled_from([j for jobs in (*self.running.values(), *self.waiting.values()) for j in jobs]))
        waited = job in self.waiting[job.lane]
        (self.waiting if waited else self.running)[job.lane].remove(job)
        self.load.end(job, outcome, self.now)
        following = self.gate.leave(job)
        expected = self.waiting[job.lane][0] if self.waiting[job.lane] and not waited else None
        assert following is expected, "the one that waited longest"
        if following is not None:
            self.waiting[job.lane].remove(following)
            self.running[job.lane].append(following)
            self.load.start(following, self.now)

    @invariant()
    def counters_add_up(self):
        jobs = [j for group in (*self.running.values(), *self.waiting.values()) for j in group]
        load = self.load
        assert load.units == pytest.approx(sum(j.units for j in jobs), abs=1e-3)
        assert load.units >= 0
        assert load.inflight == sum(map(len, self.running.values()))
        assert load.queued == sum(map(len, self.waiting.values())) <= 5
        assert load.requests_total == load.open + load.served_total + load.failed_total + load.cancelled_total
        assert load.busy_s(self.now) >= 0


TestGateAndLoad = GateAndLoad.TestCase
TestGateAndLoad.settings = hypothesis.settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_ending_a_job_twice_is_an_error():
    load, job = Load(), Job(5.0)
    load.accept(job)
    load.end(job, Outcome.SERVED, 1.0)
    with pytest.raises(KeyError):
        load.end(job, Outcome.SERVED, 2.0)
    assert (load.units, load.queued, load.served_total) == (0.0, 0, 1)


def test_busy_time_is_counted_once_however_many_run():
    load, one, two = Load(), Job(1.0), Job(1.0)
    for job in (one, two):
        load.accept(job)
    load.start(one, 10.0)
    load.start(two, 11.0)
    load.end(one, Outcome.SERVED, 12.0)
    assert load.busy_s(13.0) == 3.0
    load.end(two, Outcome.FAILED, 14.0)
    assert load.busy_s(99.0) == 4.0


def test_waits_and_services_are_summed_up_to_now():
    load, one, two, gone = Load(), Job(1.0, accepted_at=10.0), Job(1.0, accepted_at=10.0), Job(1.0, accepted_at=10.0)
    for job in (one, two, gone):
        load.accept(job)
    load.start(one, 10.0)
    load.start(two, 13.0)
    load.end(gone, Outcome.CANCELLED, 14.0)  # it never reached the model
    load.end(one, Outcome.SERVED, 15.0)
    load.end(two, Outcome.FAILED, 20.0)
    assert (load.queue_s_total, load.service_s_total) == (3.0, 5.0)


# --- the replay cache -------------------------------------------------------------------------------------------------


def test_the_cache_is_bounded_and_fails_closed():
    cache = ReplayCache(capacity=100)
    for number in range(100):
        cache.spend(f"t{number}", 60 + number, now=0)
    with pytest.raises(ReplayCacheFull):
        cache.spend("one more", 60, now=0)
    assert all(cache.is_spent(f"t{number}", 1) for number in range(100)), "none was forgotten to make room"
    cache.spend("later", 200, now=61)
    assert len(cache) == 100
    assert not cache.is_spent("t0", 1)
    assert cache.is_spent("t1", 1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30), st.integers(0, 5)), max_size=60))
def test_the_cache_remembers_exactly_what_may_still_be_used(steps):
    cache, known, now = ReplayCache(), {}, 0
    for number, life, passes in steps:
        now += passes
        known = {jti: exp for jti, exp in known.items() if exp >= now}
        if f"t{number}" not in known:
            cache.spend(f"t{number}", now + life, now)
            known[f"t{number}"] = now + life
        assert all(cache.is_spent(jti, 1) for jti in known)
    cache.spend("last", now + 1, now)
    assert len(cache) == len({jti for jti, exp in known.items() if exp >= now} | {"last"})


def test_a_long_pause_does_not_make_it_walk_every_second():
    cache = ReplayCache()
    cache.spend("a", 10, now=0)
    cache.spend("b", 2**40, now=2**40 - 5)
    assert len(cache) == 1


# --- causes, routes, words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "status", "cause"),
    [
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate", 1, Cause.MODEL_OOM),
        ("terminate called: std::bad_alloc", -6, Cause.MODEL_OOM),
        ("", -9, Cause.MODEL_OOM),
        ("OSError: [Errno 98] Address already in use", 1, Cause.PORT_CONFLICT),
        ("error loading model: failed to open model.gguf", 1, Cause.MODEL_DOWNLOAD),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/models/a.safetensors'", 1, Cause.MODEL_DOWNLOAD),
        ("KeyError: 'x'", 1, Cause.START_CRASH),
        ("", 0, Cause.START_CRASH),
    ],
)
def test_causes(tail, status, cause):
    assert causes.classify(tail, status) is cause


def test_routes_prefer_the_exact_then_the_longest():
    names = ["/v1/chat/completions", "/v1/*", "/v1/chat/*", "/*"]
    routes = Routes([HandlerConfig(name) for name in names])
    assert [routes.match(p).route for p in ("/v1/chat/completions", "/v1/chat/x", "/v1/x", "/x", "/v1")] == [
        *names[:1],
        "/v1/chat/*",
        "/v1/*",
        "/*",
        "/*",
    ]
    assert Routes([HandlerConfig("/a")]).match("/a/") is None


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("api_key=s&a=1", "a=1"),
        ("a=1&api%5Fkey=s", "a=1"),
        ("API_KEY=s", ""),
        ("a=api_key", "a=api_key"),
        ("a=%20&b", "a=%20&b"),
        ("", ""),
    ],
)
def test_the_api_key_is_taken_out_of_the_query(query, left):
    assert without_api_key(query) == left


# --- configuration ----------------------------------------------------------------------------------------------------


BENCH = BenchmarkConfig(dataset=[{"a": 1}])


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (WorkerConfig(perf=1.0), "handlers is empty"),
        (WorkerConfig(handlers=[HandlerConfig("/a")]), "exactly one handler"),
        (
            WorkerConfig(handlers=[HandlerConfig("/a", benchmark_config=BENCH), HandlerConfig("/b", benchmark_config=BENCH)]),
            "exactly one",
        ),
        (WorkerConfig(handlers=[HandlerConfig("a", benchmark_config=BENCH)]), "starts with /"),
        (WorkerConfig(handlers=[HandlerConfig("/a*b", benchmark_config=BENCH)]), "at the end"),
        (WorkerConfig(handlers=[HandlerConfig("/a"), HandlerConfig("/a")], perf=1.0), "twice"),
        (WorkerConfig(handlers=[HandlerConfig("/a", benchmark_config=BenchmarkConfig())]), "dataset or a generator"),
        (WorkerConfig(handlers=[HandlerConfig("/*", benchmark_config=BENCH)]), "one path"),
        (WorkerConfig(handlers=[HandlerConfig("/a", handler_class=object)], perf=1.0), "handler_class is not supported"),
        (WorkerConfig(handlers=[HandlerConfig("/a", max_queue_time=math.nan)], perf=1.0), "max_queue_time"),
        (WorkerConfig(handlers=[HandlerConfig("/a")], perf=0.0), "perf"),
        (WorkerConfig(handlers=[HandlerConfig("/a")], perf=1.0, slots=0), "slots"),
    ],
)
def test_a_config_that_cannot_work_says_why(config, word):
    with pytest.raises(ConfigError, match=word.replace("/", ".")):
        configuration.check(config)


def test_a_config_as_vasts_documents_have_it_is_taken():
    config = WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=18000,
        model_log_file="/var/log/model.log",
        model_healthcheck_url="/health",
        max_sessions=5,
        handlers=[
            HandlerConfig(
                route="/v1/completions",
                allow_parallel_requests=True,
                max_queue_time=60.0,
                workload_calculator=lambda payload: payload["max_tokens"],
                benchmark_config=BenchmarkConfig(
                    generator=lambda: {"prompt": "x", "max_tokens": 5}, runs=3, concurrency=20, do_warmup=False
                ),
            ),
            HandlerConfig(route="/x", request_parser=lambda p: p["input"]),
        ],
        log_action_config=LogActionConfig(
            on_load=["Application startup complete."], on_error=["Traceback"], on_info=['"message":"Download']
        ),
    )
    configuration.check(config)


# --- settings ---------------------------------------------------------------------------------------------------------


def token(made) -> str:
    return "corral1." + base64.urlsafe_b64encode(msgspec.json.encode(made)).decode().rstrip("=")


BUNDLE = bundle("http://r", nats_seed="SUSECRET")


def test_settings_from_a_token_and_vasts_variables():
    env = {
        "CORRAL_WORKER_TOKEN": token(BUNDLE),
        "WORKER_PORT": "3000",
        "VAST_TCP_PORT_3000": "41000",
        "PUBLIC_IPADDR": "1.2.3.4",
        "MODEL_PORT": "18000",
    }
    own = settings.load(env)
    assert own.bundle == BUNDLE
    assert (own.port, own.model_port, own.host) == (3000, 18000, "127.0.0.1")
    assert own.url(3000) == "http://1.2.3.4:41000"
    assert "SUSECRET" not in repr(own)
    assert settings.load({**env, "PUBLIC_IPADDR": "::1"}).url(3000) == "http://[::1]:41000"
    assert [own.own_url(address, 3000) for address in ("0.0.0.0", "10.0.0.7", "::", "fd00::7")] == [
        "http://127.0.0.1:3000",
        "http://10.0.0.7:3000",
        "http://[::1]:3000",
        "http://[fd00::7]:3000",
    ]


@pytest.mark.parametrize(
    ("url", "port", "model_port", "expected"),
    [
        (None, None, "8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1", 18000, "8000", "http://127.0.0.1:18000"),
        ("http://127.0.0.1", None, "8000", "http://127.0.0.1:8000"),
        ("http://10.0.0.5:9000/", None, "8000", "http://10.0.0.5:9000"),
        ("https://models.internal", None, "", "https://models.internal"),
        (None, None, "", SettingsError),
    ],
)
def test_where_the_model_listens(url, port, model_port, expected):
    config = WorkerConfig(model_server_url=url, model_server_port=port, handlers=[HandlerConfig("/a")], perf=1.0)
    own = settings.load({"CORRAL_WORKER_TOKEN": token(BUNDLE), "MODEL_PORT": model_port})
    if expected is SettingsError:
        with pytest.raises(SettingsError, match="MODEL_PORT"):
            agent._base_url(config, own)
    else:
        assert agent._base_url(config, own) == expected


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({}, "CORRAL_WORKER_TOKEN"),
        ({"CORRAL_WORKER_TOKEN": "abc"}, "does not start"),
        ({"CORRAL_WORKER_TOKEN": token(BUNDLE)[:-20]}, "CORRAL_WORKER_TOKEN cannot be read"),
        ({"CORRAL_WORKER_BUNDLE": "/nowhere/bundle.json"}, "CORRAL_WORKER_BUNDLE names /nowhere"),
        ({"CORRAL_WORKER_TOKEN": token(BUNDLE), "WORKER_PORT": "nine"}, "WORKER_PORT is 'nine'"),
        ({"CORRAL_WORKER_TOKEN": token(BUNDLE), "WORKER_PORT": "70000"}, "WORKER_PORT is 70000"),
        ({"CORRAL_WORKER_TOKEN": token(BUNDLE), "PYWORKER_HOST": "0.0.0.0"}, "PUBLIC_IPADDR is missing"),
        ({"CORRAL_WORKER_TOKEN": token(BUNDLE), "PYWORKER_TLS_CERT": "/a"}, "belong together"),
    ],
)
def test_wrong_settings_are_named_with_the_next_step(env, word):
    with pytest.raises(SettingsError) as caught:
        settings.load(env)
    assert word in caught.value.message
    assert caught.value.hint
    assert "SUSECRET" not in str(caught.value)
