"""Vast's workers over HTTP: who may report as whom, and what becomes of it on the bus."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import ssl
import time
from contextlib import AsyncExitStack

import aiohttp
import msgspec
import pytest
import structlog
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from router import voices
from router.service import Router
from router.vast_root import root_pem
from runtime.errors import SettingsError
from schemas import codec, subjects, ticket
from schemas.ids import WorkerId, worker_number
from schemas.records import InstanceRecord, Template
from schemas.states import WorkerState
from tests.router.house import House, running, settings, until

TOKEN = "0f" * 16
_ids = itertools.count(time.time_ns() // 1000)


class Worker:
    """One of Vast's, as a router sees it: an instance record, the scaler's record, and reports."""

    def __init__(self, house: House, endpoint, number: int) -> None:
        self.house = house
        self.endpoint = endpoint
        self.id = WorkerId(f"w{number}")
        self.beats = []
        self.instance = InstanceRecord(
            worker_id=self.id,
            endpoint_id=endpoint.id,
            group_id=endpoint.groups[0].id,
            provider="process",
            state="running",
            starts=1,
            url=f"http://127.0.0.1:{20000 + number % 20000}",
            template=Template(name="t", command=("serve",), slots=4),
            mtoken_sha256=hashlib.sha256(TOKEN.encode()).hexdigest(),
        )

    async def is_made(self) -> None:
        await self.house.bus.subscribe(
            subjects.heartbeat(self.endpoint.id, self.id), lambda message: self.beats.append(codec.heartbeat(message.data))
        )
        await self.house.worker(self.endpoint, worker_id=self.id, state=WorkerState.LOADING, url="", perf=0.0)
        await self.is_now()

    async def is_now(self, **fields) -> None:
        """The provisioner writes."""
        self.instance = msgspec.structs.replace(self.instance, **fields)
        key = subjects.worker_key(self.endpoint.id, self.id)
        await self.house.bus.bucket(subjects.BUCKET_INSTANCES).put(key, msgspec.json.encode(self.instance))
        bridge = self.house.router.bridge
        await until(
            lambda: (
                (known := bridge._known.get(self.id)) is not None
                and (known.state, known.starts) == (self.instance.state, self.instance.starts)
            )
        )

    def body(self, **fields) -> dict:
        """As Vast's PyWorker 1.9.1 sends it when it is ready and idle."""
        return {
            "id": worker_number(self.id),
            "mtoken": TOKEN,
            "version": "1.1.0",
            "loadtime": 13.5,
            "new_load": 0.0,
            "cur_load": 0.0,
            "rej_load": 0.0,
            "max_perf": 200.0,
            "cur_perf": 0.0,
            "error_msg": "",
            "num_requests_working": 0,
            "num_requests_recieved": 0,
            "additional_disk_usage": 0.0,
            "disk_usage": 27.1,
            "working_request_idxs": [],
            "cur_capacity": 0,
            "max_capacity": 0,
            "url": self.instance.url,
            **fields,
        }

    async def reports(self, house: House | None = None, **fields) -> None:
        status, answer = await (house or self.house).call("POST", "/worker_status/", self.body(**fields), key=None)
        assert (status, answer["success"]) == (200, True), answer


@pytest.fixture
async def worker(house: House) -> Worker:
    made = Worker(house, await house.endpoint(), next(_ids) % 10**12)
    await made.is_made()
    return made


async def test_a_report_is_a_heartbeat_at_once_and_again_each_second(worker: Worker):
    await worker.reports(cur_load=8.0, num_requests_working=1, num_requests_recieved=1)
    await until(lambda: len(worker.beats) >= 3)
    first, second, third, *_ = worker.beats
    assert (first.state, first.perf, first.slots, first.load, first.inflight) == (WorkerState.READY, 200.0, 4, 8.0, 1)
    assert (first.url, first.via) == (worker.instance.url, worker.house.router.bus.name)
    assert second.boot == first.boot and second.seq > first.seq
    assert first.age_s < 0.9, "not only with the next tick"
    assert first.age_s + 0.9 < second.age_s < third.age_s - 0.9, "a second apart, on the same ground"


