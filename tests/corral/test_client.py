"""The client at its edges: where a request goes, what is repeated, what is not, and who says so."""

import asyncio
import json

import pytest
from aiohttp import web

import corral
from corral import (
    BudgetExceeded,
    Budgets,
    Corral,
    EndpointStopped,
    GaveUp,
    ModelError,
    NotFound,
    Policy,
    StreamBroken,
    Unauthorized,
    Unreachable,
    WrongForm,
)

PATH = "/v1/chat/completions"


async def test_the_body_reaches_the_worker_untouched_and_the_api_key_does_not(endpoint, router, worker, steps):
    model = await worker("w1", steps.says(body={"text": "hello"}))
    raw = b'{ "spaces" : "kept",\n "n": 1e3}'
    answer = await endpoint.request(PATH, raw, cost=42, headers={"X-Mine": "1", "Content-Type": "application/json"})

    assert answer.ok
    assert answer.json() == {"text": "hello"}
    assert (answer.worker_id, answer.group_id) == ("w1", 5)
    [(method, path, headers, body)] = model.seen
    assert (method, path, body) == ("POST", PATH, raw)
    assert headers["Authorization"] == "Bearer ticket-1"
    assert headers["X-Mine"] == "1"
    assert "a-client-key" not in json.dumps(headers)
    [(route_headers, route_body)] = router.asked
    assert route_headers["Authorization"] == "Bearer a-client-key"
    assert (route_body["endpoint"], route_body["cost"]) == ("llm", 42)
    assert "spaces" not in json.dumps(route_body)  # the payload stays out of the control plane


async def test_without_asyncio(router, worker, steps):
    await worker("w1", steps.says(body={"text": "hello"}))
    answer = await asyncio.to_thread(corral.request, "llm", PATH, {"a": 1}, url=router.url, api_key="k", cost=3)
    assert answer.json() == {"text": "hello"}
    assert router.asked[0][1]["cost"] == 3


async def test_no_redirect_is_followed_so_a_ticket_stays_where_it_belongs(endpoint, router, worker, steps):
    elsewhere = await worker("w2", steps.says())
    router.workers.clear()
    await worker("w1", steps.says(307, headers={"Location": elsewhere.url + PATH}))
    assert (await endpoint.request(PATH, {})).status == 307
    assert not elsewhere.seen


async def test_own_authorization_header_is_refused_with_the_reason(endpoint):
    with pytest.raises(ValueError, match="belongs to the ticket"):
        await endpoint.request(PATH, {}, headers={"authorization": "Bearer x"})


async def test_timing_tells_the_wait_from_the_work(endpoint, router, worker, steps):
    async def later():
        await asyncio.sleep(0.3)
        await worker("w1", steps.says(headers={"X-Queue-Time-Ms": "125"}))

    task = asyncio.create_task(later())
    answer = await endpoint.request(PATH, {})
    await task
    assert 0.25 < answer.timing.route_wait_s < 3
    assert answer.timing.queue_s == 0.125
    assert answer.timing.total_s >= answer.timing.route_wait_s + answer.timing.first_byte_s
    assert [a.outcome for a in answer.attempts] == ["answered"]


REFUSALS = [
    (421, "ticket_wrong_worker", True),
    (409, "ticket_replayed", False),
    (401, "ticket_expired", False),
    (503, "loading", True),
    (503, "draining", True),
    (429, "queue_full", True),
    (502, "model_unreachable", True),
    (504, "model_timeout", True),
]


@pytest.mark.parametrize("status,code,avoided", REFUSALS)
async def test_a_refusal_takes_the_request_to_another_worker(status, code, avoided, endpoint, router, worker, steps):
    first = await worker("w1", steps.refuses(status, code), steps.says(body="w1 after all"))
    second = await worker("w2", steps.says(body="w2"))
    answer = await endpoint.request(PATH, {"a": 1})

    assert answer.status == 200
    assert [a.outcome for a in answer.attempts] == [code, "answered"]
    assert answer.attempts[0].status == status
    again = router.asked[1][1]
    assert again["request_idx"] == 77  # the same request, not a new one
    assert again["exclude_workers"] == (["w1"] if avoided else [])
    assert len(second.seen) == (1 if avoided else 0)
    assert len(first.seen) == (1 if avoided else 2)


