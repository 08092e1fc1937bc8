"""What the model gets and what the client gets back: byte for byte, and honest when it breaks."""

import asyncio
import gzip
import hashlib
import io
import json

import aiohttp
import pytest
from aiohttp import web
from worker_kit import bearer, config_for, soon
from yarl import URL

from pyworker import HandlerConfig, Timeouts


@pytest.fixture
async def worker(start_worker, model):
    return await start_worker(config_for(model))


async def stream_of(pieces, content_type="text/event-stream", **headers):
    async def answer(request):
        reply = web.StreamResponse(headers={"Content-Type": content_type, **headers})
        await reply.prepare(request)
        for piece in pieces:
            await reply.write(piece)
            await asyncio.sleep(0)
        await reply.write_eof()
        return reply

    return answer


# --- the request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_bearer_form_passes_method_query_headers_and_body(method, worker, model, router, http):
    body = b"" if method == "GET" else b"\x00\xff not json"
    token = router.ticket()
    reply = await http.request(
        method,
        URL(f"{worker.url}/a%20b/c%2Bd?x=1&x=%C3%A9&api_key=mine", encoded=True),
        headers=bearer(
            token, **{"Content-Type": "image/x-odd", "X-Mine": "yes", "Connection": "keep-alive, X-Hop", "X-Hop": "1"}
        ),
        data=body or None,
    )
    assert reply.status == 200, await reply.text()
    seen = model.seen[0]
    assert (seen.method, seen.raw_path) == (method, "/a%20b/c%2Bd?x=1&x=%C3%A9&api_key=mine")
    assert model.bodies == [body]
    assert seen.headers["X-Mine"] == "yes"
    assert seen.headers["Content-Type"] == "image/x-odd"
    assert "Authorization" not in seen.headers
    assert "X-Hop" not in seen.headers
    assert token not in str(seen.headers)
    assert seen.headers["X-Request-Id"] == reply.headers["X-Request-Id"]
    assert reply.headers["X-Worker-Id"] == "w1"
    assert int(reply.headers["X-Queue-Time-Ms"]) >= 0


async def test_the_envelope_passes_the_payload_as_it_was_written(worker, model, router, http):
    """Numbers, spaces, key order and escapes included: a parser in between would change some of them."""
    payload = b'{ "n": 1.0E2,\t"big": 123456789012345678901234567890, "s": "\\u00e9 \xc3\xa9", "twice": 1, "twice": 2 }'
    auth = json.dumps(router.envelope(None)["auth_data"]).encode()
    body = b'{"session_id": null, "payload": ' + payload + b', "auth_data": ' + auth + b"}"
    key = {"Authorization": "Bearer sk-api-key", "Content-Type": "application/json"}
    reply = await http.post(f"{worker.url}/v1/x?api_key=sk-api-key&keep=1", data=body, headers=key)
    assert reply.status == 200, await reply.text()
    assert await reply.read() == payload
    seen = model.seen[0]
    assert model.bodies == [payload]
    assert seen.raw_path == "/v1/x?keep=1"
    assert seen.content_type == "application/json"
    assert "sk-api-key" not in str(seen.headers)


async def test_a_large_envelope_goes_through_and_is_given_back(worker, model, router, http):
    payload = {"text": "x" * (3 << 20)}
    body = io.BytesIO(json.dumps(router.envelope(payload)).encode())
    reply = await http.post(f"{worker.url}/v1/x", data=body)
    assert await reply.json() == payload
    await soon(lambda: worker.agent._serving._budget.held == 0)


async def test_an_envelope_that_is_too_large_is_refused(start_worker, model, router, http):
    worker = await start_worker(config_for(model), PYWORKER_MAX_BODY_BYTES="20000")
    envelope = router.envelope({"text": "x" * 30_000})
    declared = await http.post(f"{worker.url}/v1/x", json=envelope)

    async def undeclared():
        yield json.dumps(envelope).encode()

    streamed = await http.post(f"{worker.url}/v1/x", data=undeclared())
    for reply in (declared, streamed):
        assert (reply.status, (await reply.json())["error"]) == (413, "body_too_large")
    assert not model.seen
    assert (await http.post(f"{worker.url}/v1/x", headers=bearer(router.ticket()), data=b"x" * 30_000)).status == 200