async def test_it_is_routed_to_with_vasts_signature_and_clients_are_told_its_form(worker: Worker):
    house = worker.house
    assert "url" not in await house.route(worker.endpoint.name)
    await worker.reports(loadtime=0.0, max_perf=0.0)
    await until(lambda: worker.beats)
    assert "url" not in await house.route(worker.endpoint.name), "it loads"
    await worker.reports()
    await until(lambda: any(beat.state is WorkerState.READY for beat in worker.beats))
    ready = await house.route(worker.endpoint.name, cost=8)
    assert (ready["url"], ready["worker_id"], ready["envelope"]) == (worker.instance.url, worker.id, True)
    async with house.http.get(house.url + "/pubkey/") as response:
        key = serialization.load_pem_public_key(await response.read())
    # As the worker checks it: json.dumps({"url": url}, indent=4, sort_keys=True)
    message = json.dumps({"url": ready["url"]}, indent=4, sort_keys=True).encode()
    assert message == ticket.vast_message(ready["url"])
    key.verify(base64.b64decode(ready["signature"]), message, padding.PKCS1v15(), hashes.SHA256())
    await worker.reports(error_msg="CUDA out of memory")
    await until(lambda: worker.beats[-1].state is WorkerState.ERROR)
    assert "url" not in await house.route(worker.endpoint.name)


async def test_amounts_add_up_and_what_strangers_can_raise_is_left_out(worker: Worker):
    await worker.reports(cur_perf=100.0, new_load=200.0, num_requests_recieved=2)
    await worker.reports(cur_perf=50.0, rej_load=1e9, num_requests_recieved=3)
    done = {"status": "Success", "success": True, "request_idx": 7, "entered_queue_at": 1.0}
    rejected = {**done, "status": "Rejected", "success": False}
    body = {"worker_id": worker_number(worker.id), "mtoken": TOKEN, "requests": [done, rejected, rejected]}
    assert (await worker.house.call("POST", "/delete_requests/", body, key=None))[0] == 200
    await worker.reports(num_requests_recieved=3)
    await until(lambda: worker.beats and worker.beats[-1].served_total == 1)
    last = worker.beats[-1]
    assert (last.served_units_total, last.requests_total, last.rejected_total, last.failed_total) == (150.0, 3, 0, 0)
    assert last.load == 0.0


async def test_a_part_of_a_report_is_enough_as_boot_scripts_send_it(worker: Worker):
    body = {"id": str(worker_number(worker.id)), "mtoken": TOKEN, "version": "0", "error_msg": "pip failed", "url": ""}
    assert (await worker.house.call("POST", "/worker_status/", body, key=None))[0] == 200
    await until(lambda: worker.beats)
    assert worker.beats[0].state is WorkerState.ERROR
    assert "pip failed" in worker.beats[0].failure.message


async def test_without_the_token_nothing_is_said_and_nothing_is_quoted(worker: Worker, capsys):
    house, bridge = worker.house, worker.house.router.bridge
    enrolled = Worker(house, worker.endpoint, next(_ids) % 10**12)
    enrolled.instance = msgspec.structs.replace(enrolled.instance, mtoken_sha256="")
    await enrolled.is_made()
    before = dict(bridge._voices)
    with structlog.testing.capture_logs() as logs:
        for body in (
            worker.body(mtoken="f0" * 16),
            worker.body(mtoken=""),
            worker.body(mtoken=TOKEN.upper()),
            worker.body(mtoken=worker.instance.mtoken_sha256),
            worker.body(mtoken="ä\udcff"),
            worker.body(id=worker_number(worker.id) + 1),
            enrolled.body(mtoken=""),
            {**worker.body(mtoken="guess-1234"), "worker_id": 1},
        ):
            for path, sent in (("/worker_status/", body), ("/delete_requests/", {**body, "worker_id": body["id"]})):
                status, problem = await house.call("POST", path, sent, key=None)
                if "\udcff" in body["mtoken"]:
                    assert status == 400, problem  # no text at all
                    continue
                assert (status, problem["error"]) == (401, "bad_worker_token"), (body["mtoken"], problem)
                assert "MASTER_TOKEN" in problem["msg"]
                assert body["mtoken"] == "" or body["mtoken"] not in json.dumps(problem)
    assert bridge._voices == before
    assert [entry for entry in logs if entry["event"] == "worker_report_refused"]
    assert "guess-1234" not in str(logs) + capsys.readouterr().out
    await asyncio.sleep(0)
    assert worker.beats == []


