"""Is the model there? Real processes, killed for real; logs that turn over; benchmarks that count what counts."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from worker_kit import Model, bearer, bundle, config_for, environ, serving, soon

from pyworker import BenchmarkConfig, HandlerConfig, LogActionConfig, Timeouts, Worker, WorkerConfig
from pyworker.logtail import LogTail
from schemas.reasons import Cause, Phase
from schemas.states import WorkerState

ECHO = Path(__file__).parents[2] / "examples" / "echo"


def echo_config(**more) -> WorkerConfig:
    defaults = {
        "model_command": [sys.executable, str(ECHO / "model_server.py")],
        "model_env": {"ECHO_LOAD_S": "0.1", "ECHO_TOKEN_S": "0.002"},
        "model_healthcheck_url": "/health",
        "model_stop_timeout_s": 2.0,
        "slots": 4,
        "handlers": [
            HandlerConfig(
                "/generate",
                allow_parallel_requests=True,
                workload_calculator=lambda p: float(p["max_tokens"]),
                benchmark_config=BenchmarkConfig(
                    dataset=[{"prompt": "a b", "max_tokens": 5}], runs=2, concurrency=4, do_warmup=False
                ),
            )
        ],
    }
    return WorkerConfig(**(defaults | more))


def child_of(running) -> psutil.Process:
    return psutil.Process(running.agent._backend._process._process.pid)


async def test_a_worker_starts_its_model_measures_it_and_ends_it(start_worker, router, http):
    worker = await start_worker(echo_config())
    beat = worker.agent._next_heartbeat()
    assert 0 < beat.perf < 5 / 0.01 * 4
    assert beat.slots == 4
    assert beat.model_load_s >= 0.1
    assert beat.bench_s >= 0.02
    reply = await http.post(f"{worker.url}/generate", json=router.envelope({"prompt": "one two", "max_tokens": 3}))
    assert await reply.json() == {"text": "one two one", "tokens": 3}
    child = child_of(worker)
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0), "a process group of its own"
    worker.agent.leave()
    await asyncio.wait_for(worker.task, 10)
    assert not child.is_running()


async def test_a_model_killed_in_mid_stream(start_worker, router, http):
    """The client sees a clean error, the worker is out of `ready` at once and says why, without the log that may quote prompts."""
    worker = await start_worker(echo_config())
    body = json.dumps(router.envelope({"prompt": "canary", "max_tokens": 1000, "delay_s": 0.01, "stream": True})).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
    writer.write(b"POST /generate HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await reader.readuntil(b"data: ")
    killed_at = time.monotonic()
    child_of(worker).send_signal(signal.SIGKILL)
    await worker.until(WorkerState.ERROR, 5)
    left_ready_s = time.monotonic() - killed_at
    rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert rest.count(b"event: error") == 1
    assert b'"model_died"' in rest
    assert not rest.endswith(b"0\r\n\r\n"), "it does not look complete"
    failure = worker.agent.life.failure
    assert (failure.cause, failure.phase, failure.log_tail) == (Cause.MODEL_OOM, Phase.SERVE, "")
    assert "SIGKILL" in failure.message
    assert left_ready_s < 1.0
    after = await http.post(f"{worker.url}/generate", json=router.envelope({"prompt": "x", "max_tokens": 1}))
    assert (after.status, (await after.json())["error"]) == (503, "unavailable")


@pytest.mark.parametrize(
    ("code", "cause", "word"),
    [
        ("import sys; print('loading'); sys.exit(3)", Cause.START_CRASH, "status 3"),
        ("raise MemoryError", Cause.MODEL_OOM, "status 1"),
        ("raise OSError(98, 'Address already in use')", Cause.PORT_CONFLICT, "status 1"),
    ],
)
async def test_a_model_that_ends_while_loading_has_a_cause_and_its_last_words(code, cause, word, start_worker):
    worker = await start_worker(echo_config(model_command=[sys.executable, "-c", code]), ready=False)
    await worker.until(WorkerState.ERROR)
    failure = worker.agent.life.failure
    assert (failure.cause, failure.phase) == (cause, Phase.MODEL)
    assert word in failure.message
    assert failure.log_tail
    assert len(failure.log_tail) <= 4096


async def test_a_command_that_does_not_exist(start_worker):
    worker = await start_worker(echo_config(model_command=["/no/such/model"]), ready=False)
    await worker.until(WorkerState.ERROR)
    assert worker.agent.life.failure.cause is Cause.START_CRASH
    assert "cannot be run" in worker.agent.life.failure.message


async def test_a_model_that_never_loads_hangs(start_worker):
    worker = await start_worker(echo_config(model_env={"ECHO_LOAD_S": "60"}, model_start_timeout_s=0.5), ready=False)
    await worker.until(WorkerState.ERROR)
    assert worker.agent.life.failure.cause is Cause.HANG


async def test_a_model_does_not_outlive_a_worker_that_is_killed(router, tmp_path):
    env = {**os.environ, **environ(bundle(router.url), tmp_path), "PYTHONPATH": str(ECHO.parents[1])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ECHO / "worker.py"), env=env, stderr=asyncio.subprocess.DEVNULL
    )
    await soon(lambda: (tmp_path / "model.pid").exists() and bool(psutil.Process(process.pid).children()), 15)
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    await process.wait()
    await soon(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_sigterm_ends_a_worker_process_in_good_order(router, tmp_path, http):
    """`python worker.py` beside a schemas.py of its own: ready, drains its stream, ends its model, exit status 0."""
    env = {**os.environ, **environ(bundle(router.url), tmp_path), "PYTHONPATH": str(ECHO.parents[1])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "worker.py", env=env, cwd=ECHO, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    lines: list[bytes] = []

    async def until(event: bytes) -> bytes:
        while True:
            line = await asyncio.wait_for(process.stderr.readline(), 20)
            assert line, b"".join(lines)
            lines.append(line)
            if event in line:
                return line

    url = json.loads(await until(b"worker_listens"))["url"]
    await until(b"worker_ready")
    (child,) = psutil.Process(process.pid).children()
    ask = router.envelope({"prompt": "secret-canary", "max_tokens": 30, "delay_s": 0.02, "stream": True})
    reply = await http.post(f"{url}/generate", json=ask)
    await reply.content.readany()
    process.send_signal(signal.SIGTERM)
    assert (await reply.content.read()).endswith(b"data: [DONE]\n\n")
    rest = await process.stderr.read()
    assert await asyncio.wait_for(process.wait(), 10) == 0, rest
    assert not child.is_running()
    everything = b"".join(lines) + rest + (tmp_path / "model.log").read_bytes()
    assert b"secret-canary" not in everything
    assert router.kid.encode() in everything, "the log is the real one"


@pytest.mark.parametrize("how", ["leaves a config", "runs itself"])
async def test_python_m_pyworker(how, router, tmp_path):
    (tmp_path / "schemas.py").write_text("MINE = 1\n")
    text = (
        "import sys, schemas\nfrom pyworker import *\nassert schemas.MINE == 1\n"
        "async def f(): return 1\n"
        "config = WorkerConfig(handlers=[HandlerConfig('/f', remote_function=f)], perf=1.0)\n"
    )
    (tmp_path / "mine.py").write_text(text + ("Worker(config).run()\n" if how == "runs itself" else ""))
    env = {**os.environ, **environ(bundle(router.url), tmp_path / "state"), "PYTHONPATH": str(ECHO.parents[1])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pyworker", str(tmp_path / "mine.py"), env=env, stderr=asyncio.subprocess.PIPE
    )
    seen = b""
    while b"worker_ready" not in seen:
        line = await asyncio.wait_for(process.stderr.readline(), 20)
        assert line, seen
        seen += line
    process.send_signal(signal.SIGTERM)
    rest = await process.stderr.read()
    assert await asyncio.wait_for(process.wait(), 10) == 0, rest
    assert rest.count(b"worker_listens") == 0, "it ran once"


async def test_settings_and_port_errors_end_with_status_2_and_a_sentence(router, tmp_path):
    async def run(env):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "worker.py",
            cwd=ECHO,
            env={**os.environ, "PYTHONPATH": str(ECHO.parents[1]), **env},
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode, err.decode()

    status, err = await run({})
    assert status == 2
    assert "CORRAL_WORKER_BUNDLE" in err
    assert "hint:" in err
    assert "Traceback" not in err
    async with serving(web.Application()) as taken:
        status, err = await run({**environ(bundle(router.url), tmp_path), "WORKER_PORT": taken.rpartition(":")[2]})
    assert status == 2
    assert "already in use" in err
    assert "Traceback" not in err


# --- somebody else's model server -------------------------------------------------------------------------------------


async def test_a_server_that_goes_away_and_comes_back(start_worker, router, http, model):
    async with serving(web.Application()) as other:
        port = int(other.rpartition(":")[2])
    config = config_for(model, model_server_url=f"http://127.0.0.1:{port}")
    async with serving(Model().app, port):
        worker = await start_worker(config)
    await worker.until(WorkerState.ERROR)
    assert worker.agent.life.failure.cause is Cause.START_CRASH
    assert (await http.get(f"{worker.url}/health")).status == 503
    async with serving(Model().app, port):
        await worker.until(WorkerState.READY)
        assert (await http.post(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200


async def test_a_request_that_finds_nobody_takes_the_worker_out_at_once(start_worker, router, http, model):
    """The next probe is a minute away; the failing request is news enough."""
    async with serving(web.Application()) as other:
        port = int(other.rpartition(":")[2])
    app = web.Application()
    async with serving(app, port):
        worker = await start_worker(
            config_for(model, model_server_url=f"http://127.0.0.1:{port}", model_healthcheck_url=None, health_interval_s=60.0)
        )
        await asyncio.sleep(0.05)  # the first look at the port is over
    reply = await http.post(f"{worker.url}/x", headers=bearer(router.ticket()))
    assert (reply.status, (await reply.json())["error"]) == (502, "model_unreachable")
    await worker.until(WorkerState.ERROR, 2)


async def test_an_unwell_model_is_believed_after_three_probes(start_worker, model):
    worker = await start_worker(config_for(model, health_interval_s=0.05))
    model.healthy = False
    await worker.until(WorkerState.ERROR)
    assert worker.agent.life.failure.cause is Cause.HANG


async def test_a_model_too_busy_for_the_probe_is_alive_while_requests_move(start_worker, model, router, http):
    worker = await start_worker(config_for(model, health_interval_s=0.05))

    async def steady(request):
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for _ in range(60):
            await reply.write(b"data: 1\n\n")
            await asyncio.sleep(0.02)
        return reply

    model.on("/x", steady)
    reply = await http.post(f"{worker.url}/x", headers=bearer(router.ticket()))
    model.healthy = False
    assert await reply.read() == b"data: 1\n\n" * 60
    assert worker.agent.load.served_total == 1
    await worker.until(WorkerState.ERROR)


async def test_a_model_that_lets_requests_hang_is_taken_out_though_its_health_is_fine(start_worker, model, router, http):
    worker = await start_worker(config_for(model, timeouts=Timeouts(first_byte_s=0.1), health_interval_s=60.0))
    model.on("/x", lambda request: asyncio.sleep(60))
    for _ in range(2):
        assert (await http.post(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 504
    assert (await http.post(f"{worker.url}/fine", headers=bearer(router.ticket()))).status == 200, (
        "one answer, and the count starts again"
    )
    for _ in range(3):
        assert worker.agent.life.state is WorkerState.READY
        assert (await http.post(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 504
    await worker.until(WorkerState.ERROR, 2)
    assert worker.agent.life.failure.cause is Cause.HANG


# --- readiness by log -------------------------------------------------------------------------------------------------


async def test_a_log_line_makes_ready_only_with_a_model_behind_it(start_worker, model, tmp_path):
    log = tmp_path / "model.log"
    log.write_text("yesterday: startup complete\n")  # a stale line, and nobody listens
    async with serving(web.Application()) as other:
        port = int(other.rpartition(":")[2])
    config = config_for(
        model,
        model_server_url=f"http://127.0.0.1:{port}",
        model_healthcheck_url=None,
        model_log_file=str(log),
        log_action_config=LogActionConfig(on_load=["startup complete"], on_error=["Traceback"], on_info=["Downloading"]),
    )
    worker = await start_worker(config, ready=False)
    await worker.until(WorkerState.MODEL_LOADING)
    await asyncio.sleep(0.5)
    assert worker.agent.life.state is WorkerState.MODEL_LOADING
    async with serving(web.Application(), port):
        await worker.until(WorkerState.READY)
        with log.open("a") as file:
            file.write("Traceback (a user's prompt may hold this word)\n")
        await asyncio.sleep(0.5)
        assert worker.agent.life.state is WorkerState.READY, "after it was ready such a line is only news"


async def test_an_error_line_while_loading_is_the_end(start_worker, model, tmp_path):
    log = tmp_path / "model.log"
    model.healthy = False
    worker = await start_worker(
        config_for(model, model_log_file=str(log), log_action_config=LogActionConfig(on_error=["CUDA error"])), ready=False
    )
    await worker.until(WorkerState.MODEL_LOADING)
    log.write_text("CUDA error: out of memory\n")
    await worker.until(WorkerState.ERROR)
    assert worker.agent.life.failure.cause is Cause.MODEL_OOM


def test_the_log_tail_survives_what_happens_to_logs(tmp_path):
    path = tmp_path / "model.log"
    tail = LogTail(path)
    assert tail.lines() == []
    path.write_bytes(b"one\ntwo\nhal")
    assert tail.lines() == ["one", "two"]
    with path.open("ab") as file:
        file.write(b"f\r\n\xff\xfe\n")
        file.flush()
        assert tail.lines() == ["half", "\ufffd\ufffd"]
        file.write(b"end of the old one")
        file.flush()
        path.rename(tmp_path / "model.log.1")  # rotated by renaming, with a line not yet read
        path.write_bytes(b"first of the new one\n")
        assert tail.lines() == ["end of the old one", "first of the new one"]
    path.write_bytes(b"cut\n")  # truncated in place
    assert tail.lines() == ["cut"]
    path.unlink()
    assert tail.lines() == []
    path.write_bytes(b"x" * 200_000)
    assert [len(line) for line in tail.lines()] == [65536], "a line without an end does not fill the memory"
    tail.close()


# --- benchmark --------------------------------------------------------------------------------------------------------


def benchmarked(model, *, runs=3, concurrency=2, **more):
    handler = HandlerConfig(
        "/bench",
        allow_parallel_requests=True,
        workload_calculator=lambda p: 10.0,
        benchmark_config=BenchmarkConfig(dataset=[{"prompt": "bench"}], runs=runs, concurrency=concurrency, do_warmup=False),
    )
    return config_for(model, handler, perf=None, **more)


async def test_the_clock_runs_to_the_last_byte_and_the_mean_counts(start_worker, model):
    rounds = iter([0.1, 0.1, 0.3, 0.3, 0.3, 0.3])

    async def slow_body(request):
        reply = web.StreamResponse()
        await reply.prepare(request)
        await reply.write(b"the head is here at once")
        await asyncio.sleep(next(rounds))
        return reply

    model.on("/bench", slow_body)
    worker = await start_worker(benchmarked(model))
    fast, slow = 20 / 0.1, 20 / 0.3
    assert (fast + 2 * slow) / 3 * 0.5 < worker.agent._tender.measured.perf <= (fast + 2 * slow) / 3


async def test_only_200s_count(start_worker, model):
    statuses = iter([200, 500] * 3)

    async def half(request):
        await asyncio.sleep(0.1)
        return web.Response(status=next(statuses))

    model.on("/bench", half)
    worker = await start_worker(benchmarked(model))
    assert worker.agent._tender.measured.perf <= 10 / 0.1


async def test_a_benchmark_without_a_good_answer_fails_the_worker(start_worker, model):
    model.on("/bench", lambda request: asyncio.sleep(0, web.Response(status=500)))
    worker = await start_worker(benchmarked(model), ready=False)
    await worker.until(WorkerState.ERROR)
    assert (worker.agent.life.failure.cause, worker.agent.life.failure.phase) == (Cause.BENCH_FAILED, Phase.BENCH)


async def test_a_model_that_goes_away_during_its_benchmark_is_waited_for(start_worker, router, model):
    async with serving(Model().app) as other:
        port = int(other.rpartition(":")[2])
    first, second = Model(), Model()
    leave = asyncio.Event()

    async def hold(request):
        leave.set()
        await asyncio.sleep(60)

    first.on("/bench", hold)
    config = benchmarked(model, model_server_url=f"http://127.0.0.1:{port}", timeouts=Timeouts(connect_s=0.5))
    async with serving(first.app, port):
        worker = await start_worker(config, ready=False)
        await asyncio.wait_for(leave.wait(), 10)
    await worker.until(WorkerState.MODEL_LOADING)
    async with serving(second.app, port):
        await worker.until(WorkerState.READY)
        worker.agent.leave()
        await asyncio.wait_for(worker.task, 10)


def broken_generator():
    raise KeyError("no such file")


@pytest.mark.parametrize("what", ["generator", "function"])
async def test_user_code_that_fails_in_the_benchmark_fails_the_benchmark(what, start_worker, model):
    async def function(**payload):
        raise ValueError

    bench = BenchmarkConfig(generator=broken_generator if what == "generator" else dict, runs=2)
    handler = HandlerConfig("/bench", benchmark_config=bench, remote_function=function if what == "function" else None)
    worker = await start_worker(config_for(model, handler, perf=None), ready=False)
    await worker.until(WorkerState.ERROR)
    assert worker.agent.life.failure.cause is Cause.BENCH_FAILED
    assert "no such file" not in worker.agent.life.failure.message


async def test_a_result_is_kept_until_something_it_depends_on_changes(start_worker, model, router):
    async def run(config, **changes):
        before = len(model.seen)
        worker = await start_worker(config, made=bundle(router.url, **changes))
        perf = worker.agent._tender.measured.perf
        worker.agent.leave()
        await asyncio.wait_for(worker.task, 5)
        return len(model.seen) - before, perf

    asked, perf = await run(benchmarked(model))
    assert asked == 6
    assert await run(benchmarked(model)) == (1, perf), "one good answer confirms it"
    assert (await run(benchmarked(model), revision=2))[0] == 6
    assert (await run(benchmarked(model, runs=2), revision=2))[0] == 4


async def test_a_kept_result_is_not_believed_when_the_model_gives_no_good_answer(start_worker, model, router):
    worker = await start_worker(benchmarked(model))
    worker.agent.leave()
    await asyncio.wait_for(worker.task, 5)
    model.on("/bench", lambda request: asyncio.sleep(0, web.Response(status=500)))
    again = await start_worker(benchmarked(model), ready=False)
    await again.until(WorkerState.ERROR)
    assert again.agent.life.failure.cause is Cause.BENCH_FAILED


async def test_a_hanging_benchmark_has_an_end(start_worker, model):
    handler = HandlerConfig("/bench", benchmark_config=BenchmarkConfig(dataset=[{}], runs=1, do_warmup=False, timeout_s=0.2))
    model.on("/bench", lambda request: asyncio.sleep(60))
    worker = await start_worker(config_for(model, handler, perf=None), ready=False)
    await worker.until(WorkerState.ERROR)
    assert worker.agent.life.failure.cause is Cause.BENCH_FAILED


async def test_a_worker_starts_with_kept_keys_while_the_router_is_away(model, tmp_path, router, start_worker, http):
    worker = await start_worker(config_for(model))
    worker.agent.leave()
    await asyncio.wait_for(worker.task, 5)
    again = await start_worker(config_for(model), made=bundle("http://127.0.0.1:9"))
    assert (await http.get(f"{again.url}/x", headers=bearer(router.ticket()))).status == 200


async def test_a_worker_is_not_ready_before_it_has_keys(model, start_worker):
    worker = await start_worker(config_for(model), ready=False, made=bundle("http://127.0.0.1:9", worker_id="w77"))
    await worker.until(WorkerState.BENCHMARKING)
    await asyncio.sleep(0.3)
    assert worker.agent.life.state is WorkerState.BENCHMARKING


def test_a_worker_needs_no_event_loop_to_be_described():
    assert Worker(echo_config()).config.slots == 4
