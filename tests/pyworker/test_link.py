"""Heartbeats and orders over a real nats-server, with a worker's own credentials; and life without it."""

import asyncio
import sys
import time

import pytest
from worker_kit import bearer, bundle, config_for, soon

from pyworker import HandlerConfig, WorkerConfig, link
from schemas import codec, subjects
from schemas.ids import WorkerId
from schemas.signals import ControlOrder, ControlReply, Heartbeat
from schemas.states import WorkerState

W = WorkerState


class Ear:
    """Collects the heartbeats of one endpoint, as the scaler hears them."""

    def __init__(self):
        self.beats: list[Heartbeat] = []
        self.came = asyncio.Event()

    def hear(self, message):
        self.beats.append(codec.heartbeat(message.data))
        self.came.set()

    async def until(self, condition, within_s=10.0) -> Heartbeat:
        async with asyncio.timeout(within_s):
            while True:
                for beat in self.beats:
                    if condition(beat):
                        return beat
                self.came.clear()
                await self.came.wait()


@pytest.fixture
async def ear(bus, endpoint_id):
    made = Ear()
    await bus.subscribe(subjects.heartbeat(endpoint_id, WorkerId("*")), made.hear)
    return made


def credentials(server, worker_id, endpoint_id, ttl_s=3600.0):
    jwt, seed = server.keyring.worker_minter().mint(WorkerId(worker_id), endpoint_id, ttl_s)
    return {"nats_jwt": jwt, "nats_seed": seed, "nats_url": server.url, "worker_id": worker_id, "endpoint": endpoint_id}


@pytest.fixture
def made(nats_server, router, endpoint_id):
    return bundle(router.url, **credentials(nats_server, f"w{endpoint_id}", endpoint_id))


async def order(bus, worker, **what) -> ControlReply:
    data = await bus.request(subjects.control(WorkerId(worker.worker_id)), codec.encode(ControlOrder(**what)), 5.0)
    return codec.decode(data, ControlReply)


async def test_heartbeats_tell_the_whole_state_and_come_at_once_on_a_change(start_worker, model, made, ear, router, http):
    model.healthy = False
    worker = await start_worker(config_for(model), ready=False, made=made)
    await ear.until(lambda b: b.state is W.MODEL_LOADING)
    model.healthy = True
    await worker.until(W.READY)
    became_ready_at = time.monotonic()
    first_ready = await ear.until(lambda b: b.state is W.READY)
    assert time.monotonic() - became_ready_at < 0.5, "not at the next beat"
    assert (first_ready.worker_id, first_ready.endpoint_id, first_ready.group_id) == (
        made.worker_id,
        made.endpoint_id,
        made.group_id,
    )
    assert first_ready.url == worker.url
    assert first_ready.perf == 100.0
    assert first_ready.model_load_s is not None
    assert first_ready.version
    for _ in range(3):
        await http.post(f"{worker.url}/x", json=router.envelope({}, worker_id=worker.worker_id, cost=5.0))
    await http.post(f"{worker.url}/x", headers=bearer(router.ticket("w2")))
    beat = await ear.until(lambda b: b.served_total == 3)
    assert (beat.requests_total, beat.served_units_total, beat.unauthorized_total, beat.load) == (3, 15.0, 1, 0.0)
    assert beat.last_ticket_exp_at > time.time()
    await ear.until(lambda b: b.seq >= beat.seq + 2)
    seqs = [b.seq for b in ear.beats]
    assert seqs == sorted(set(seqs))
    assert len({b.boot for b in ear.beats}) == 1


async def test_load_is_seen_while_a_request_runs(start_worker, model, made, ear, router, http):
    go = asyncio.Event()

    async def waits(request):
        await go.wait()
        from aiohttp import web

        return web.Response()

    model.on("/x", waits)
    worker = await start_worker(config_for(model), made=made)
    post = asyncio.create_task(http.post(f"{worker.url}/x", json=router.envelope({}, worker_id=worker.worker_id, cost=40.0)))
    beat = await ear.until(lambda b: b.inflight == 1)
    assert (beat.load, beat.queued) == (40.0, 0)
    go.set()
    await post
    await ear.until(lambda b: b.served_total == 1 and b.load == 0.0 and b.busy_s_total > 0)


async def test_orders_are_answered_and_obeyed(start_worker, model, made, ear, bus):
    worker = await start_worker(config_for(model), made=made)
    await ear.until(lambda b: b.state is W.READY)
    reply = await order(bus, worker, op="drain", reason="scale down")
    assert (reply.ok, reply.state) == (True, W.DRAINING)
    assert (await ear.until(lambda b: b.draining)).state is W.DRAINING
    assert (await order(bus, worker, op="undrain")).state is W.READY
    assert not (await order(bus, worker, op="sing")).ok
    assert (await order(bus, worker, op="stop", deadline_s=5.0)).ok
    await asyncio.wait_for(worker.task, 10)
    assert ear.beats[-1].draining, "the last word was sent before it ended"


async def test_an_order_that_cannot_be_read_harms_nobody(start_worker, model, made, ear, bus):
    worker = await start_worker(config_for(model), made=made)
    await ear.until(lambda b: b.state is W.READY)
    await bus.publish(subjects.control(WorkerId(worker.worker_id)), b"\xff{")
    assert (await order(bus, worker, op="drain")).ok