BAD = [
    # (path, body, status, error, field)
    ("/worker_status/", b"", 400, "bad_json", None),
    ("/worker_status/", b"{", 400, "bad_json", None),
    ("/worker_status/", b"[]", 422, "bad_field", "body"),
    ("/worker_status/", b"{}", 422, "bad_field", "id"),
    ("/worker_status/", b'{"id": 1}', 422, "bad_field", "mtoken"),
    ("/worker_status/", b'{"id": 1.5, "mtoken": "x"}', 422, "bad_field", "id"),
    ("/worker_status/", b'{"id": "abc", "mtoken": "x"}', 422, "bad_field", "id"),
    ("/worker_status/", b'{"id": -1, "mtoken": "x"}', 422, "bad_field", "id"),
    ("/worker_status/", b'{"id": 1, "mtoken": 5}', 422, "bad_field", "mtoken"),
    ("/worker_status/", b'{"id": ID, "mtoken": "TOKEN", "cur_load": NaN}', 400, "bad_json", None),
    ("/worker_status/", b'{"id": ID, "mtoken": "TOKEN", "cur_load": "7"}', 422, "bad_field", "cur_load"),
    ("/worker_status/", b'{"id": ID, "mtoken": "TOKEN", "cur_load": -7}', 422, "bad_field", "cur_load"),
    ("/worker_status/", b'{"id": ID, "mtoken": "TOKEN", "max_perf": 1e999}', 422, "bad_field", "max_perf"),
    ("/worker_status/", b'{"id": ID, "mtoken": "TOKEN", "num_requests_working": 1.5}', 422, "bad_field", "num_requests_working"),
    ("/worker_status/", b'{"id": ID, "mtoken": "TOKEN", "url": "gopher://h"}', 422, "bad_field", "url"),
    ("/worker_status/", b'{"id": ID, "mtoken": "TOKEN", "pad": "%b"}' % (b"x" * 300_000), 413, "body_too_large", None),
    ("/delete_requests/", b'{"worker_id": ID}', 422, "bad_field", "mtoken"),
    ("/delete_requests/", b'{"worker_id": ID, "mtoken": "TOKEN", "requests": {}}', 422, "bad_field", "requests"),
    ("/delete_requests/", b'{"worker_id": ID, "mtoken": "TOKEN", "requests": ["x"]}', 422, "bad_field", "requests[0]"),
]


async def test_a_bad_report_is_refused_with_its_reason_and_changes_nothing(worker: Worker):
    house, bridge = worker.house, worker.house.router.bridge
    await worker.reports(cur_load=5.0)
    before = bridge._voices[worker.id]
    for path, body, status, error, field in BAD:
        body = body.replace(b"ID", str(worker_number(worker.id)).encode()).replace(b"TOKEN", TOKEN.encode())
        async with house.http.post(house.url + path, data=body) as response:
            problem = json.loads(await response.read())
        assert (response.status, problem["error"]) == (status, error), (path, body[:90], problem)
        assert problem["success"] is False and len(problem["msg"]) > 10
        if field is not None:
            assert field in problem["fields"], (body[:90], problem)
    for method in ("GET", "PUT"):
        assert (await house.call(method, "/worker_status/", None, key=None))[0] == 405
    after = bridge._voices[worker.id]
    assert (after.words.load, after.ground_at, after.words.boot) == (5.0, before.ground_at, before.words.boot)
    assert after.words.served_total == 0


async def test_a_list_that_is_too_long_is_read_past_so_that_the_worker_may_forget_it(worker: Worker):
    done = {"request_idx": 1, "success": True, "status": "Success"}
    body = {"worker_id": worker_number(worker.id), "mtoken": TOKEN, "requests": [done] * 8000}
    assert len(json.dumps(body)) > 400_000
    status, answer = await worker.house.call("POST", "/delete_requests/", body, key=None)
    assert (status, answer["success"]) == (200, True), answer


async def test_the_last_reports_of_a_worker_that_was_stopped_count_for_nothing(worker: Worker):
    await worker.reports()
    await until(lambda: worker.beats)
    await worker.is_now(state="stopping")
    said = len(worker.beats)
    await worker.reports()
    bridge = worker.house.router.bridge
    assert worker.id not in bridge._voices
    await worker.is_now(state="stopped")
    await worker.is_now(state="starting")
    await worker.reports(loadtime=0.0, max_perf=0.0)  # its new process, before its start is written down
    await worker.is_now(state="running", starts=2)
    await until(lambda: len(worker.beats) > said)
    assert {beat.boot.split("-")[1] for beat in worker.beats[said:]} == {"2"}
    assert worker.beats[-1].state is WorkerState.MODEL_LOADING


