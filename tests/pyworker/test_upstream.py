"""Connections to the model server, down to their bytes: kept, given up, ended behind our back."""

import asyncio
import contextlib
import re

import pytest
from worker_kit import bearer, config_for, soon

from pyworker import upstream


class RawModel:
    """Speaks bytes: each request (a head and its declared body) is answered by the next of `answers`."""

    def __init__(self, answers, *, read_body=True):
        self.answers = list(answers)
        self.read_body = read_body
        self.connections = 0
        self.heads: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    def hang_up(self):
        for writer in self.writers:
            writer.close()

    async def handle(self, reader, writer):
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = re.search(rb"(?i)content-length: (\d+)", head)
                if length and self.read_body:
                    await reader.readexactly(int(length[1]))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()


@pytest.fixture
async def raw_model():
    servers = []

    async def start(*answers, **more):
        made = RawModel(answers, **more)
        server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
        servers.append(server)
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return made

    yield start
    for server in servers:
        server.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def front(start_worker, model, raw, **more):
    return await start_worker(
        config_for(model, model_server_url=raw.url, model_healthcheck_url=None, health_interval_s=600.0, **more)
    )


async def test_connections_to_the_model_are_kept_and_given_up(start_worker, model, router, http, raw_model, monkeypatch):
    monkeypatch.setattr(upstream, "KEEPALIVE_S", 0.3)
    raw = await raw_model(OK, OK, OK, OK)
    worker = await front(start_worker, model, raw)
    await soon(lambda: raw.connections > 0)  # the looks at the port that made it ready
    await asyncio.sleep(0.1)
    before = raw.connections
    for _ in range(3):
        assert await (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).text() == "ok"
    assert raw.connections == before + 1
    await soon(lambda: not worker.agent._model._idle)
    assert await (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).text() == "ok"
    assert raw.connections == before + 2


async def test_a_connection_the_model_closed_is_not_used_again(start_worker, model, router, http, raw_model):
    raw = await raw_model(OK, None, OK)
    worker = await front(start_worker, model, raw)
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 502, "it hung up on this one"
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200


async def test_a_model_that_hangs_up_behind_a_stream_costs_nobody_an_answer(start_worker, model, router, http, raw_model):
    """As llama.cpp does it, a moment after the stream and without a word."""
    stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    raw = await raw_model(stream, stream)
    worker = await front(start_worker, model, raw)
    await soon(lambda: raw.connections > 0)
    await asyncio.sleep(0.1)
    before = raw.connections
    for _ in range(2):
        assert await (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).text() == "ok"
    assert raw.connections == before + 2, "each on its own"


async def test_an_idle_connection_that_was_ended_is_found_out_before_it_is_used(start_worker, model, router, http, raw_model):
    raw = await raw_model(OK, OK)
    worker = await front(start_worker, model, raw)
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200
    ((connection, _),) = worker.agent._model._idle
    connection.transport.pause_reading()  # so that only the kernel knows
    raw.hang_up()
    await soon(lambda: upstream._was_ended(connection))
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200


async def test_informational_answers_are_not_the_answer(start_worker, model, router, http, raw_model):
    raw = await raw_model(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    worker = await front(start_worker, model, raw)
    reply = await http.post(f"{worker.url}/x", json=router.envelope({}))
    assert (reply.status, await reply.text()) == (200, "ok")


@pytest.mark.parametrize(
    "nonsense", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 2000 What\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
async def test_nonsense_from_the_model_is_a_502(nonsense, start_worker, model, router, http, raw_model):
    raw = await raw_model(nonsense, OK)
    worker = await front(start_worker, model, raw)
    reply = await http.post(f"{worker.url}/x", json=router.envelope({}))
    assert (reply.status, (await reply.json())["error"]) == (502, "model_died")
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200


async def test_an_answer_before_the_upload_is_done_is_passed_on(start_worker, model, router, http, raw_model):
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"
    raw = await raw_model(refusal, read_body=False)
    worker = await front(start_worker, model, raw)
    first = asyncio.Event()

    async def slow():
        yield b"x" * 1000
        await first.wait()
        yield b"y" * 1000

    reply = await http.post(f"{worker.url}/x", headers=bearer(router.ticket()), data=slow())
    assert (reply.status, await reply.text()) == (413, "no!")
    assert not worker.agent._model._idle, "half a request is on that connection"
    first.set()


async def test_an_answer_without_a_length_ends_with_the_connection(start_worker, model, router, http):
    async def old(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold style")
        writer.close()

    server = await asyncio.start_server(old, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    worker = await start_worker(config_for(model, model_server_url=url, model_healthcheck_url=None, health_interval_s=600.0))
    reply = await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))
    assert (reply.status, await reply.text()) == (200, "old style")
    server.close()


async def test_the_base_url_may_have_a_path(start_worker, model, router, http):
    worker = await start_worker(config_for(model, model_server_url=f"{model.url}/prefix/", model_healthcheck_url="/health"))
    await http.get(f"{worker.url}/a?b=1", headers=bearer(router.ticket()))
    assert model.seen[0].raw_path == "/prefix/a?b=1"