async def test_bodies_held_together_are_bounded(start_worker, model, router, http):
    worker = await start_worker(config_for(model), PYWORKER_MAX_BUFFERED_BYTES="50000")
    hold = asyncio.Event()

    async def slow(request):
        await request.read()
        await hold.wait()
        return web.Response(text="done")

    model.on("/slow", slow)
    first = asyncio.create_task(http.post(f"{worker.url}/slow", json=router.envelope({"text": "x" * 40_000})))
    await model.started.wait()
    second = await http.post(f"{worker.url}/slow", json=router.envelope({"text": "x" * 40_000}))
    assert (second.status, (await second.json())["error"]) == (503, "unavailable")
    hold.set()
    assert (await first).status == 200
    third = await http.post(f"{worker.url}/slow", json=router.envelope({"text": "x" * 40_000}))
    assert third.status == 200


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"auth_data": 5, "payload": {}}', b'{"auth_data": {"ticket": "a.b.c"}}'])
async def test_a_bad_envelope_is_named(body, worker, model, http):
    reply = await http.post(f"{worker.url}/v1/x", data=body, headers={"Content-Type": "application/json"})
    problem = await reply.json()
    assert reply.status in (401, 422), problem
    assert problem["error"] in ("no_ticket", "bad_field", "bad_json")
    assert not model.seen


async def test_16_mb_stream_through(worker, model, router, http):
    async def digest(request):
        found = hashlib.sha256()
        async for piece in request.content.iter_any():
            found.update(piece)
        return web.Response(text=found.hexdigest())

    model.on("/upload", digest)
    data = bytes(range(256)) * (16 * 4096)
    for chunked in (False, True):

        async def pieces():
            for start in range(0, len(data), 100_003):
                yield data[start : start + 100_003]

        reply = await http.post(
            f"{worker.url}/upload", headers=bearer(router.ticket()), data=pieces() if chunked else io.BytesIO(data)
        )
        assert await reply.text() == hashlib.sha256(data).hexdigest()


async def test_an_upload_waits_for_the_model_instead_of_filling_memory(worker, model, router, http):
    go_on = asyncio.Event()

    async def stalls(request):
        await go_on.wait()
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        return web.Response(text=str(size))

    model.on("/upload", stalls)
    sent = 0

    async def endless():
        nonlocal sent
        for _ in range(1024):
            sent += 65536
            yield b"\x00" * 65536

    post = asyncio.create_task(http.post(f"{worker.url}/upload", headers=bearer(router.ticket()), data=endless()))
    await model.started.wait()
    before = -1
    while before != sent:  # until it stands still
        before = sent
        await asyncio.sleep(0.2)
    assert sent < 24 << 20, "64 MiB were offered; what was taken lies in socket buffers"
    go_on.set()
    assert await (await post).text() == str(64 << 20)


async def test_expect_100_continue_is_answered_after_the_ticket(worker, router):
    async def say(token):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
        writer.write(
            f"POST /x HTTP/1.1\r\nHost: w\r\nExpect: 100-continue\r\nContent-Length: 5\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        first = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
        if b"100" in first:
            writer.write(b"hello")
            await reader.readuntil(b"\r\n")
            first += await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
        writer.close()
        return first

    assert await say(router.ticket()) == b"HTTP/1.1 100 Continue\r\nHTTP/1.1 200 OK\r\n"
    assert await say(router.ticket("w2")) == b"HTTP/1.1 421 Misdirected Request\r\n"


@pytest.mark.parametrize("path", ["/nope", "/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1/..\\admin"])
async def test_only_routes_with_a_handler_are_forwarded(path, start_worker, model, router):
    worker = await start_worker(config_for(model, HandlerConfig("/v1/*", allow_parallel_requests=True)))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\nAuthorization: Bearer {router.ticket()}\r\n\r\n".encode()
    )
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"no_handler" in answer
    assert not model.seen


# --- the answer -------------------------------------------------------------------------------------------------------

