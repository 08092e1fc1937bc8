"""POST /route/ over real sockets and a real nats-server: who answers, with what, and who waits."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import statistics
import time

import aiohttp
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from nacl.signing import VerifyKey

from schemas import codec, subjects, ticket
from schemas.records import DemandMark
from schemas.signals import DemandReport
from schemas.states import WorkerState
from tests.router.house import House, until

VAST_FIELDS = {"endpoint": str, "cost": (int, float), "reqnum": int, "request_idx": int, "signature": str, "url": str}


async def test_a_ready_worker_gets_the_request_and_the_ticket_is_good(house: House):
    endpoint = await house.endpoint()
    worker = await house.worker(endpoint, tls_fingerprint="aa:bb")
    answer = await house.route(endpoint.name, cost=250, request_idx=0, replay_timeout=60.0, session="s1")
    assert answer["url"] == worker.url
    assert answer["cost"] == 250
    parsed = ticket.parse(answer["ticket"])
    _, jwks = await house.call("GET", "/.well-known/jwks.json", key=None)
    keys = {key["kid"]: key for key in jwks["keys"]}
    VerifyKey(ticket.un_b64u(keys[parsed.kid]["x"].encode())).verify(parsed.signed, parsed.signature)
    claims = parsed.claims
    assert (claims.iss, claims.aud, claims.ep, claims.grp) == ("corral", worker.worker_id, endpoint.name, worker.group_id)
    assert (claims.cost, claims.n, claims.sess, claims.tls, claims.key) == (250, 1, "s1", "aa:bb", "admin")
    assert (claims.rid, claims.reqnum) == (str(answer["request_idx"]), answer["reqnum"])
    assert claims.exp - claims.iat == 60 == answer["expires_at"] - claims.iat
    assert abs(claims.iat - time.time()) < 5


async def test_vasts_client_and_worker_find_what_they_need(house: House):
    endpoint = await house.endpoint()
    worker = await house.worker(endpoint, slots=5)
    first = await house.route(endpoint.name, key=None, api_key="test-admin-key", cost=100, request_idx=0, replay_timeout=60.0)
    for name, kind in VAST_FIELDS.items():
        assert isinstance(first[name], kind), name
    second = await house.route(endpoint.name, cost=100, request_idx=0, replay_timeout=60.0)
    assert second["reqnum"] != first["reqnum"]
    async with house.http.get(house.url + "/pubkey/") as response:
        key = serialization.load_pem_public_key(await response.read())
    message = json.dumps({"url": worker.url}, indent=4, sort_keys=True).encode()
    key.verify(base64.b64decode(first["signature"]), message, padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("way", ["bearer", "query", "body", "both"])
async def test_the_key_may_come_in_three_ways(house: House, way):
    endpoint = await house.endpoint()
    await house.worker(endpoint, slots=9)
    _, shown = await house.call("GET", f"/api/v0/endptjobs/{endpoint.id}/")
    key = shown["result"]["api_key"]
    headers = {"Authorization": f"Bearer {key}"} if way in ("bearer", "both") else {}
    params = {"api_key": key} if way in ("query", "both") else {}
    body = {"endpoint": endpoint.name, **({"api_key": key} if way == "body" else {})}
    async with house.http.post(house.url + "/route/", json=body, headers=headers, params=params) as response:
        assert response.status == 200
        assert (await response.json())["url"]


async def test_nobody_there_is_a_200_without_url_and_polling_is_one_request(house: House):
    endpoint = await house.endpoint()
    first = await house.route(endpoint.name, wait_s=0)
    assert "url" not in first
    assert first["request_idx"] > 0
    assert first["wait_reason"] == "no_worker"
    again = await house.route(endpoint.name, wait_s=0, request_idx=first["request_idx"])
    assert again["request_idx"] == first["request_idx"]
    other = await house.route(endpoint.name, wait_s=0)
    assert other["position"] == 1
    desk = house.router.board.desks[endpoint.id]
    assert (len(desk.hold), desk.demand.arrivals) == (2, 2)


async def test_a_client_that_polls_is_held_for_a_moment_and_no_longer(house: House):
    endpoint = await house.endpoint()
    began = time.monotonic()
    assert "url" not in await house.route(endpoint.name)
    assert 0.9 < time.monotonic() - began < 5


async def test_a_held_request_is_answered_by_the_event_of_a_worker_becoming_ready(house: House):
    endpoint = await house.endpoint()
    worker = await house.worker(endpoint, state=WorkerState.MODEL_LOADING)
    held = asyncio.create_task(house.route(endpoint.name, wait_s=30))
    await until(lambda: house.router.board.desks[endpoint.id].hold.present)
    assert waiting_reason(await house.route(endpoint.name, wait_s=0)) == "starting"
    await house.beat(worker)
    answer = await held
    assert answer["url"] == worker.url
    assert answer["cold_start"] is True
    assert answer["wait_s"] > 0


def waiting_reason(answer):
    assert "url" not in answer
    return answer["wait_reason"]


async def test_ready_to_routable_takes_milliseconds(house: House, capsys):
    took = []
    for _ in range(15):
        endpoint = await house.endpoint()
        worker = await house.worker(endpoint, state=WorkerState.BENCHMARKING)
        held = asyncio.create_task(house.route(endpoint.name, wait_s=30))
        await until(lambda desk=house.router.board.desks[endpoint.id]: desk.hold.present)
        began = time.perf_counter()
        await house.beat(worker)
        assert "url" in await held
        took.append((time.perf_counter() - began) * 1000)
    with capsys.disabled():
        print(f"\nheartbeat to answered: p50 {statistics.median(took):.1f} ms, max {max(took):.1f} ms")
    assert len(took) == 15


async def test_a_client_that_hangs_up_frees_its_place(house: House):
    endpoint = await house.endpoint()
    desk = house.router.board.desks[endpoint.id]
    for path in ("/route/", "/route"):  # in the fast lane, and through aiohttp
        task = asyncio.create_task(
            house.http.post(
                house.url + path,
                json={"endpoint": endpoint.name, "wait_s": 60},
                headers={"Authorization": "Bearer test-admin-key", "Expect": ""}
                if path == "/route"
                else {"Authorization": "Bearer test-admin-key"},
            )
        )
        await until(lambda: desk.hold.present)
        task.cancel()
        await until(lambda: not len(desk.hold))


async def test_coming_back_leads_to_another_worker_and_is_told_to_the_scaler(house: House):
    endpoint = await house.endpoint()
    heard: list[DemandReport] = []
    await house.bus.subscribe(subjects.LOADS, lambda m: heard.append(codec.demand_report(m.data)))
    workers = [await house.worker(endpoint, slots=4) for _ in range(2)]
    for worker in workers:
        await house.beat(worker)
        fleet = house.router.board.desks[endpoint.id].fleet
        await until(lambda w=worker: fleet.workers[w.worker_id].pulse is not None)
    first = await house.route(endpoint.name)
    second = await house.route(endpoint.name, request_idx=first["request_idx"])
    assert {first["worker_id"], second["worker_id"]} == {worker.worker_id for worker in workers}
    third = await house.route(endpoint.name, exclude_workers=[workers[0].worker_id])
    assert third["worker_id"] == workers[1].worker_id
    await until(lambda: any(r.endpoint_id == endpoint.id and r.failed_workers == {first["worker_id"]: 1} for r in heard))


async def test_demand_that_waits_is_said_at_once_and_written_down_until_it_is_met(house: House):
    endpoint = await house.endpoint()
    heard: list[DemandReport] = []
    await house.bus.subscribe(subjects.LOADS, lambda m: heard.append(codec.demand_report(m.data)))
    events: list[str] = []
    tail = asyncio.create_task(
        house.bus.tail(
            subjects.STREAM_EVENTS,
            [subjects.events_of_endpoint(endpoint.id)],
            lambda s, d, n: events.append(s),
            since_at=time.time() - 60,
        )
    )
    held = asyncio.create_task(house.route(endpoint.name, cost=70, wait_s=30))
    report = await until(lambda: next((r for r in heard if r.endpoint_id == endpoint.id and r.waiting), None))
    assert (report.waiting, report.waiting_units, report.arrivals_total, report.routed_total) == (1, 70, 1, 0)
    bucket, key = house.bus.bucket(subjects.BUCKET_DEMAND), subjects.demand_key(endpoint.id, house.router.board.router)
    mark = None
    async with asyncio.timeout(10):
        while mark is None:
            mark = await bucket.get(key)
    assert codec.decode(mark.data, DemandMark).cost == 70
    await until(lambda: any(".demand_waiting." in subject for subject in events))
    await house.worker(endpoint)
    assert "url" in await held
    async with asyncio.timeout(10):
        while await bucket.get(key) is not None:
            await asyncio.sleep(0.05)
    await until(lambda: any(r.endpoint_id == endpoint.id and not r.waiting and r.routed_total == 1 for r in heard))
    tail.cancel()


async def test_a_request_id_is_repeated_and_made_for_problems(house: House):
    endpoint = await house.endpoint()
    await house.worker(endpoint)
    auth = {"Authorization": "Bearer test-admin-key"}
    for path in ("/route/", "/livez", "/api/v0/endptjobs/"):
        method = "POST" if path == "/route/" else "GET"
        async with house.http.request(
            method, house.url + path, json={"endpoint": endpoint.name}, headers={**auth, "X-Request-Id": "my-id.1"}
        ) as response:
            assert response.headers["X-Request-Id"] == "my-id.1"
    async with house.http.post(
        house.url + "/route/", json={"endpoint": "nobody"}, headers={**auth, "X-Request-Id": "bad id"}
    ) as response:
        problem = await response.json()
        assert problem["request_id"] == response.headers["X-Request-Id"] != "bad id"


async def test_the_ticket_carries_no_key_and_the_router_stores_none(house: House):
    endpoint = await house.endpoint()
    await house.worker(endpoint)
    _, made = await house.call("POST", "/api/v1/keys", {"name": "c"})
    answer = await house.route(endpoint.name, key=made["key"])
    claims = ticket.parse(answer["ticket"]).claims
    assert claims.key == made["result"]["id"]
    stored = await house.everything_stored()
    secret, digest = made["key"].encode(), hashlib.sha256(made["key"].encode()).hexdigest()
    assert f"{subjects.BUCKET_KEYS}/{digest}" in stored
    assert not any(secret in data or made["key"] in name for name, (data, _) in stored.items())
    assert made["key"] not in json.dumps(answer)


async def test_stopping_answers_those_who_are_held(house: House):
    endpoint = await house.endpoint()
    held = asyncio.create_task(house.route(endpoint.name, wait_s=60))
    await until(lambda: house.router.board.desks[endpoint.id].hold.present)
    house.router.routing.release()
    assert "url" not in await held


async def test_unusual_http_is_answered_as_well(house: House):
    """Chunked, pipelined, in pieces, HTTP/1.0, with Expect: what the fast lane leaves to aiohttp."""
    endpoint = await house.endpoint()
    await house.worker(endpoint, slots=99)
    body = json.dumps({"endpoint": endpoint.name, "api_key": "test-admin-key"}).encode()
    head = b"Host: x\r\nContent-Type: application/json\r\n"
    usual = b"POST /route/ HTTP/1.1\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunked = b"POST /route/ HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    old = b"POST /route/ HTTP/1.0\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    closing = usual.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")
    for pieces, answers in (
        ([usual], 1),
        ([usual, usual], 2),
        ([usual + usual], 2),
        ([usual[:5], usual[5:40], usual[40:-3], usual[-3:]], 1),
        ([usual[:-3], usual[-3:] + usual], 2),
        ([chunked], 1),
        ([usual, chunked, usual], 3),
        ([old], 1),
        ([closing], 1),
        ([usual[: -len(body)], body], 1),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", house.listener.port)
        got = b""
        async with asyncio.timeout(10):
            for n, piece in enumerate(pieces):
                if n:
                    await asyncio.sleep(0.01)  # so that they arrive apart
                writer.write(piece)
            while got.count(b'"ticket":"') < answers:
                data = await reader.read(65536)
                assert data, (pieces, got)
                got += data
        assert got.count(b" 200 OK\r\n") == answers
        writer.close()


async def test_what_comes_early_on_a_held_connection_waits_for_its_turn(house: House):
    endpoint, ready = await house.endpoint(), await house.endpoint()
    await house.worker(ready, slots=9)
    desk = house.router.board.desks[endpoint.id]

    def usual(**fields):
        body = json.dumps({"api_key": "test-admin-key", **fields}).encode()
        return b"POST /route/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    reader, writer = await asyncio.open_connection("127.0.0.1", house.listener.port)
    writer.write(usual(endpoint=endpoint.name, wait_s=60))
    await until(lambda: desk.hold.present)
    second = usual(endpoint=ready.name)
    writer.write(second[:50])
    await asyncio.sleep(0.01)  # so that they arrive apart
    writer.write(second[50:])
    worker = await house.worker(endpoint)
    async with asyncio.timeout(10):
        got = b""
        while got.count(b'"ticket":"') < 2:
            got += await reader.read(65536)
    assert got.index(worker.url.encode()) < got.index(ready.name.encode())
    writer.close()

    reader, writer = await asyncio.open_connection("127.0.0.1", house.listener.port)
    writer.write(usual(endpoint=ready.name))
    assert b"200 OK" in await reader.read(65536)
    await house.write(msgspec.structs.replace(worker, state=WorkerState.DRAINING))
    writer.write(usual(endpoint=endpoint.name, wait_s=60))
    await until(lambda: desk.hold.present)
    writer.write(b"x" * 100_000)  # far more than a request: cut off, and its place is free
    async with asyncio.timeout(10):
        assert await reader.read(65536) == b""
    await until(lambda: not len(desk.hold))
    writer.close()


async def test_two_routers_count_each_others_promises(house: House, bus_for, keys_dir):
    from router.service import Router
    from tests.router.house import running, settings

    second = Router(bus=await bus_for("router"), settings=settings(keys_dir), now=time.time, monotonic=time.monotonic)
    async with running(second) as listener, aiohttp.ClientSession() as http:
        other = House(listener, house.bus, http)
        endpoint = await house.endpoint()
        await until(lambda: endpoint.id in second.board.desks)
        worker = await house.worker(endpoint, slots=6, perf=1.0)
        await until(lambda: second.board.desks[endpoint.id].routable)
        for _ in range(4):
            assert "url" in await house.route(endpoint.name)
        mirrored = second.board.desks[endpoint.id].fleet.workers[worker.worker_id]
        await until(lambda: mirrored.promised == 4)
        assert mirrored.ledger.own_units == 0  # not theirs to report
        assert ["url" in await other.route(endpoint.name, wait_s=0) for _ in range(3)] == [True, True, False]
        # One key directory: either's tickets verify with the other's keys.
        assert other.router.tickets.kid == house.router.tickets.kid