async def test_a_failure_is_told_with_its_cause(start_worker, model, made, ear):
    worker = await start_worker(config_for(model, health_interval_s=0.05), made=made)
    model.healthy = False
    await worker.until(W.ERROR)
    beat = await ear.until(lambda b: b.state is W.ERROR)
    assert beat.failure.cause == "hang"
    assert beat.failure.message


async def test_a_worker_serves_while_nats_is_away_and_is_heard_again(
    start_worker, model, router, http, fresh_nats_server, bus_for, endpoint_id
):
    made = bundle(router.url, **credentials(fresh_nats_server, f"w{endpoint_id}", endpoint_id))
    ear = Ear()
    bus = await bus_for("scaler", server=fresh_nats_server)
    await bus.subscribe(subjects.heartbeat(endpoint_id, WorkerId("*")), ear.hear)
    worker = await start_worker(config_for(model), made=made)
    await ear.until(lambda b: b.state is W.READY)
    fresh_nats_server.kill()
    await soon(lambda: not worker.agent._link.connected)
    for _ in range(5):
        assert (await http.post(f"{worker.url}/x", json=router.envelope({}, worker_id=worker.worker_id))).status == 200
    await fresh_nats_server.start()
    last = ear.beats[-1].seq
    beat = await ear.until(lambda b: b.seq > last and b.served_total == 5, 20.0)
    assert beat.boot == ear.beats[0].boot
    assert (await order(bus, worker, op="drain")).ok, "orders are heard again too"


async def test_a_dead_read_loop_is_noticed(start_worker, model, made, ear, bus):
    worker = await start_worker(config_for(model), made=made)
    await ear.until(lambda b: b.state is W.READY)
    broken = worker.agent._link._client
    broken._reading_task.cancel()
    await soon(lambda: worker.agent._link._client not in (None, broken))
    assert (await order(bus, worker, op="drain")).ok


async def test_renewed_credentials_are_picked_up(start_worker, model, router, nats_server, endpoint_id, ear, tmp_path):
    """The JWT runs out, the server closes the connection, the provisioner has written a new bundle meanwhile."""
    worker_id = f"w{endpoint_id}"
    short = bundle(router.url, **credentials(nats_server, worker_id, endpoint_id, ttl_s=3.0))
    worker = await start_worker(config_for(model), made=short)
    await ear.until(lambda b: b.state is W.READY)
    fresh = bundle(router.url, **credentials(nats_server, worker_id, endpoint_id))
    path = worker.agent._own.bundle_path
    path.write_bytes(codec.encode(fresh))
    first = worker.agent._link._client
    await soon(lambda: worker.agent._link._client not in (None, first), 15.0)
    last = ear.beats[-1].seq
    await ear.until(lambda b: b.seq > last)


async def test_wrong_credentials_do_not_stop_the_worker_from_serving(start_worker, model, router, nats_server, endpoint_id, http):
    wrong = credentials(nats_server, f"w{endpoint_id}", endpoint_id, ttl_s=-10.0)
    worker = await start_worker(config_for(model), made=bundle(router.url, **wrong))
    assert not worker.agent._link.connected
    assert (await http.post(f"{worker.url}/x", json=router.envelope({}, worker_id=worker.worker_id))).status == 200


async def test_ending_its_own_model_is_no_failure(start_worker, made, ear, bus):
    code = "import http.server, os; http.server.HTTPServer(('127.0.0.1', int(os.environ['MODEL_PORT'])), http.server.BaseHTTPRequestHandler).serve_forever()"
    config = WorkerConfig(model_command=[sys.executable, "-c", code], handlers=[HandlerConfig("/x")], perf=1.0)
    worker = await start_worker(config, made=made)
    await ear.until(lambda b: b.state is W.READY)
    assert (await order(bus, worker, op="stop")).ok
    await asyncio.wait_for(worker.task, 15)
    assert {b.state for b in ear.beats} <= {W.LOADING, W.MODEL_LOADING, W.BENCHMARKING, W.READY, W.DRAINING}
    assert all(b.failure is None for b in ear.beats)


async def test_a_link_that_is_told_to_stop_stops_whatever_it_is_doing(monkeypatch):
    """nats-py swallows cancellations that come at the wrong moment."""
    monkeypatch.setattr(link, "_RETRY_S", (0.0, 0.01))
    made = bundle("http://r")
    for number in range(150):
        running = asyncio.create_task(link.Link(bundle=lambda: made, heartbeat=None, on_order=None).run())
        await asyncio.sleep(number % 50 / 2000)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=2)
        assert done, number


async def test_a_port_that_is_taken_is_told_before_the_worker_ends(start_worker, model, made, ear):
    first = await start_worker(config_for(model), made=made)
    await ear.until(lambda b: b.state is W.READY)
    port = first.url.rpartition(":")[2]
    second = await start_worker(config_for(model), ready=False, made=made, WORKER_PORT=port)
    beat = await ear.until(lambda b: b.state is W.ERROR)
    assert beat.failure.cause == "port_conflict"
    with pytest.raises(ExceptionGroup):
        await second.task