async def test_a_gateway_that_speaks_for_a_dead_worker_is_no_answer(endpoint, worker, steps):
    await worker("w1", steps.says(502, body="<html>bad gateway</html>"))
    await worker("w2", steps.says())
    answer = await endpoint.request(PATH, {})
    assert (answer.worker_id, answer.attempts[0].outcome) == ("w2", "http_502")


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
async def test_what_the_model_itself_says_is_the_answer(status, endpoint, worker, steps):
    model = await worker("w1", steps.says(status, {"error": {"message": "the model's own"}}))
    answer = await endpoint.request(PATH, {})
    assert (answer.status, answer.ok, len(model.seen)) == (status, False, 1)
    with pytest.raises(ModelError, match="the model's own"):
        answer.raise_for_status()


async def test_an_unreachable_worker_is_left_out(endpoint, router, worker, steps):
    gone = await worker("w1", steps.says())
    gone.url = f"http://127.0.0.1:{steps.unused_port()}"
    await worker("w2", steps.says())
    answer = await endpoint.request(PATH, {})
    assert [a.outcome for a in answer.attempts] == ["connect_failed", "answered"]
    assert router.asked[1][1]["exclude_workers"] == ["w1"]


async def test_a_lone_worker_that_was_full_is_asked_again(endpoint, router, worker, steps):
    model = await worker("w1", steps.refuses(429, "queue_full", {"Retry-After": "0.2"}), steps.says())
    answer = await endpoint.request(PATH, {})
    assert answer.ok
    assert len(model.seen) == 2
    assert router.asked[1][1]["exclude_workers"] == ["w1"]
    assert router.asked[1][1]["wait_s"] <= 0.2  # no longer than the worker asked for
    assert router.asked[-1][1].get("exclude_workers") == []


async def test_attempts_are_bounded_and_told_one_by_one(endpoint, worker, steps):
    for number in range(4):
        await worker(f"w{number}", steps.refuses(503, "draining"))
    with pytest.raises(GaveUp, match="3 attempts") as caught:
        await endpoint.request(PATH, {}, policy=Policy(max_attempts=3, backoff_s=0.001))
    assert [a.outcome for a in caught.value.attempts] == ["draining"] * 3
    assert len({a.worker_id for a in caught.value.attempts}) == 3


async def test_a_request_that_may_not_be_repeated_is_not(endpoint, worker, steps):
    await worker("w1", steps.drops)
    second = await worker("w2", steps.says())
    with pytest.raises(GaveUp, match="may not be repeated"):
        await endpoint.request(PATH, {}, policy=Policy(idempotent=False))
    assert not second.seen
    assert (await endpoint.request(PATH, {})).worker_id == "w2"  # by default it is


async def test_even_then_a_clear_refusal_is_taken_elsewhere(endpoint, worker, steps):
    await worker("w1", steps.refuses(503, "loading"))
    await worker("w2", steps.says())
    answer = await endpoint.request(PATH, {}, policy=Policy(idempotent=False))
    assert answer.worker_id == "w2"


# --- the router ---------------------------------------------------------------------------------------------------


async def test_a_router_that_restarts_is_waited_for(endpoint, router, worker, steps):
    await worker("w1", steps.says())
    router.problems = [(503, {"error": "unavailable", "msg": "starting"}), (502, {})]
    assert (await endpoint.request(PATH, {})).ok
    assert len(router.asked) == 3


@pytest.mark.parametrize("status,code,error", [(401, "bad_key", Unauthorized), (404, "no_endpoint", NotFound)])
async def test_a_clear_no_is_final_and_says_what_to_do(status, code, error, endpoint, router):
    router.problems = [(status, {"error": code, "msg": "the reason"})]
    with pytest.raises(error, match="the reason") as caught:
        await endpoint.request(PATH, {})
    assert (caught.value.code, bool(caught.value.hint)) == (code, True)
    assert len(router.asked) == 1


async def test_a_stopped_endpoint_is_not_waited_for(endpoint, router):
    router.waiting |= {"wait_reason": "stopped", "status": "stopped by an operator"}
    router.hold = False
    with pytest.raises(EndpointStopped, match="resume llm"):
        await endpoint.request(PATH, {})


async def test_waiting_can_be_watched(endpoint, router, worker, steps):
    router.hold = False
    heard = []

    def on_wait(waiting):
        heard.append(waiting.wait_reason)
        if len(heard) == 3:
            starting.append(asyncio.create_task(worker("w1", steps.says())))

    starting = []
    assert (await endpoint.request(PATH, {}, on_wait=on_wait)).ok
    assert heard[:3] == ["starting"] * 3


