"""Who runs, who waits, who is told to go elsewhere; drains; probes; what user code may do."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from worker_kit import bearer, config_for, soon

from pyworker import HandlerConfig, JsonDataException
from schemas.signals import ControlOrder
from schemas.states import WorkerState


class Gatekeeper:
    """A model handler that lets requests through one by one, in the order in which they came."""

    def __init__(self, model, path="/x"):
        self.order: list[str] = []
        self.arrived = asyncio.Event()
        self.go = asyncio.Semaphore(0)
        self.at_once = self.most_at_once = 0
        model.on(path, self.handle)

    async def handle(self, request):
        body = await request.read()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.order.append(json.loads(body)["n"])
        self.arrived.set()
        try:
            await self.go.acquire()
        finally:
            self.at_once -= 1
        return web.json_response({"n": json.loads(body)["n"]})


async def start_calls(http, worker, router, count, **more):
    """Calls that reach the worker one after the other, so that their order is known."""
    calls = []
    for n in range(count):
        total = worker.agent.load.requests_total
        calls.append(asyncio.create_task(http.post(f"{worker.url}/x", json=router.envelope({"n": n}, **more))))
        await soon(lambda total=total: worker.agent.load.requests_total > total)
    return calls


async def test_a_serial_handler_runs_one_at_a_time_first_come_first_served(start_worker, model, router, http):
    keeper = Gatekeeper(model)
    worker = await start_worker(config_for(model, HandlerConfig("/x", max_queue_time=None)))
    calls = await start_calls(http, worker, router, 5)
    load = worker.agent.load
    assert (load.inflight, load.queued, load.units) == (1, 4, 50.0)
    for _ in calls:
        keeper.go.release()
    replies = await asyncio.gather(*calls)
    assert keeper.order == [0, 1, 2, 3, 4]
    assert keeper.most_at_once == 1
    waits = [int(r.headers["X-Queue-Time-Ms"]) for r in replies]
    assert waits[0] == 0 < min(waits[1:])
    await soon(lambda: load.open == 0)
    assert (load.served_total, load.units, load.served_units_total) == (5, 0.0, 50.0)


async def test_slots_limit_parallel_requests(start_worker, model, router, http):
    keeper = Gatekeeper(model)
    worker = await start_worker(
        config_for(model, HandlerConfig("/x", allow_parallel_requests=True, max_queue_time=None), slots=3)
    )
    calls = await start_calls(http, worker, router, 8)
    await soon(lambda: keeper.at_once == 3)
    for _ in calls:
        keeper.go.release()
    assert {r.status for r in await asyncio.gather(*calls)} == {200}
    assert keeper.most_at_once == 3


async def test_a_waiting_client_that_leaves_gives_up_its_place(start_worker, model, router, http):
    keeper = Gatekeeper(model)
    worker = await start_worker(config_for(model, HandlerConfig("/x", max_queue_time=None)))
    calls = await start_calls(http, worker, router, 3)
    calls[1].cancel()
    await soon(lambda: worker.agent.load.cancelled_total == 1)
    keeper.go.release()
    keeper.go.release()
    assert [(await calls[n]).status for n in (0, 2)] == [200, 200]
    assert keeper.order == [0, 2]


async def test_a_queue_that_would_take_too_long_refuses_and_leaves_the_ticket_usable(start_worker, model, router, http):
    keeper = Gatekeeper(model)
    worker = await start_worker(config_for(model, HandlerConfig("/x", max_queue_time=1.5), perf=10.0))
    calls = await start_calls(http, worker, router, 2)  # 10 units each at 10 units/s: the second waits 1 s, a third would wait 2
    third = router.envelope({"n": 2})
    reply = await http.post(f"{worker.url}/x", json=third)
    assert (reply.status, (await reply.json())["error"]) == (429, "queue_full")
    assert reply.headers["X-Dropped-Reason"] == "queue_full"
    assert int(reply.headers["Retry-After"]) == 1
    assert 400 <= int(reply.headers["Retry-After-Ms"]) <= 600
    assert "x-should-retry" not in reply.headers
    assert worker.agent.load.rejected_total == 1
    for _ in range(3):
        keeper.go.release()
    await asyncio.gather(*calls)
    assert (await http.post(f"{worker.url}/x", json=third)).status == 200, "it was refused, so it was not used"


async def test_the_queue_is_bounded(start_worker, model, router, http):
    keeper = Gatekeeper(model)
    worker = await start_worker(config_for(model, HandlerConfig("/x", max_queue_time=None), max_queued=2))
    calls = await start_calls(http, worker, router, 3)
    reply = await http.post(f"{worker.url}/x", json=router.envelope({"n": 9}))
    assert (reply.status, (await reply.json())["error"]) == (429, "queue_full")
    for _ in calls:
        keeper.go.release()
    await asyncio.gather(*calls)


# --- leaving ----------------------------------------------------------------------------------------------------------


async def test_a_worker_that_leaves_finishes_its_stream_and_refuses_new_requests(start_worker, model, router, http):
    step = asyncio.Event()

    async def slow(request):
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(b"data: 1\n\n")
        await step.wait()
        await reply.write(b"data: 2\n\n")
        return reply

    model.on("/x", slow)
    worker = await start_worker(config_for(model))
    reply = await http.post(f"{worker.url}/x", json=router.envelope({}))
    assert await reply.content.readany() == b"data: 1\n\n"
    worker.agent.leave()
    assert worker.agent.life.state is WorkerState.DRAINING
    refused = await http.post(f"{worker.url}/x", json=router.envelope({}))
    assert (refused.status, (await refused.json())["error"]) == (503, "draining")
    assert (await http.get(f"{worker.url}/health")).status == 503
    assert not worker.task.done()
    step.set()
    assert await reply.content.read() == b"data: 2\n\n"
    await asyncio.wait_for(worker.task, 5)
    assert worker.agent.load.served_total == 1


async def test_queued_requests_are_finished_too(start_worker, model, router, http):
    keeper = Gatekeeper(model)
    worker = await start_worker(config_for(model, HandlerConfig("/x", max_queue_time=None)))
    calls = await start_calls(http, worker, router, 3)
    worker.agent.leave()
    for _ in calls:
        keeper.go.release()
    assert {r.status for r in await asyncio.gather(*calls)} == {200}
    await asyncio.wait_for(worker.task, 5)


@pytest.mark.parametrize("how", ["timeout", "second signal"])
async def test_a_drain_ends_in_any_case(how, start_worker, model, router, http):
    Gatekeeper(model)
    worker = await start_worker(config_for(model, drain_timeout_s=0.2 if how == "timeout" else 600.0))
    calls = await start_calls(http, worker, router, 1)
    worker.agent.leave()
    if how == "second signal":
        worker.agent.leave()
    await asyncio.wait_for(worker.task, 5)
    (result,) = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(result, Exception), "cut short, and the client can tell"
    assert model.cancelled.is_set()


async def test_a_drain_by_order_keeps_the_promises_already_made(start_worker, model, router, http):
    worker = await start_worker(config_for(model))
    reply = await worker.agent._obey(ControlOrder(op="drain", reason="test"))
    assert (reply.ok, reply.state) == (True, WorkerState.DRAINING)
    kept = await http.post(f"{worker.url}/x", json=router.envelope({}))
    assert kept.status == 200, "its ticket was given out before the drain"
    since = worker.agent.life.draining_since
    late = await http.post(f"{worker.url}/x", json=router.envelope({}, iat=int(since) + 7, nbf=int(since)))
    assert (late.status, (await late.json())["error"]) == (503, "draining")
    assert (await worker.agent._obey(ControlOrder(op="undrain"))).state is WorkerState.READY
    assert (await http.post(f"{worker.url}/x", json=router.envelope({}, iat=int(since) + 7, nbf=int(since)))).status == 200
    unknown = await worker.agent._obey(ControlOrder(op="dance"))
    assert not unknown.ok
    stopped = await worker.agent._obey(ControlOrder(op="stop"))
    assert stopped.ok
    await asyncio.wait_for(worker.task, 5)
    assert not (await worker.agent._obey(ControlOrder(op="undrain"))).ok


async def test_a_loading_worker_sends_clients_away_and_keeps_their_tickets_good(start_worker, model, router, http):
    model.healthy = False
    worker = await start_worker(config_for(model), ready=False)
    await worker.until(WorkerState.MODEL_LOADING)
    await soon(lambda: worker.agent.keys.ready)
    token = router.ticket()
    reply = await http.post(f"{worker.url}/x", headers=bearer(token), data=b"1")
    assert (reply.status, (await reply.json())["error"]) == (503, "loading")
    assert (await http.get(f"{worker.url}/ping")).status == 204
    model.healthy = True
    await worker.until(WorkerState.READY)
    assert (await http.post(f"{worker.url}/x", headers=bearer(token), data=b"1")).status == 200


# --- probes -----------------------------------------------------------------------------------------------------------


async def test_probes_need_no_ticket(start_worker, model, router, http):
    worker = await start_worker(config_for(model))
    await http.post(f"{worker.url}/x", json=router.envelope({"canary": "xyzzy"}))
    await http.post(f"{worker.url}/x", data=b"")
    assert (await http.get(f"{worker.url}/livez")).status == 200
    assert (await http.get(f"{worker.url}/ping")).status == 200
    health = await http.get(f"{worker.url}/health")
    assert (health.status, await health.json()) == (200, {"state": "ready", "worker_id": "w1"})
    metrics = await (await http.get(f"{worker.url}/metrics")).text()
    lines = metrics.splitlines()
    assert 'corral_worker_requests_total{outcome="served"} 1.0' in lines
    assert 'corral_worker_requests_total{outcome="unauthorized"} 1.0' in lines
    assert 'corral_worker_state{state="ready"} 1.0' in lines
    assert "corral_worker_request_seconds_count 1.0" in lines
    assert "corral_worker_perf_units_per_second 100.0" in lines
    assert "xyzzy" not in metrics


# --- user code --------------------------------------------------------------------------------------------------------


async def test_a_parser_changes_the_payload_and_a_calculator_counts_it(start_worker, model, router, http):
    handler = HandlerConfig("/x", request_parser=lambda p: p["input"], workload_calculator=lambda p: p["tokens"])
    worker = await start_worker(config_for(model, handler))
    reply = await http.post(f"{worker.url}/x", json=router.envelope({"input": {"tokens": 42}}))
    assert await reply.json() == {"tokens": 42}
    assert worker.agent.load.served_units_total == 42.0


def _refuses(payload):
    raise JsonDataException({"prompt": "missing parameter"})


def _crashes(payload):
    raise KeyError(payload["secret"])


@pytest.mark.parametrize(
    ("parser", "status", "code"),
    [(_refuses, 422, "bad_field"), (_crashes, 500, "internal"), (lambda payload: {"x": object()}, 500, "internal")],
)
async def test_a_parser_that_raises(parser, status, code, start_worker, model, router, http, capfd):
    worker = await start_worker(config_for(model, HandlerConfig("/x", request_parser=parser)))
    reply = await http.post(f"{worker.url}/x", json=router.envelope({"secret": "xyzzy-canary"}))
    problem = await reply.json()
    assert (reply.status, problem["error"]) == (status, code)
    assert problem.get("fields", {}) == ({"prompt": "missing parameter"} if status == 422 else {})
    assert "xyzzy-canary" not in str(problem)
    assert not model.seen
    assert worker.agent.load.rejected_total == 1
    out, err = capfd.readouterr()
    assert "xyzzy-canary" not in out + err


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -1.0, None])
async def test_a_cost_that_is_none_counts_as_the_tickets(answer, start_worker, model, router, http):
    worker = await start_worker(config_for(model, HandlerConfig("/x", workload_calculator=lambda p: answer)))
    assert (await http.post(f"{worker.url}/x", json=router.envelope({}, cost=7.0))).status == 200
    assert worker.agent.load.served_units_total == 7.0


@pytest.mark.parametrize("payload", [[1], "text", None])
async def test_a_payload_that_is_no_object_is_refused_where_user_code_reads_it(payload, start_worker, model, router, http):
    worker = await start_worker(config_for(model, HandlerConfig("/x", workload_calculator=lambda p: 1.0)))
    reply = await http.post(f"{worker.url}/x", json=router.envelope(payload))
    assert (reply.status, (await reply.json())["error"]) == (422, "bad_field")


async def test_a_response_generator_replaces_the_answer(start_worker, model, router, http):
    async def shout(request, model_response):
        return web.Response(text=(await model_response.text()).upper())

    worker = await start_worker(config_for(model, HandlerConfig("/x", response_generator=shout)))
    reply = await http.post(f"{worker.url}/x", json=router.envelope({"a": "b"}))
    assert await reply.text() == '{"A": "B"}'


async def test_a_response_generator_that_fails_half_way_does_not_get_a_second_answer_written_behind_it(
    start_worker, model, router, http
):
    async def half(request, model_response):
        reply = web.StreamResponse()
        await reply.prepare(request)
        await reply.write(b"half of it")
        raise ValueError

    worker = await start_worker(config_for(model, HandlerConfig("/x", response_generator=half)))
    reply = await http.post(f"{worker.url}/x", json=router.envelope({}))
    assert reply.status == 200
    with pytest.raises(aiohttp.ClientPayloadError):
        await reply.read()
    assert worker.agent.load.failed_total == 1


async def test_a_function_called_twice_with_one_ticket_runs_once(start_worker, model, router):
    """The body comes after the head, so both calls have been checked before either is taken in."""
    ran = []

    async def count():
        ran.append(1)

    worker = await start_worker(config_for(model, HandlerConfig("/f", remote_function=count)))
    head = f"POST /f HTTP/1.1\r\nHost: w\r\nContent-Length: 2\r\nConnection: close\r\nAuthorization: Bearer {router.ticket()}\r\n\r\n"
    connections = [await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2])) for _ in range(5)]
    for _, writer in connections:
        writer.write(head.encode())
    await asyncio.sleep(0.1)
    for _, writer in connections:
        writer.write(b"{}")
    answers = [await asyncio.wait_for(reader.read(), 5) for reader, _ in connections]
    assert sorted(answer[9:12] for answer in answers) == [b"200"] + [b"409"] * 4
    assert ran == [1]
    for _, writer in connections:
        writer.close()
    assert worker.agent._serving._budget.held == 0


async def test_functions_run_here_without_a_model(start_worker, model, router, http):
    async def add(a, b=1):
        return a + b

    worker = await start_worker(
        config_for(model, HandlerConfig("/add", remote_function=add), model_server_url=None, model_healthcheck_url=None)
    )
    by_envelope = await http.post(f"{worker.url}/add", json=router.envelope({"a": 1, "b": 2}))
    assert (by_envelope.status, await by_envelope.json()) == (200, {"result": 3})
    by_bearer = await http.post(f"{worker.url}/add", headers=bearer(router.ticket()), data=b'{"a": 5}')
    assert await by_bearer.json() == {"result": 6}
    wrong = await http.post(f"{worker.url}/add", json=router.envelope({"nope": 1}))
    assert (wrong.status, (await wrong.json())["error"]) == (500, "internal")
