"""What strangers send, and what must not get out."""

import asyncio
import hashlib
import json
import re
import ssl
import sys

import aiohttp
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_kit import bearer, bundle, certificate, config_for, soon

from pyworker import HandlerConfig, LogActionConfig, WorkerConfig, call, server
from pyworker.process import ModelProcess
from pyworker.replay import ReplayCache
from pyworker.verify import Refused, Verifier, read_jwks
from schemas.codec import encode
from schemas.states import WorkerState


async def raw(worker, data: bytes, *, until_closed=True) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
    writer.write(data)
    answer = await asyncio.wait_for(reader.read() if until_closed else reader.readuntil(b"\r\n\r\n"), 10)
    writer.close()
    return answer


@pytest.fixture
async def worker(start_worker, model):
    return await start_worker(config_for(model))


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01 not http\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello",
        b"POST /x HTTP/1.1\r\nHost: w\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: w\r\nX: " + b"a" * 20_000 + b"\r\nConnection: close\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: w\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"Connection: close\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n",
    ],
    ids=["tls", "version", "two lengths", "negative length", "long header", "many headers", "long path", "raw bytes in the path"],
)
async def test_bad_http_is_refused_and_harms_nobody(data, worker, router, http, model):
    assert (await raw(worker, data)).startswith(b"HTTP/1.0 400") or (await raw(worker, data)).startswith(b"HTTP/1.1 400")
    assert not model.seen
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200


async def test_headers_that_are_no_utf8_pass_as_they_are(worker, router, model):
    token = router.ticket().encode()
    answer = await raw(
        worker,
        b"GET /x HTTP/1.1\r\nHost: w\r\nX-Odd: \xff\xfe\r\nX-Utf: \xc3\xa9\r\nConnection: close\r\nAuthorization: Bearer "
        + token
        + b"\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 200")
    assert (b"X-Odd", b"\xff\xfe") in model.seen[0].raw_headers
    assert model.seen[0].headers["X-Utf"] == "é"


async def test_a_request_smuggled_behind_another_needs_its_own_ticket(worker, router, model):
    token = router.ticket().encode()
    inner = b"POST /admin HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n"
    answer = await raw(
        worker,
        b"POST /x HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer "
        + token
        + b"\r\nContent-Length: 0\r\n\r\n"
        + inner
        + b"GET /livez HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n",
    )
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"401", b"200"]
    assert [seen.path for seen in model.seen] == ["/x"]