async def test_nobody_home_is_an_error_of_the_queue_budget(steps):
    async with Corral(f"http://127.0.0.1:{steps.unused_port()}", "k") as client:
        with pytest.raises(BudgetExceeded, match="no answer from the control plane") as caught:
            await client.endpoint("llm").request(PATH, {}, budgets=Budgets(queue_s=0.3))
        assert caught.value.budget == "queue"
        with pytest.raises(Unreachable):
            await client.admin.endpoints()


# --- budgets ------------------------------------------------------------------------------------------------------


async def test_the_queue_budget_names_itself_and_the_reason(endpoint, router):
    with pytest.raises(BudgetExceeded, match=r"queue budget of 0.3 s.*no worker yet") as caught:
        await endpoint.request(PATH, {}, budgets=Budgets(queue_s=0.3))
    assert caught.value.budget == "queue"
    assert caught.value.spent_s["queue"] >= 0.25


async def test_the_first_byte_budget(endpoint, worker, steps):
    await worker("w1", steps.hangs)
    second = await worker("w2", steps.says())
    with pytest.raises(BudgetExceeded, match="w1") as caught:
        await endpoint.request(PATH, {}, budgets=Budgets(first_byte_s=0.2))
    assert caught.value.budget == "first_byte"
    assert not second.seen  # a slow model is not made slower by asking another


async def test_the_idle_budget(endpoint, worker, steps):
    await worker("w1", steps.streams(b"data: 1\n\n", then=steps.falls_silent))
    with pytest.raises(BudgetExceeded, match="after 9 bytes") as caught:
        await endpoint.request(PATH, {}, budgets=Budgets(idle_s=0.2))
    assert caught.value.budget == "idle"


async def test_the_total_budget_rules_them_all(endpoint, worker, steps):
    await worker("w1", steps.hangs)
    with pytest.raises(BudgetExceeded) as caught:
        await endpoint.request(PATH, {}, budgets=Budgets(total_s=0.2, first_byte_s=30))
    assert caught.value.budget == "total"


async def test_the_connect_budget_moves_on_to_another_worker(endpoint, worker, steps):
    slow = await worker("w1", steps.says())
    await worker("w2", steps.says())
    with steps.deaf_listener() as url:
        slow.url = url
        answer = await endpoint.request(PATH, {}, budgets=Budgets(connect_s=0.2))
    assert [a.outcome for a in answer.attempts] == ["connect_failed", "answered"]


# --- streams ------------------------------------------------------------------------------------------------------


async def test_a_stream_is_read_as_it_is_made(endpoint, worker, steps):
    gate = asyncio.Event()

    async def wait_for_gate(request):
        await gate.wait()

    await worker("w1", steps.streams(b'data: {"n": 1}\n\n', then=wait_for_gate))
    async with endpoint.stream(PATH, {}) as stream:
        events = stream.events()
        first = await anext(events)
        assert first.json() == {"n": 1}
        assert not gate.is_set()  # the worker has not finished yet
        gate.set()
        assert [event async for event in events] == []
    assert stream.attempts[0].outcome == "answered"


async def test_a_worker_lost_in_mid_stream_is_told_and_nothing_is_repeated(endpoint, worker, steps):
    await worker("w1", steps.streams(b"data: 1\n\n", then=steps.loses_the_line))
    second = await worker("w2", steps.says())
    got = []
    with pytest.raises(StreamBroken, match="w1") as caught:
        async with endpoint.stream(PATH, {}) as stream:
            async for event in stream.events():
                got.append(event.data)
    assert got == ["1"]
    assert caught.value.received_bytes == 9
    assert not second.seen


async def test_the_workers_word_that_the_model_died_is_an_error_and_no_event(endpoint, worker, steps):
    last = b'event: error\ndata: {"error": {"message": "it broke off", "code": "model_died", "type": "server_error"}}\n\n'
    await worker("w1", steps.streams(b"data: 1\n\n" + last))
    got = []
    with pytest.raises(StreamBroken, match="it broke off"):
        async with endpoint.stream(PATH, {}) as stream:
            async for event in stream.events():
                got.append(event.data)
    assert got == ["1"]


async def test_an_error_event_of_the_models_own_is_an_event(endpoint, worker, steps):
    await worker("w1", steps.streams(b'event: error\ndata: {"error": "mine"}\n\n'))
    async with endpoint.stream(PATH, {}) as stream:
        assert [event.name async for event in stream.events()] == ["error"]