EVENTS = (
    "".join(f'data: {{"n": {n}, "text": "é漢 {"x" * (n % 97)}"}}\n\n' for n in range(300)).encode()
    + b": ping\n\nevent: end\ndata: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 3, 7, 1000, 65_537])
async def test_sse_arrives_byte_for_byte_however_it_is_cut(size, worker, model, router, http):
    data = EVENTS[:2000] if size == 1 else EVENTS
    model.on("/stream", await stream_of([data[i : i + size] for i in range(0, len(data), size)]))
    for reply in (
        await http.get(f"{worker.url}/stream", headers=bearer(router.ticket())),
        await http.post(f"{worker.url}/stream", json=router.envelope({})),
    ):
        assert await reply.read() == data
        assert reply.headers["Content-Type"] == "text/event-stream"
        assert reply.headers["X-Accel-Buffering"] == "no"


async def test_events_arrive_while_the_model_still_works(worker, model, router, http):
    step = asyncio.Event()

    async def slow(request):
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(b"data: 1\n\n")
        await step.wait()
        await reply.write(b"data: 2\n\n")
        return reply

    model.on("/stream", slow)
    reply = await http.get(f"{worker.url}/stream", headers=bearer(router.ticket()))
    assert await reply.content.readany() == b"data: 1\n\n"
    step.set()
    assert await reply.read() == b"data: 2\n\n"


@pytest.mark.parametrize("form", ["short", "stream"])
async def test_gzip_passes_untouched(form, worker, model, router, http):
    packed = gzip.compress(EVENTS)

    async def answer(request):
        assert request.headers["Accept-Encoding"] == "gzip"
        return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    streamed = await stream_of([packed[:100], packed[100:]], **{"Content-Encoding": "gzip"})
    model.on("/zip", answer if form == "short" else streamed)
    reply = await http.post(f"{worker.url}/zip", json=router.envelope({}), headers={"Accept-Encoding": "gzip"})
    assert await reply.read() == packed
    assert reply.headers["Content-Encoding"] == "gzip"


async def test_gzipped_uploads_pass_untouched(worker, model, router, http):
    packed = gzip.compress(b"hello" * 100)
    reply = await http.post(f"{worker.url}/x", headers=bearer(router.ticket(), **{"Content-Encoding": "gzip"}), data=packed)
    assert reply.status == 200
    assert model.seen[0].headers["Content-Encoding"] == "gzip"


async def test_status_headers_and_cookies_of_the_model_come_through(worker, model, router, http):
    async def answer(request):
        reply = web.Response(status=418, reason="I am a teapot", text="short", headers={"X-Model": "m", "Location": "/elsewhere"})
        reply.set_cookie("a", "1")
        reply.set_cookie("b", "2")
        return reply

    async def redirect(request):
        return web.Response(status=307, headers={"Location": "/x"})

    model.on("/teapot", answer)
    model.on("/away", redirect)
    reply = await http.get(f"{worker.url}/teapot", headers=bearer(router.ticket()))
    assert (reply.status, reply.reason, await reply.text()) == (418, "I am a teapot", "short")
    assert reply.headers["X-Model"] == "m"
    assert len(reply.headers.getall("Set-Cookie")) == 2
    away = await http.get(f"{worker.url}/away", headers=bearer(router.ticket()), allow_redirects=False)
    assert (away.status, away.headers["Location"]) == (307, "/x")


async def test_head_and_204_have_no_body(worker, model, router, http):
    async def answer(request):
        return web.Response(status=204) if request.path == "/none" else web.Response(body=b"x" * 1000)

    model.on("/head", answer)
    model.on("/none", answer)
    head = await http.head(f"{worker.url}/head", headers=bearer(router.ticket()))
    assert (head.status, head.headers["Content-Length"], await head.read()) == (200, "1000", b"")
    none = await http.get(f"{worker.url}/none", headers=bearer(router.ticket()))
    assert (none.status, await none.read()) == (204, b"")
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200, "the connection is still usable"


async def test_the_head_of_a_stream_is_passed_on_before_its_first_event(worker, model, router, http):
    go = asyncio.Event()

    async def thinks_long(request):
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        request.writer.send_headers()
        await go.wait()
        await reply.write(b"data: 1\n\n")
        return reply

    model.on("/x", thinks_long)
    reply = await asyncio.wait_for(http.get(f"{worker.url}/x", headers=bearer(router.ticket())), 3)
    assert reply.headers["Content-Type"] == "text/event-stream"
    go.set()
    assert await reply.read() == b"data: 1\n\n"


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_cancels_the_model_call(worker, model, router, http):
    async def endless(request):
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        while True:
            await reply.write(b"data: more\n\n")
            await asyncio.sleep(0.01)

    model.on("/stream", endless)
    reply = await http.get(f"{worker.url}/stream", headers=bearer(router.ticket()))
    await reply.content.readany()
    reply.close()
    await asyncio.wait_for(model.cancelled.wait(), 5)
    load = worker.agent.load
    await soon(lambda: load.open == 0)
    assert (load.cancelled_total, load.served_total, load.failed_total, load.units) == (1, 0, 0, 0.0)


async def test_a_client_that_leaves_before_the_first_byte_cancels_too(worker, model, router, http):
    async def silent(request):
        await asyncio.sleep(60)

    model.on("/slow", silent)
    post = asyncio.create_task(http.post(f"{worker.url}/slow", json=router.envelope({})))
    await model.started.wait()
    post.cancel()
    await asyncio.wait_for(model.cancelled.wait(), 5)
    await soon(lambda: worker.agent.load.cancelled_total == 1)


async def test_a_client_that_takes_nothing_is_cut_off(start_worker, model, router):
    worker = await start_worker(config_for(model, timeouts=Timeouts(idle_s=0.5)))

    async def flood(request):
        reply = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await reply.prepare(request)
        while True:
            await reply.write(b"x" * 65536)

    model.on("/flood", flood)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]), limit=1024)
    writer.write(f"GET /flood HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {router.ticket()}\r\n\r\n".encode())
    await soon(lambda: worker.agent.load.cancelled_total == 1)
    await asyncio.wait_for(model.cancelled.wait(), 5)
    writer.close()


