"""Ready means reachable: before a worker says so it has been asked, over HTTP, at the address that clients are sent to."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from worker_kit import Model, bearer, bundle, certificate, config_for, environ, serving

from pyworker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig
from pyworker.errors import ConfigError
from pyworker.reach import Asking, Found, NotReached, Reach, Who
from schemas.reasons import Cause, Phase
from schemas.states import WorkerState

ROOT = Path(__file__).parents[2]
SELF, NOBODY = Found(Who.SELF), Found(Who.NOBODY, "refused")
STRANGER = Found(Who.STRANGER, "worker w9")
OUTSIDE, INSIDE = "http://1.2.3.4:41000", "http://127.0.0.1:3000"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sent_to(public_port: int, **more: str) -> dict[str, str]:
    """The environment of a worker whose clients come in at another port than its own."""
    port = free_port()
    return {"WORKER_PORT": str(port), f"VAST_TCP_PORT_{port}": str(public_port), **more}


def states(logged: list[dict]) -> list[str]:
    return [line["state"] for line in logged if line["event"] == "state_changed"]


class Gateway:
    """What stands before a rented machine: answers 502 itself until it passes connections on."""

    def __init__(self) -> None:
        self.to: int | None = None
        self.asked = asyncio.Event()
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.to is None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                self.asked.set()
                return
            onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self.to)
            await asyncio.gather(pump(reader, onward_writer), pump(onward_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
    writer.close()


@pytest.fixture
async def gateway():
    made = Gateway()
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


# --- workers ----------------------------------------------------------------------------------------------------------


async def test_a_worker_is_ready_once_it_answers_where_clients_are_sent(start_worker, model, router, http, gateway):
    """The first request gets a 502 and the second is fine: ready was not reachable.

    https://github.com/kedacore/http-add-on/issues/854
    """
    env = sent_to(gateway.port)
    worker = await start_worker(config_for(model), ready=False, **env)
    await asyncio.wait_for(gateway.asked.wait(), 10)
    assert worker.url == f"http://127.0.0.1:{gateway.port}"
    assert worker.agent.life.state is WorkerState.BENCHMARKING, "its own port is fine, but that is not where clients come"
    gateway.to = int(env["WORKER_PORT"])
    await worker.until(WorkerState.READY)
    reply = await http.post(f"{worker.url}/x", headers=bearer(router.ticket()), data=b"first")
    assert (reply.status, await reply.read()) == (200, b"first")


async def test_another_server_at_the_address_keeps_a_worker_out_and_is_named(start_worker, model):
    async with serving(web.Application()) as other:
        with capture_logs() as logged:
            worker = await start_worker(
                config_for(model, reach_timeout_s=0.5), ready=False, **sent_to(int(other.rpartition(":")[2]))
            )
            await worker.until(WorkerState.ERROR)
    failure = worker.agent.life.failure
    assert (failure.cause, failure.phase) == (Cause.PORT_CONFLICT, Phase.BENCH)
    assert f"what answers at {other} is not this worker: a server that answered 404" in failure.message
    assert f"VAST_TCP_PORT_{worker.agent._port}" in failure.message, "what to do"
    assert "ready" not in states(logged)
    assert [line["message"] for line in logged if line["event"] == "not_reached_yet"] == [failure.message], "told once"


async def test_another_worker_at_the_address_keeps_a_worker_out(start_worker, model, router):
    first = await start_worker(config_for(model), made=bundle(router.url, worker_id="w2"))
    env = sent_to(first.agent._port)
    second = await start_worker(config_for(model, reach_timeout_s=0.5), ready=False, **env)
    await second.until(WorkerState.ERROR)
    assert second.agent.life.failure.cause is Cause.PORT_CONFLICT
    assert "is not this worker: worker w2" in second.agent.life.failure.message


async def test_an_earlier_run_of_the_same_worker_is_somebody_else(start_worker, model):
    first = await start_worker(config_for(model))
    second = await start_worker(config_for(model, reach_timeout_s=0.5), ready=False, **sent_to(first.agent._port))
    await second.until(WorkerState.ERROR)
    assert "an earlier run of it still has the port" in second.agent.life.failure.message


async def test_a_worker_that_says_it_has_tls_needs_it_at_the_address(start_worker, model, tmp_path):
    cert, key, _ = certificate(tmp_path)
    tls = {"PYWORKER_TLS_CERT": str(cert), "PYWORKER_TLS_KEY": str(key)}
    config = config_for(model, reach_timeout_s=0.5)
    async with serving(web.Application()) as plain:
        worker = await start_worker(config, ready=False, **sent_to(int(plain.rpartition(":")[2]), **tls))
        await worker.until(WorkerState.ERROR)
    assert worker.agent.life.failure.cause is Cause.PORT_CONFLICT
    assert "what answers at https://127.0.0.1:" in worker.agent.life.failure.message


@pytest.mark.parametrize("host", ["127.0.0.1", "corral-worker.invalid"])
async def test_an_address_that_cannot_be_called_from_here_is_believed_with_a_warning(host, start_worker, model):
    """As where the network does not let a machine call itself from outside."""
    with capture_logs() as logged:
        worker = await start_worker(config_for(model), **sent_to(free_port(), PUBLIC_IPADDR=host))
    (warning,) = [line for line in logged if line["event"] == "reached_from_inside_only"]
    assert (warning["log_level"], warning["url"]) == ("warning", worker.url)
    assert f"check that PUBLIC_IPADDR and VAST_TCP_PORT_{worker.agent._port} lead to port {worker.agent._port}" in warning["hint"]


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])
async def test_a_worker_knows_its_own_port_wherever_it_listens(host, start_worker, model):
    with capture_logs() as logged:
        await start_worker(config_for(model), PYWORKER_HOST=host, **sent_to(free_port(), PUBLIC_IPADDR="corral-worker.invalid"))
    assert "reached_from_inside_only" in [line["event"] for line in logged]


async def test_each_start_is_asked_also_with_a_kept_benchmark(start_worker, model):
    handler = HandlerConfig("/bench", benchmark_config=BenchmarkConfig(dataset=[{}], runs=1, do_warmup=False))
    config = config_for(model, handler, perf=None, reach_timeout_s=0.5)
    first = await start_worker(config)
    first.agent.leave()
    await asyncio.wait_for(first.task, 5)
    asked = len(model.seen)
    async with serving(web.Application()) as other:
        again = await start_worker(config, ready=False, **sent_to(int(other.rpartition(":")[2])))
        await again.until(WorkerState.ERROR)
    assert again.agent.life.failure.cause is Cause.PORT_CONFLICT
    assert len(model.seen) == asked + 1, "the kept result was believed after one good answer"


async def test_a_worker_whose_model_comes_back_is_asked_again(start_worker, gateway):
    model = Model()
    async with serving(model.app) as model.url:
        env = sent_to(gateway.port)
        gateway.to = int(env["WORKER_PORT"])
        worker = await start_worker(config_for(model, reach_timeout_s=0.5), **env)
    await worker.until(WorkerState.ERROR)
    gateway.to = None
    async with serving(model.app, int(model.url.rpartition(":")[2])):
        await asyncio.wait_for(gateway.asked.wait(), 10)
        await worker.until(WorkerState.ERROR)
        assert worker.agent.life.failure.cause is Cause.PORT_CONFLICT


async def test_a_worker_process_whose_port_leads_elsewhere_never_says_ready(router, tmp_path, http):
    (tmp_path / "mine.py").write_text(
        "from pyworker import *\nasync def f(): return 1\n"
        "Worker(WorkerConfig(handlers=[HandlerConfig('/f', remote_function=f)], perf=1.0, reach_timeout_s=0.5)).run()\n"
    )
    async with serving(web.Application()) as other:
        env = sent_to(int(other.rpartition(":")[2]))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(tmp_path / "mine.py"),
            env={**os.environ, **environ(bundle(router.url), tmp_path / "state"), "PYTHONPATH": str(ROOT), **env},
            stderr=asyncio.subprocess.PIPE,
        )
        seen = b""
        try:
            while b'"model_failed"' not in seen:
                line = await asyncio.wait_for(process.stderr.readline(), 20)
                assert line, seen
                seen += line
                assert b'"worker_ready"' not in seen, seen
            reply = await http.get(f"http://127.0.0.1:{env['WORKER_PORT']}/health")
            assert (reply.status, (await reply.json())["cause"]) == (503, "port_conflict")
        finally:
            process.send_signal(signal.SIGTERM)
            seen += await process.stderr.read()
        assert await asyncio.wait_for(process.wait(), 10) == 0, seen
    said = [json.loads(line) for line in seen.splitlines()]
    assert "worker_ready" not in [line["event"] for line in said]
    (failed,) = [line for line in said if line["event"] == "model_failed"]
    assert f"what answers at {other} is not this worker" in failed["message"]


# --- who answers ------------------------------------------------------------------------------------------------------


def asking(fingerprint: str = "") -> Asking:
    return Asking(worker_id="w1", boot="b1", tls_fingerprint=fingerprint)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"X-Worker-Id": "w1", "X-Worker-Boot": "b1"}, Found(Who.SELF)),
        ({"X-Worker-Id": "w1", "X-Worker-Boot": "b0"}, Found(Who.STRANGER, "an earlier run of it still has the port")),
        ({"X-Worker-Id": "w1"}, Found(Who.STRANGER, "an earlier run of it still has the port")),
        ({"X-Worker-Id": "w2", "X-Worker-Boot": "b1"}, Found(Who.STRANGER, "worker w2")),
        ({}, Found(Who.STRANGER, "a server that answered 302")),
    ],
)
async def test_an_answer_is_judged_by_its_marks(headers, found):
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/", **headers})

    app = web.Application()
    app.router.add_get("/livez", answer)
    async with serving(app) as url:
        assert await asking()(url) == found


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b""])
async def test_what_is_no_http_is_a_stranger(said):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        found = await asking()(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert found.who is Who.STRANGER
    assert found.seen


async def test_what_takes_a_connection_and_says_nothing_is_a_stranger(monkeypatch):
    monkeypatch.setattr("pyworker.reach.ANSWER_S", 0.1)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        found = await asking()(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert found.who is Who.STRANGER


async def test_a_certificate_that_is_not_ours_is_a_stranger(tmp_path):
    cert, key, _ = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def answer(reader, writer):
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        found = await asking("00" * 32)(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert found.who is Who.STRANGER
    assert "FingerprintMismatch" in found.seen


# --- what follows from it ---------------------------------------------------------------------------------------------


def scripted(outside: list[Found], inside: list[Found] = []) -> Reach:  # noqa: B006 -- read only
    """Answers in this order, the last one for ever."""
    left = {OUTSIDE: list(outside), INSIDE: list(inside)}

    async def ask(url: str) -> Found:
        return left[url].pop(0) if len(left[url]) > 1 else left[url][0]

    return Reach(ask, timeout_s=0.4, monotonic=time.monotonic)


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        ([SELF], []),
        ([STRANGER, SELF], []),
        ([STRANGER, NOBODY, SELF], []),
        ([NOBODY], [SELF]),
        ([NOBODY], [NOBODY, SELF]),
        ([NOBODY], [STRANGER, SELF]),
    ],
)
async def test_reached(outside, inside):
    await scripted(outside, inside).confirm(OUTSIDE, INSIDE)


@pytest.mark.parametrize(
    ("outside", "inside", "cause", "text"),
    [
        (
            [STRANGER],
            [],
            Cause.PORT_CONFLICT,
            f"what answers at {OUTSIDE} is not this worker: worker w9",
        ),
        ([NOBODY], [STRANGER], Cause.PORT_CONFLICT, f"what answers at {INSIDE} is not this worker"),
        ([NOBODY], [NOBODY], Cause.HANG, f"does not answer at {INSIDE}, where it should: refused"),
        ([STRANGER, NOBODY], [SELF], Cause.HANG, f"does not answer at {OUTSIDE}"),
    ],
)
async def test_not_reached(outside, inside, cause, text):
    with pytest.raises(NotReached, match="[Cc]heck that") as caught:
        await scripted(outside, inside).confirm(OUTSIDE, INSIDE)
    assert caught.value.cause is cause
    assert text in str(caught.value)


async def test_its_own_port_is_asked_once_where_it_is_the_address():
    with pytest.raises(NotReached) as caught:
        await scripted([NOBODY]).confirm(OUTSIDE, OUTSIDE)
    assert caught.value.cause is Cause.HANG


def test_no_time_at_all_is_refused():
    async def f() -> int:
        return 1

    with pytest.raises(ConfigError, match="reach_timeout_s"):
        Worker(WorkerConfig(handlers=[HandlerConfig("/f", remote_function=f)], perf=1.0, reach_timeout_s=0.0))