async def test_nobody_speaks_for_a_worker_that_reports_no_more(bus_for, bus, keys_dir):
    ahead = [0.0]
    router = Router(
        bus=await bus_for("router"),
        settings=settings(keys_dir),
        now=time.time,
        monotonic=lambda: time.monotonic() + ahead[0],
    )
    async with running(router) as listener, aiohttp.ClientSession() as http:
        house = House(listener, bus, http)
        worker = Worker(house, await house.endpoint(), next(_ids) % 10**12)
        await worker.is_made()
        await worker.reports()
        await until(lambda: worker.beats)
        assert router.bridge.speaks_for == 1
        ahead[0] = voices.FRESH_S
        assert router.bridge.speaks_for == 0
        said = len(worker.beats)
        other = Worker(house, worker.endpoint, next(_ids) % 10**12)
        await other.is_made()
        await other.reports()
        await until(lambda: len(other.beats) >= 2)  # its second beat: all that was due has been said
        assert len(worker.beats) <= said + 1
        await worker.reports()
        await until(lambda: len(worker.beats) > said + 1)


async def test_two_routers_speak_with_one_voice_and_one_takes_over_from_the_other(bus_for, bus, keys_dir):
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as http:

        async def router(name: str) -> House:
            made = Router(bus=await bus_for("router", name), settings=settings(keys_dir), now=time.time, monotonic=time.monotonic)
            return House(await stack.enter_async_context(running(made)), bus, http)

        n = next(_ids) % 10**6
        first, second = await router(f"ra{n}"), await router(f"rb{n}")
        worker = Worker(first, await first.endpoint(), next(_ids) % 10**12)
        await worker.is_made()
        await until(lambda: worker.id in second.router.bridge._known)
        await worker.reports(cur_perf=10.0, num_requests_recieved=1)
        await until(lambda: worker.id in second.router.bridge._voices)
        await worker.reports(second, cur_perf=20.0, num_requests_recieved=2)
        await until(lambda: first.router.bridge._voices[worker.id].words.via == f"rb{n}")
        assert (first.router.bridge.speaks_for, second.router.bridge.speaks_for) == (0, 1)
        assert worker.beats[-1].served_units_total == 30.0
        assert len({beat.boot for beat in worker.beats}) == 1
        # The scaler writes down what it hears; a router that starts now knows the worker from there.
        last = worker.beats[-1]
        await first.worker(
            worker.endpoint, worker_id=worker.id, boot=last.boot, protocol=0, version=last.version, url=last.url, slots=last.slots
        )
        third = await router(f"rc{n}")
        assert (await third.route(worker.endpoint.name))["envelope"] is True, "before it has heard a word"
        # Both who know what it reported die at once; the one that has heard or remembers goes on before anybody misses it.
        first.router.bridge._voices.clear()
        second.router.bridge._voices.clear()
        said = len(worker.beats)
        await until(lambda: any(beat.via == f"rc{n}" for beat in worker.beats[said:]))
        assert worker.beats[-1].boot == last.boot
        assert all(a.seq < b.seq for a, b in itertools.pairwise(worker.beats))


async def test_a_router_that_does_not_know_yet_says_so_and_not_that_the_token_is_wrong(house: House):
    views, house.router.feeds._views = house.router.feeds._views, []
    try:
        body = {"id": 1, "mtoken": "x"}
        status, problem = await house.call("POST", "/worker_status/", body, key=None)
        assert (status, problem["error"]) == (503, "unavailable")
    finally:
        house.router.feeds._views = views
    assert (await house.call("POST", "/worker_status/", body, key=None))[0] == 401


async def test_reports_are_counted(worker: Worker):
    await worker.reports()
    await worker.house.call("POST", "/worker_status/", worker.body(mtoken="x"), key=None)
    async with worker.house.http.get(worker.house.url + "/metrics") as response:
        text = await response.text()
    assert 'corral_worker_reports_total{outcome="taken"} 1.0' in text
    assert 'corral_worker_reports_total{outcome="refused"} 1.0' in text
    assert "corral_spoken_for_workers 1.0" in text


# --- the root that Vast's client asks for ---


async def test_the_root_certificate_is_one_that_a_client_can_load(house: House, tmp_path):
    async with house.http.get(house.url + "/static/jvastai_root.cer") as response:
        pem = await response.read()
    file = tmp_path / "root.pem"
    file.write_bytes(pem)
    context = ssl.create_default_context()
    before = context.cert_store_stats()["x509_ca"]
    context.load_verify_locations(cafile=str(file))
    assert context.cert_store_stats()["x509_ca"] == before + 1
    assert root_pem(str(file), time.time()) == pem, "one's own file is served as it is"


@pytest.mark.parametrize("content", [None, b"", b"no pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_root_that_is_none_is_refused_at_the_start(tmp_path, content):
    file = tmp_path / "root.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match="ROUTER_WORKER_CA"):
        root_pem(str(file), time.time())
