"""What the router does when what it stands on fails: it goes on with what it knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time

import aiohttp
import msgspec
import pytest

from router import feeds
from router.listener import Listener
from router.service import Router
from runtime.bus import Message
from schemas import subjects
from schemas.states import WorkerState
from tests.router.house import ADMIN_KEY, House, running, settings, until


async def test_with_nats_away_routing_goes_on_and_readiness_says_so(fresh_nats_server, bus_for, keys_dir, monkeypatch):
    monkeypatch.setattr(feeds, "STALE_AFTER_S", 2.0)
    bus = await bus_for("scaler", server=fresh_nats_server)
    own = await bus_for("router", server=fresh_nats_server)
    router = Router(bus=own, settings=settings(keys_dir), now=time.time, monotonic=time.monotonic)
    async with running(router) as listener, aiohttp.ClientSession() as http:
        house = House(listener, bus, http)
        endpoint = await house.endpoint()
        workers = [await house.worker(endpoint, slots=50) for _ in range(3)]
        for worker in workers:
            await house.beat(worker)
        await fresh_nats_server.stop()
        seen, refused = set(), None
        async with asyncio.timeout(20):
            while refused is None:
                answer = await house.route(endpoint.name)
                seen.add(answer["worker_id"])
                assert answer["ticket"]
                status, ready = await house.call("GET", "/readyz", key=None)
                if status == 503:
                    refused = ready
                await asyncio.sleep(0.05)
        assert refused["stale"] is True
        assert seen == {worker.worker_id for worker in workers}
        assert (await house.call("GET", "/livez", key=None))[0] == 200
        status, problem = await house.call("POST", "/api/v0/endptjobs/", {"endpoint_name": "later"})
        assert (status, problem["error"]) == (503, "unavailable")
        assert "url" in await house.route(endpoint.name)

        await fresh_nats_server.start()
        async with asyncio.timeout(20):
            while (await house.call("GET", "/readyz", key=None))[0] != 200:
                await asyncio.sleep(0.05)
        await until(lambda: bus.connected)
        await house.worker(endpoint, url="http://10.9.9.9:1")  # what happens now is seen again


async def test_values_that_cannot_be_read_are_left_out_and_harm_nothing(house: House):
    endpoint = await house.endpoint()
    worker = await house.worker(endpoint, slots=9)
    before = house.router.feeds.unreadable
    await house.bus.bucket(subjects.BUCKET_WORKERS).put(f"e{endpoint.id}.w999999999999", b"{}")
    await house.bus.bucket(subjects.BUCKET_WORKERS).put("nonsense", b"{}")
    await house.bus.bucket(subjects.BUCKET_KEYS).put("not-a-hash", b'{"id": "k"}')
    await house.bus.publish(subjects.heartbeat(endpoint.id, worker.worker_id), b"\xff")
    await house.bus.publish(subjects.reservation(endpoint.id, "other"), b"[]")
    await until(lambda: house.router.feeds.unreadable == before + 5)
    assert "url" in await house.route(endpoint.name)
    for key in (f"e{endpoint.id}.w999999999999", "nonsense"):
        await house.bus.bucket(subjects.BUCKET_WORKERS).delete(key)
    await house.bus.bucket(subjects.BUCKET_KEYS).delete("not-a-hash")


async def test_a_record_that_cannot_be_read_stops_no_other(house: House):
    endpoint = await house.endpoint()
    bad = {subjects.BUCKET_ENDPOINTS: "e999999", subjects.BUCKET_KEYS: "0" * 64, subjects.BUCKET_TEMPLATES: "broken"}
    for bucket, key in bad.items():
        await house.bus.bucket(bucket).put(key, b'{"kind": 3')
    try:
        other = await house.endpoint()
        status, listed = await house.call("GET", "/api/v1/endpoints/")
        assert status == 200
        assert {endpoint.id, other.id} <= {one["id"] for one in listed["results"]}
        status, made = await house.call("POST", "/api/v1/keys/", {"name": "beside it"})
        assert status == 200
        assert made["result"]["id"] in {one["id"] for one in (await house.call("GET", "/api/v1/keys/"))[1]["results"]}
        assert (await house.call("DELETE", f"/api/v1/keys/{made['result']['id']}"))[0] == 200
        assert (await house.call("GET", "/api/v1/templates/"))[0] == 200
        status, problem = await house.call("GET", "/api/v1/templates/broken")
        assert (status, problem["error"]) == (500, "internal")
        assert "'broken' in bucket corral_templates cannot be read" in problem["msg"]
        assert (await house.call("PUT", "/api/v1/templates/broken", {"command": ["true"]}))[0] == 200, "it can be written anew"
    finally:
        for bucket, key in bad.items():
            await house.bus.bucket(bucket).delete(key)


async def test_a_worker_cannot_speak_for_another(house: House):
    endpoint = await house.endpoint()
    mine, other = [await house.worker(endpoint, slots=9) for _ in range(2)]
    beats = []
    await house.bus.subscribe(subjects.heartbeat(endpoint.id, other.worker_id), lambda m: beats.append(m.data))
    await house.beat(other, state=WorkerState.ERROR)
    await until(lambda: beats)
    desk = house.router.board.desks[endpoint.id]
    await until(lambda: desk.routable == 1)
    before = house.router.feeds.unreadable
    lie = msgspec.json.encode({**msgspec.json.decode(beats[0]), "seq": 10**9, "url": "http://evil:1", "state": "ready"})
    house.router.feeds.heartbeat(Message(subjects.heartbeat(endpoint.id, mine.worker_id), lie))
    assert house.router.feeds.unreadable == before + 1
    assert desk.fleet.workers[other.worker_id].url == other.url


async def test_who_has_just_started_calls_nothing_unknown_before_it_knows_what_there_is(house: House, bus_for, keys_dir):
    """A client takes "there is none" for the truth and gives up; "ask again" is what it waits for."""
    endpoint = await house.endpoint()
    await house.worker(endpoint)
    own_key = (await house.call("GET", f"/api/v1/endpoints/{endpoint.name}"))[1]["result"]["api_key"]
    again = Router(bus=await bus_for("router"), settings=settings(keys_dir), now=time.time, monotonic=time.monotonic)
    listener = Listener(again)
    tasks = [asyncio.create_task(listener.run())]
    try:
        await asyncio.wait_for(listener.listening.wait(), 10)
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{listener.port}/route/"
            for key in (ADMIN_KEY, own_key):
                for more in ({}, {"Connection": "close"}):  # the fast lane takes only the usual
                    headers = {"Authorization": f"Bearer {key}", **more}
                    async with http.post(url, json={"endpoint": endpoint.name}, headers=headers) as response:
                        assert (response.status, (await response.json())["error"]) == (503, "unavailable")
                        assert response.headers["Retry-After"]
            assert not again.feeds.synced
            tasks.append(asyncio.create_task(again.run()))
            await until(lambda: again.feeds.synced)
            answer = await House(listener, house.bus, http).route(endpoint.name, key=own_key)
            assert answer["url"]
            async with http.post(url, json={"endpoint": "nowhere"}, headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as response:
                assert response.status == 404
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_a_restarted_router_knows_everything_again_and_old_requests_go_on(house: House, bus_for, keys_dir):
    endpoint = await house.endpoint()
    waiting = await house.route(endpoint.name, wait_s=0)
    await house.worker(endpoint)
    own_key = (await house.call("GET", f"/api/v1/endpoints/{endpoint.name}"))[1]["result"]["api_key"]
    again = Router(bus=await bus_for("router"), settings=settings(keys_dir), now=time.time, monotonic=time.monotonic)
    async with running(again) as listener, aiohttp.ClientSession() as http:
        answer = await House(listener, house.bus, http).route(endpoint.name, key=own_key, request_idx=waiting["request_idx"])
        assert answer["url"]
        assert answer["request_idx"] == waiting["request_idx"]


@pytest.fixture
async def process(nats_server, keys_dir, tmp_path):
    """python -m router, as an operator starts it."""
    reach = nats_server.settings("router", f"router-process-{time.time_ns()}")
    env = {
        **os.environ,
        "CORRAL_NATS_URLS": ",".join(reach.urls),
        "CORRAL_NATS_CREDS": reach.creds,
        "ROUTER_PORT": "0",
        "ROUTER_KEYS_DIR": str(keys_dir),
        "ROUTER_ADMIN_KEY_SHA256": settings(keys_dir).admin_key_sha256,
    }
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router", env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield made
    finally:
        if made.returncode is None:
            made.kill()
            await made.wait()
        made._transport.close()


async def test_the_process_listens_on_loopback_answers_who_waits_and_ends_on_sigterm(house: House, process):
    async with asyncio.timeout(30):
        while (line := json.loads(await process.stderr.readline())).get("event") != "router_listening":
            pass
    assert line["host"] == "127.0.0.1"
    endpoint = await house.endpoint()
    url = f"http://127.0.0.1:{line['port']}/route/"
    body, headers = {"endpoint": endpoint.name, "wait_s": 60}, {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with asyncio.timeout(30):
        while True:  # its view may be a moment behind
            async with house.http.post(url, json={**body, "wait_s": 0}, headers=headers) as response:
                if response.status == 200:
                    break
    held = [asyncio.create_task(house.http.post(url, json=body, headers=headers)) for _ in range(3)]
    heard = []
    await house.bus.subscribe(subjects.LOADS, lambda m: heard.append(msgspec.json.decode(m.data)))
    await until(lambda: any(r["endpoint_id"] == endpoint.id and r["waiting"] == 4 for r in heard))
    process.send_signal(signal.SIGTERM)
    for answer in await asyncio.gather(*held):
        assert answer.status == 200
        assert "url" not in await answer.json()
    async with asyncio.timeout(30):
        rest = (await process.stderr.read()).decode()
        assert await process.wait() == 0
    assert ADMIN_KEY not in rest
    assert "Traceback" not in rest


async def test_a_wrong_setting_stops_the_start_and_is_named(tmp_path):
    env = {**os.environ, "ROUTER_PORT": "nine", "CORRAL_NATS_URLS": "nats://127.0.0.1:1"}
    made = await asyncio.create_subprocess_exec(sys.executable, "-m", "router", env=env, stderr=asyncio.subprocess.PIPE)
    _, stderr = await made.communicate()
    assert made.returncode == 1
    assert "ROUTER_PORT" in stderr.decode()