def breaks_after(pieces, content_type="text/event-stream", **headers):
    async def answer(request):
        reply = web.StreamResponse(headers={"Content-Type": content_type, **headers})
        await reply.prepare(request)
        for piece in pieces:
            await reply.write(piece)
        request.transport.close()
        return reply

    return answer


async def raw_call(worker, path, token):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


async def test_a_broken_sse_stream_ends_with_one_error_event_and_no_closing_chunk(worker, model, router, http):
    model.on("/stream", breaks_after([b'data: {"n": 1}\n\n']))
    answer = await raw_call(worker, "/stream", router.ticket())
    assert answer.count(b"HTTP/1.1") == 1, "no second status line"
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"event: error\ndata: ") == 1
    assert not answer.endswith(b"0\r\n\r\n")
    event = json.loads(answer.partition(b"event: error\ndata: ")[2].splitlines()[0])
    assert event["error"]["code"] == "model_died"
    reply = await http.get(f"{worker.url}/stream", headers=bearer(router.ticket()))
    with pytest.raises(aiohttp.ClientPayloadError):
        await reply.read()
    assert worker.agent.load.failed_total == 2


@pytest.mark.parametrize(
    "answer",
    [
        breaks_after([b'data: {"n": 1}\n\ndata: {"n"']),  # inside an event: more text would complete it
        breaks_after([b"x" * 1000], "application/octet-stream"),
        breaks_after([gzip.compress(b"x")], **{"Content-Encoding": "gzip"}),
        breaks_after([b"data: 1\n\n"], **{"Content-Length": "100000"}),
    ],
    ids=["inside an event", "no sse", "compressed", "promised length"],
)
async def test_other_broken_answers_just_end_and_never_look_complete(answer, worker, model, router, http):
    model.on("/stream", answer)
    assert b"event: error" not in await raw_call(worker, "/stream", router.ticket())
    reply = await http.get(f"{worker.url}/stream", headers=bearer(router.ticket()))
    with pytest.raises(aiohttp.ClientPayloadError):
        await reply.read()


async def test_a_model_that_breaks_off_a_short_answer_gives_502(worker, model, router, http):
    model.on("/short", breaks_after([b"{"], "application/json", **{"Content-Length": "100"}))
    reply = await http.get(f"{worker.url}/short", headers=bearer(router.ticket()))
    assert (reply.status, (await reply.json())["error"]) == (502, "model_died")


async def test_a_model_that_hangs_up_before_answering_gives_502(worker, model, router, http):
    async def hangs_up(request):
        request.transport.close()
        return web.Response()

    model.on("/x", hangs_up)
    reply = await http.post(f"{worker.url}/x", json=router.envelope({}))
    assert (reply.status, (await reply.json())["error"]) == (502, "model_died")
    assert reply.headers["x-should-retry"] == "false"
    assert worker.agent.load.failed_total == 1


@pytest.mark.parametrize("limit", ["first_byte_s", "idle_s", "total_s"])
async def test_each_time_limit_is_kept(limit, start_worker, model, router, http):
    worker = await start_worker(config_for(model, timeouts=Timeouts(**{limit: 0.3})))

    async def silent(request):
        if limit != "first_byte_s":
            reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await reply.prepare(request)
            for _ in range(2):
                await reply.write(b"data: 1\n\n")
                await asyncio.sleep(0.1)
        await asyncio.sleep(60)

    model.on("/slow", silent)
    reply = await http.get(f"{worker.url}/slow", headers=bearer(router.ticket()))
    if limit == "first_byte_s":
        assert (reply.status, (await reply.json())["error"]) == (504, "model_timeout")
    else:
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()
    await asyncio.wait_for(model.cancelled.wait(), 5)
    await soon(lambda: worker.agent.load.failed_total == 1)


async def test_a_steady_stream_may_last_longer_than_the_idle_limit(start_worker, model, router, http):
    worker = await start_worker(config_for(model, timeouts=Timeouts(idle_s=0.3, first_byte_s=0.3)))

    async def steady(request):
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for _ in range(8):
            await reply.write(b"data: 1\n\n")
            await asyncio.sleep(0.1)
        return reply

    model.on("/slow", steady)
    reply = await http.get(f"{worker.url}/slow", headers=bearer(router.ticket()))
    assert await reply.read() == b"data: 1\n\n" * 8