async def test_lines(endpoint, worker, steps):
    await worker("w1", steps.streams(b"one\r\ntw", b"o\nthree"))
    async with endpoint.stream(PATH, {}) as stream:
        assert [line async for line in stream.lines()] == ["one", "two", "three"]


async def test_leaving_early_closes_the_connection_to_the_worker(endpoint, worker, steps):
    closed = asyncio.Event()

    async def until_closed(request):
        while request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(0.01)
        closed.set()

    await worker("w1", steps.streams(b"data: 1\n\n", then=until_closed))
    async with endpoint.stream(PATH, {}) as stream:
        await anext(stream.events())
    await asyncio.wait_for(closed.wait(), 5)


async def test_events_of_an_error_answer_raise_the_models_words(endpoint, worker, steps):
    await worker("w1", steps.says(400, {"error": "too long"}))
    async with endpoint.stream(PATH, {}) as stream:
        with pytest.raises(ModelError, match="too long"):
            await anext(stream.events())


async def test_cancelling_closes_the_connection(endpoint, worker, steps):
    arrived, left = asyncio.Event(), asyncio.Event()

    async def hold(request):
        arrived.set()
        try:
            while request.transport is not None and not request.transport.is_closing():
                await asyncio.sleep(0.01)
        finally:
            left.set()

    await worker("w1", hold)
    task = asyncio.create_task(endpoint.request(PATH, {}))
    await asyncio.wait_for(arrived.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(left.wait(), 5)


# --- workers that run Vast's PyWorker -------------------------------------------------------------------------------


async def test_vasts_worker_gets_vasts_envelope_and_no_ticket(endpoint, worker, steps):
    model = await worker("w1", steps.says(body={"text": "hello"}))
    model.envelope = True
    raw = b'{ "spaces" : "kept",\n "n": 1e3}'
    answer = await endpoint.request(
        PATH, raw, cost=42, headers={"content-type": "application/json; charset=utf-8", "X-Mine": "1"}
    )
    assert answer.json() == {"text": "hello"}
    [(method, path, headers, body)] = model.seen
    assert (method, path, headers["Content-Type"], headers["X-Mine"]) == ("POST", PATH, "application/json", "1")
    assert "Authorization" not in headers
    assert raw in body, "the payload is passed on as it is"
    sent = json.loads(body)
    assert sent["payload"] == {"spaces": "kept", "n": 1000.0}
    assert sent["session_id"] is None
    assert sent["auth_data"] == {
        "cost": 42,
        "endpoint": "llm",
        "reqnum": 1,
        "request_idx": 77,
        "signature": "s",
        "url": model.url,
    }
    assert (await endpoint.request(PATH)).ok
    assert json.loads(model.seen[1][3])["payload"] == {}


@pytest.mark.parametrize(
    "how",
    [
        {"method": "PUT", "payload": {}},
        {"payload": [1]},
        {"payload": b"no json"},
        {"payload": b"%PDF", "headers": {"Content-Type": "application/pdf"}},
        {"payload": "text"},
    ],
)
async def test_what_cannot_be_said_in_vasts_envelope_is_not_sent(how, endpoint, worker, steps):
    model = await worker("w1", steps.says())
    model.envelope = True
    with pytest.raises(WrongForm, match="Vast's PyWorker"):
        await endpoint.request(PATH, **how)
    assert not model.seen


@pytest.mark.parametrize("status, code", [(401, "ticket_unknown_key"), (429, "queue_full"), (500, "model_died")])
async def test_vasts_worker_refuses_without_a_word_and_another_is_asked(status, code, endpoint, worker, steps):
    first = await worker("w1", says_nothing(status))
    second = await worker("w2", steps.says(body="w2"))
    first.envelope = second.envelope = True
    answer = await endpoint.request(PATH, {"a": 1})
    assert [a.outcome for a in answer.attempts] == [code, "answered"]
    assert answer.worker_id == "w2"


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_words_from_behind_vasts_worker_are_the_models(status, endpoint, worker, steps):
    model = await worker("w1", steps.says(status, {"error": "the model's own"}))
    model.envelope = True
    answer = await endpoint.request(PATH, {})
    assert (answer.status, answer.json(), len(model.seen)) == (status, {"error": "the model's own"}, 1)
    silent = await worker("w2", says_nothing(status))
    model.envelope = silent.envelope = False
    model.script = [says_nothing(status)]
    assert (await endpoint.request(PATH, {})).status == status, "ours always say why"


def says_nothing(status):
    async def step(_request):
        return web.Response(status=status)

    return step