async def test_an_upload_that_breaks_off_leaves_nothing_behind(worker, router, model):
    token = router.ticket().encode()
    for head in (b"Authorization: Bearer " + token, b"X-Envelope: 1"):
        _, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
        writer.write(b"POST /x HTTP/1.1\r\nHost: w\r\n" + head + b"\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 50_000)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
    load = worker.agent.load
    await soon(lambda: load.open == 0 and load.cancelled_total == 1)
    await soon(lambda: worker.agent._serving._budget.held == 0)


async def test_too_many_connections_are_told_so(worker, monkeypatch):
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    port = int(worker.url.rpartition(":")[2])
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    await soon(lambda: len(worker.agent._server._http.connections) == 3)
    assert (await raw(worker, b"")).startswith(b"HTTP/1.1 503")
    for _, writer in held:
        writer.close()
    await soon(lambda: not worker.agent._server._http.connections)
    assert (await raw(worker, b"GET /livez HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")


few = hypothesis.settings(max_examples=50, deadline=None)
VERIFIER = Verifier(
    worker_id="w1", issuer="corral", keys={"k1": b"\x01" * 32}, replays=ReplayCache(), now=lambda: 1e9, uptime_s=lambda: 100.0
)


@few
@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}", fullmatch=True)))
def test_any_text_as_a_ticket_is_refused_and_nothing_else(text):
    with pytest.raises(Refused) as caught:
        VERIFIER.check(text)
    assert caught.value.status == 401


@few
@given(st.binary())
def test_any_bytes_as_an_envelope_are_refused_and_nothing_else(body):
    with pytest.raises(Refused):
        call.envelope(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8
)


@few
@given(st.fixed_dictionaries({}, optional={"auth_data": json_values, "payload": json_values, "session_id": json_values}))
def test_any_object_as_an_envelope_is_refused_or_read(value):
    try:
        found = call.envelope(json.dumps(value).encode())
    except Refused:
        return
    assert found.auth_data.ticket


@few
@given(st.one_of(st.binary(), json_values.map(lambda v: json.dumps(v).encode())))
def test_any_document_as_keys_is_read_or_refused(document):
    try:
        assert all(len(key) == 32 for key in read_jwks(document).values())
    except ValueError:
        pass


async def test_a_bad_key_list_changes_nothing(worker, router, http):
    good = dict(worker.agent.keys.keys)
    router.published.clear()
    await worker.agent.keys.fetch_now()
    assert worker.agent.keys.keys == good
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200


# --- privacy ----------------------------------------------------------------------------------------------------------

TALKS = """
import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print("prompt:", body.decode(), "CUDA error", flush=True)
        os._exit(7)
http.server.HTTPServer(("127.0.0.1", int(os.environ["MODEL_PORT"])), H).serve_forever()
"""


async def test_a_model_that_prints_prompts_and_dies_does_not_make_the_worker_tell_them(
    start_worker, router, http, capfd, tmp_path
):
    config = WorkerConfig(
        model_command=[sys.executable, "-c", TALKS],
        model_healthcheck_url="/health",
        handlers=[HandlerConfig("/x")],
        perf=1.0,
        log_action_config=LogActionConfig(on_error=["CUDA error"]),
    )
    worker = await start_worker(config)
    reply = await http.post(f"{worker.url}/x", json=router.envelope({"prompt": "zebra-canary-4711"}))
    assert reply.status == 502
    await worker.until(WorkerState.ERROR)
    beat = worker.agent._next_heartbeat()
    assert beat.failure.message
    metrics = await (await http.get(f"{worker.url}/metrics")).text()
    out, err = capfd.readouterr()
    everything = encode(beat).decode() + metrics + out + err + await reply.text()
    assert "zebra-canary-4711" not in everything
    assert "zebra-canary-4711" in (tmp_path / "w1" / "model.log").read_text(), "the model did print it"
    assert "status 7" in beat.failure.message


# --- an orphan, TLS ---------------------------------------------------------------------------------------------------


async def test_a_model_left_by_an_earlier_life_is_ended(tmp_path):
    first = ModelProcess([sys.executable, "-c", "import time; time.sleep(600)"], env={}, cwd=None, state_dir=tmp_path)
    await first.start()
    second = ModelProcess([sys.executable, "-c", "print('hi')"], env={}, cwd=None, state_dir=tmp_path)
    await second.start()
    assert await asyncio.wait_for(asyncio.shield(first.exited), 5) == -9
    assert await asyncio.wait_for(asyncio.shield(second.exited), 10) == 0
    assert second.last_words() == "hi\n"
    await second.stop(1.0)
    assert not (tmp_path / "model.pid").exists()


async def test_tls_with_a_certificate_whose_fingerprint_is_told(start_worker, model, router, tmp_path):
    cert, key, der = certificate(tmp_path)
    worker = await start_worker(config_for(model), PYWORKER_TLS_CERT=str(cert), PYWORKER_TLS_KEY=str(key))
    assert worker.url.startswith("https://127.0.0.1:")
    fingerprint = worker.agent._next_heartbeat().tls_fingerprint
    assert fingerprint == hashlib.sha256(der).hexdigest()
    context = ssl.create_default_context(cafile=str(cert))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        reply = await session.post(f"{worker.url}/x", headers=bearer(router.ticket()), data=b"secret")
        assert await reply.read() == b"secret"
        pinned = await session.get(f"{worker.url}/livez", ssl=aiohttp.Fingerprint(bytes.fromhex(fingerprint)))
        assert pinned.status == 200


async def test_a_lifecycle_is_entered_before_ready_and_left_at_the_end(start_worker, model, router):
    import contextlib

    steps = []

    @contextlib.asynccontextmanager
    async def lifecycle():
        steps.append("entered")
        yield
        steps.append("left")

    async def answer():
        return steps[-1]

    config = WorkerConfig(handlers=[HandlerConfig("/f", remote_function=answer)], perf=1.0, lifecycle=lifecycle())
    worker = await start_worker(config, made=bundle(router.url))
    assert steps == ["entered"]
    worker.agent.leave()
    await asyncio.wait_for(worker.task, 5)
    assert steps == ["entered", "left"]
