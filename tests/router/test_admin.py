"""The admin API: endpoints, groups, templates, keys, workers, in Vast's paths and ours."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import msgspec
import pytest

from router.service import Router
from schemas import codec, commands, events, subjects
from schemas.reasons import Cause
from schemas.records import Failure, Template
from schemas.signals import EnrollReply, EnrollRequest
from schemas.states import EndpointState, WorkerState
from tests.router.house import House, running, settings, until

SHOWN_TO_VAST = {"id": int, "endpoint_name": str, "api_key": str, "user_id": int, "created_at": (int, float)}


async def events_of(house: House, endpoint_id: int, kinds: set[str]) -> list:
    """All events of these kinds, once each has come at least once."""
    found = []
    tail = asyncio.create_task(
        house.bus.tail(
            subjects.STREAM_EVENTS,
            [subjects.events_of_endpoint(endpoint_id)],
            lambda _s, data, _n: found.append(codec.event(data)),
            since_at=time.time() - 60,
        )
    )
    await until(lambda: kinds <= {events.kind_of(event) for event in found})
    tail.cancel()
    return [event for event in found if events.kind_of(event) in kinds]


async def test_an_endpoint_from_creation_to_deletion(house: House):
    name = f"my endpoint {time.time_ns()}"  # spaces are allowed
    cli = {  # as Vast's command line sends it
        "client_id": "me", "min_load": 0.0, "min_cold_load": 0.0, "target_util": 0.8, "cold_mult": 2.5, "cold_workers": 5,
        "max_workers": 20, "endpoint_name": name, "max_queue_time": None, "target_queue_time": None, "inactivity_timeout": None,
        "autoscaler_instance": "prod",
    }  # fmt: skip
    status, made = await house.call("POST", "/api/v0/endptjobs/", cli)
    assert status == 200
    number = made["result"]
    assert isinstance(number, int)

    _, one = await house.call("GET", f"/api/v0/endptjobs/{number}/", {"client_id": "me"})
    _, by_name = await house.call("GET", f"/api/v1/endpoints/{name}")
    _, many = await house.call("GET", "/api/v0/endptjobs/?client_id=me", {"client_id": "me", "api_key": "x"})
    assert one["result"] == by_name["result"]
    assert one["result"] in many["results"]
    assert many["success"] is True
    for field, kind in SHOWN_TO_VAST.items():
        assert isinstance(one["result"][field], kind), field
    assert None not in one["result"].values()
    assert one["result"]["target_util"] == 0.8
    assert one["result"]["max_queue_time"] == 30.0

    # null and absent: as it was
    _, changed = await house.call(
        "PUT", f"/api/v0/endptjobs/{number}/", {**dict.fromkeys(cli), "max_workers": 7, "endpoint_state": "suspended"}
    )
    assert changed["endpoint"]["max_workers"] == 7
    assert changed["endpoint"]["target_util"] == 0.8
    assert changed["endpoint"]["endpoint_name"] == name
    record = house.router.board.desks[number].record
    assert (record.state, record.revision, record.settings.max_workers) == (EndpointState.SUSPENDED, 2, 7)
    stored = await house.bus.bucket(subjects.BUCKET_ENDPOINTS).get(subjects.endpoint_key(number))
    assert codec.endpoint_record(stored.data) == record

    # the same again changes nothing and tells nothing
    _, same = await house.call("PUT", f"/api/v0/endptjobs/{number}/", {"max_workers": 7})
    assert same["endpoint"]["revision"] == 2

    assert (await house.call("DELETE", f"/api/v0/endptjobs/{number}/", {"client_id": "me"}))[0] == 200
    assert (await house.call("GET", f"/api/v0/endptjobs/{number}/"))[0] == 404
    assert (await house.call("POST", "/route/", {"endpoint": name}))[0] == 404
    told = await events_of(house, number, {"endpoint_created", "endpoint_changed", "endpoint_deleted"})
    assert [events.kind_of(event) for event in told] == ["endpoint_created", "endpoint_changed", "endpoint_deleted"]
    assert set(told[1].changed) == {"state", "max_workers"}
    assert {event.by for event in told} == {"admin"}


async def test_of_many_who_create_one_name_at_once_exactly_one_succeeds(house: House, bus_for, keys_dir):
    name = f"race-{time.time_ns()}"
    second = Router(bus=await bus_for("router"), settings=settings(keys_dir), now=time.time, monotonic=time.monotonic)
    async with running(second) as listener, aiohttp.ClientSession() as http:
        other = House(listener, house.bus, http)
        answers = await asyncio.gather(
            *(where.call("POST", "/api/v0/endptjobs/", {"endpoint_name": name}) for where in (house, other) for _ in range(4))
        )
    statuses = sorted(status for status, _ in answers)
    assert statuses == [200] + [409] * 7, answers
    records = [codec.endpoint_record(e.data) for e in await house.bus.bucket(subjects.BUCKET_ENDPOINTS).all("e")]
    assert [record.name for record in records].count(name) == 1
    assert (await house.call("POST", "/route/", {"endpoint": name, "wait_s": 0}))[0] == 200


async def test_changes_at_the_same_time_are_all_kept(house: House):
    endpoint = await house.endpoint(groups=0)
    fields = {"max_workers": 11, "min_load": 2.5, "target_util": 0.7, "max_queue_time": 9.0, "cold_mult": 1.5}
    bodies = [{name: value} for name, value in fields.items()]
    template = {"name": "t", "command": ["x"]}
    answers = await asyncio.gather(
        *(house.call("PUT", f"/api/v0/endptjobs/{endpoint.id}/", body) for body in bodies),
        *(house.call("POST", "/api/v0/workergroups/", {"endpoint_id": endpoint.id, "template": template}) for _ in range(4)),
    )
    assert {status for status, _ in answers} == {200}
    record = house.router.board.desks[endpoint.id].record
    assert {name: getattr(record.settings, name) for name in fields} == fields
    assert len({group.id for group in record.groups}) == 4


async def test_a_rotated_endpoint_key_is_another_and_the_old_one_is_void(house: House):
    endpoint = await house.endpoint()
    await house.worker(endpoint, slots=9)
    old = (await house.call("GET", f"/api/v1/endpoints/{endpoint.name}"))[1]["result"]["api_key"]
    assert old.startswith("ck_")
    new = (await house.call("PUT", f"/api/v0/endptjobs/{endpoint.id}/", {"rotate_key": True}))[1]["endpoint"]["api_key"]
    assert "url" in await house.route(endpoint.name, key=new)
    assert (await house.call("POST", "/route/", {"endpoint": endpoint.name}, old))[0] == 401


@pytest.mark.parametrize("path", ["/api/v0/workergroups/", "/api/v0/autojobs/"])
async def test_a_worker_group_from_creation_to_deletion(house: House, path):
    endpoint = await house.endpoint(groups=0)
    template = {"command": ["serve", "--port", "{WORKER_PORT}"], "env": {"A": "b"}, "gpus": 1}
    _, put = await house.call("PUT", "/api/v1/templates/llm", template)
    assert (await house.call("GET", "/api/v1/templates/llm"))[1] == put
    for reference in ({"template": "llm"}, {"template_hash": put["result"]["hash"]}, {"template_id": put["result"]["id"]}):
        sdk = {"endpoint_id": endpoint.id, "search_params": {"gpu_ram": {"gte": 24}}, "autoscaler_instance": None, **reference}
        status, made = await house.call("POST", path, sdk)
        assert status == 200, made
        assert isinstance(made["id"], int)
    group = house.router.board.desks[endpoint.id].record.groups[-1]
    assert group.template == Template(name="llm", command=("serve", "--port", "{WORKER_PORT}"), env={"A": "b"}, gpus=1)
    assert json.loads(group.search_params) == {"gpu_ram": {"gte": 24}}

    # a template that changes later changes no group until the group is given it again
    await house.call("PUT", "/api/v1/templates/llm", {**template, "gpus": 2})
    _, listed = await house.call("GET", path, {"client_id": "me", "api_key": "x"})
    mine = [g for g in listed["results"] if g["endpoint_id"] == endpoint.id]
    assert listed["success"] is True
    assert [g["template"]["gpus"] for g in mine] == [1, 1, 1]

    nulls = {"template_hash": None, "template_id": None, "search_params": "gpu_ram>=40", "launch_args": None, "gpu_ram": None}
    _, changed = await house.call("PUT", f"{path}{group.id}/", {**nulls, "weight": 0.1, "tier": 2})
    assert (changed["result"]["weight"], changed["result"]["tier"], changed["result"]["revision"]) == (0.1, 2, 1)
    assert changed["result"]["search_params"] == "gpu_ram>=40"
    _, revised = await house.call("PUT", f"{path}{group.id}/", {"template": "llm"})
    assert (revised["result"]["template"]["gpus"], revised["result"]["revision"]) == (2, 2)
    assert (await house.call("GET", f"{path}{group.id}/"))[1]["result"] == revised["result"]

    assert (await house.call("DELETE", f"{path}{group.id}/", {"client_id": "me", "autojob_id": group.id}))[0] == 200
    assert (await house.call("GET", f"{path}{group.id}/"))[0] == 404
    told = await events_of(house, endpoint.id, {"group_created", "group_changed", "group_deleted"})
    assert [e.changed for e in told if isinstance(e, events.GroupChanged)] == [("search_params", "weight", "tier"), ("template",)]
    assert (await house.call("DELETE", "/api/v1/templates/llm"))[0] == 200


async def test_weights_and_thresholds_of_a_group_over_http(house: House):
    endpoint = await house.endpoint(groups=0)
    path = "/api/v1/groups/"
    body = {"endpoint_id": endpoint.id, "template": {"name": "t", "command": ["serve"]}}
    _, made = await house.call("POST", path, body)
    assert (made["result"]["weight"], made["result"]["max_workers"]) == (None, None), "nobody gave a weight: cost decides"
    record = house.router.board.desks[endpoint.id].record.groups[-1]
    assert (record.weight, record.by_cost) == (1.0, True), "readers that do not know by_cost see equal weights"

    group = f"{path}{made['id']}/"
    thresholds = {"tier": 1, "max_workers": 4, "overflow_util": 0.8, "overflow_queue_s": 8.0}
    _, changed = await house.call("PUT", group, {"weight": 2.0, **thresholds})
    assert {name: changed["result"][name] for name in ("weight", *thresholds)} == {"weight": 2.0, **thresholds}
    assert changed["result"]["revision"] == 1, "no worker is replaced for it"
    status, refused = await house.call("PUT", group, {"tier": 0})
    assert status == 422
    assert "set its tier" in json.dumps(refused)
    unset = {"unset": ["weight", "overflow_util", "overflow_queue_s", "max_workers"]}
    _, back = await house.call("PUT", group, {**unset, "tier": 0})
    assert [back["result"][name] for name in ("weight", "tier", "max_workers", "overflow_util")] == [None, 0, None, None]
    told = await events_of(house, endpoint.id, {"group_changed"})
    assert told[0].changed == ("weight", "tier", "max_workers", "overflow_util", "overflow_queue_s")
    assert told[1].changed == told[0].changed


async def test_api_keys_are_shown_once_and_can_be_revoked_and_expire(house: House, bus_for, keys_dir):
    endpoint = await house.endpoint()
    await house.worker(endpoint, slots=9)
    _, made = await house.call("POST", "/api/v1/keys", {"name": "ci", "role": "admin"})
    key, number = made["key"], made["result"]["id"]
    assert (await house.call("GET", "/api/v0/endptjobs/", key=key))[0] == 200
    _, listed = await house.call("GET", "/api/v1/keys")
    assert number in [record["id"] for record in listed["results"]]
    assert key not in json.dumps(listed)
    assert (await house.call("DELETE", f"/api/v1/keys/{number}"))[0] == 200
    assert (await house.call("GET", "/api/v0/endptjobs/", key=key))[0] == 401
    _, short = await house.call("POST", "/api/v1/keys", {"expires_in_s": 0.05})
    await asyncio.sleep(0.06)  # its life, not a wait for something to happen
    assert (await house.call("POST", "/route/", {"endpoint": endpoint.name}, short["key"]))[0] == 401


async def test_workers_are_shown_with_what_the_router_thinks_of_them(house: House):
    endpoint = await house.endpoint()
    ready = await house.worker(endpoint, gpu_name="RTX 4090", num_gpus=1)
    failed = await house.worker(
        endpoint, state=WorkerState.ERROR, failure=Failure(cause=Cause.MODEL_OOM, message="out of memory")
    )
    await house.beat(ready, load=40.0, inflight=1)
    seen = house.router.board.desks[endpoint.id].fleet.workers
    await until(lambda: seen[ready.worker_id].pulse is not None)

    _, listed = await house.call("GET", f"/api/v1/workers?endpoint={endpoint.name}")
    by_id = {worker["id"]: worker for worker in listed["results"]}
    assert (by_id[ready.worker_id]["state"], by_id[ready.worker_id]["routable"]) == ("ready", True)
    assert (by_id[ready.worker_id]["load"], by_id[ready.worker_id]["inflight"]) == (40.0, 1)
    assert (by_id[failed.worker_id]["routable"], by_id[failed.worker_id]["failure"]["cause"]) == (False, "model_oom")
    number = ready.worker_id[1:]
    assert (await house.call("GET", f"/api/v1/workers/{number}"))[1]["result"]["id"] == ready.worker_id

    # Vast's SDK sends its key in the body only, its command line in the header only; both want a bare list of numbers
    for key, body in (("test-admin-key", {"id": endpoint.id}), (None, {"id": endpoint.id, "api_key": "test-admin-key"})):
        status, workers = await house.call("POST", "/get_endpoint_workers/", body, key)
        assert status == 200
        one = {worker["id"]: worker for worker in workers}[int(number)]
        assert (one["status"], one["cur_load"], one["gpu_name"], one["measured_perf"]) == ("idle", 40.0, "RTX 4090", 100.0)
        assert None not in one.values()


@pytest.mark.parametrize(
    "order, kind", [("drain", commands.StopWorker), ("destroy", commands.DestroyWorker), ("start", commands.StartWorker)]
)
async def test_an_operators_order_is_a_command(house: House, order, kind):
    endpoint = await house.endpoint()
    worker = await house.worker(endpoint)
    heard = []
    await house.bus.subscribe(subjects.COMMANDS, lambda m: heard.append(codec.command(m.data)))
    status, answer = await house.call("POST", f"/api/v1/workers/{worker.worker_id}/{order}", {"reason": "I say so"})
    assert status == 202
    command = await until(lambda: next((c for c in heard if c.worker_id == worker.worker_id), None))
    assert isinstance(command, kind)
    assert (command.command_id, command.epoch, command.issued_by) == (answer["command_id"], 0, "operator:admin")
    assert (command.endpoint_id, command.group_id, command.reason) == (endpoint.id, worker.group_id, "I say so")
    assert command.deadline_at > command.issued_at


async def test_enrolling_asks_the_provisioner_and_says_so_when_it_is_not_there(house: House, bus_for):
    endpoint = await house.endpoint()
    status, problem = await house.call("POST", "/api/v1/enroll", {"endpoint": endpoint.name})
    assert (status, problem["error"]) == (503, "unavailable")
    assert "provisioner" in problem["msg"]

    asked = []

    async def answer(message):
        asked.append(msgspec.json.decode(message.data, type=EnrollRequest))
        ok = asked[-1].url != "refuse"
        return msgspec.json.encode(EnrollReply(ok=ok, worker_id="w5", token="corral1.x", message="" if ok else "no"))

    provisioner = await bus_for("provisioner")
    await provisioner.respond(subjects.ENROLL, answer)
    body = {"endpoint": endpoint.name, "group": str(endpoint.groups[0].id), "url": "http://10.0.0.9:80"}
    status, enrolled = await house.call("POST", "/api/v1/enroll", body)
    assert (status, enrolled["worker_id"], enrolled["token"]) == (200, "w5", "corral1.x")
    assert (asked[0].endpoint_id, asked[0].group_id, asked[0].url) == (endpoint.id, endpoint.groups[0].id, body["url"])
    status, problem = await house.call("POST", "/api/v1/enroll", {**body, "url": "refuse"})
    assert (status, problem["error"]) == (409, "conflict")


async def test_events_can_be_read_and_followed(house: House):
    endpoint = await house.endpoint()
    auth = {"Authorization": "Bearer test-admin-key"}
    url = house.url + f"/api/v1/events?endpoint={endpoint.name}&since=-60"
    async with house.http.get(url, headers=auth) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        text = (await response.read()).decode()
    assert [line[7:] for line in text.splitlines() if line.startswith("event: ")] == ["endpoint_created", "group_created"]

    async with house.http.get(url + "&follow=1&kind=endpoint_changed", headers=auth) as response:
        await house.call("PUT", f"/api/v0/endptjobs/{endpoint.id}/", {"max_workers": 3})
        async with asyncio.timeout(10):
            lines = [(await response.content.readline()).decode().rstrip() for _ in range(4)]
    assert lines[0].startswith("id: ")
    assert lines[1] == "event: endpoint_changed"
    assert codec.event(lines[2].removeprefix("data: ").encode()).changed == ("max_workers",)
    assert lines[3] == ""


async def test_logs_in_vasts_form_have_all_four_levels(house: House):
    endpoint = await house.endpoint()
    worker = await house.worker(endpoint)
    failed = events.WorkerFailed(
        id=f"x{time.time_ns()}", at=time.time(), endpoint_id=endpoint.id, worker_id=worker.worker_id, group_id=worker.group_id,
        failure=Failure(cause=Cause.MODEL_OOM),
    )  # fmt: skip
    await house.bus.append(subjects.event("worker_failed", endpoint.id), codec.encode(failed), msg_id=failed.id)
    async with asyncio.timeout(10):
        while True:
            _, logs = await house.call("POST", "/get_endpoint_logs/", {"id": endpoint.id, "api_key": "x", "tail": 50})
            if "model_oom" in logs["info0"]:
                break
    assert set(logs) == {"info0", "info1", "trace", "debug"}
    assert "endpoint_created" in logs["info0"]
    _, of_group = await house.call("POST", "/get_autogroup_logs/", {"id": worker.group_id, "tail": 1})
    assert of_group["info0"].count("\n") == 0
    assert str(worker.worker_id) in of_group["info0"]


async def test_what_everybody_may_ask(house: House):
    for path in ("/livez", "/healthz", "/readyz"):
        status, answer = await house.call("GET", path, key=None)
        assert (status, answer["ok"]) == (200, True)
    endpoint = await house.endpoint()
    await house.worker(endpoint, perf=50.0)  # busy for two seconds, longer than a ticket may be ahead of its turn
    await house.route(endpoint.name)
    await house.route(endpoint.name, wait_s=0)
    async with house.http.get(house.url + "/metrics") as response:
        assert response.status == 200
        text = await response.text()
    label = f'endpoint="{endpoint.name}"'
    assert f'corral_route_requests_total{{{label},outcome="ready",reason=""}} 1.0' in text
    assert f'corral_route_requests_total{{{label},outcome="waiting",reason="at_capacity"}} 1.0' in text
    assert f"corral_queue_depth{{{label}}} 1.0" in text
    assert f'corral_route_wait_seconds_bucket{{{label},le="+Inf"}} 1.0' in text
    assert f'corral_workers{{{label},group="{endpoint.groups[0].id}",state="ready"}} 1.0' in text
    _, me = await house.call("GET", "/api/v0/users/current/?owner=me")
    assert me["username"] == "admin"


async def test_a_rolling_update_is_a_new_revision_of_the_template_as_it_is_now(house: House):
    assert (await house.call("PUT", "/api/v1/templates/rolled", {"command": ["serve", "old"]}))[0] == 200
    endpoint = await house.endpoint(groups=0)
    _, made = await house.call("POST", "/api/v0/workergroups/", {"endpoint_id": endpoint.id, "template": "rolled"})
    group_id = made["id"]
    endpoint = house.router.board.desks[endpoint.id].record
    for state in (WorkerState.READY, WorkerState.STOPPED, WorkerState.DESTROYING):
        await house.worker(endpoint, state=state)

    async def group():
        return (await house.call("GET", f"/api/v0/autojobs/{group_id}/"))[1]["result"]

    async def ask(**more):
        # As Vast's command line sends it.
        return await house.call("POST", "/update_workers/", {"workergroup_id": group_id, "api_key": "x", **more})

    status, problem = await ask(cancel_update=True)
    assert (status, problem["error"]) == (409, "conflict"), "nothing is under way"
    await house.call("PUT", "/api/v1/templates/rolled", {"command": ["serve", "new"]})
    assert (await group())["template"]["command"] == ["serve", "old"], "a stored template changes no worker"

    status, told = await ask()
    assert (status, told) == (200, {"success": True, "workers_to_update": 2, "revision": 2})
    now = await group()
    assert (now["revision"], now["oldest_revision"], now["template"]["command"]) == (2, 2, ["serve", "new"])
    status, told = await ask(cancel_update=True)
    assert (status, told) == (200, {"success": True, "cancelled": True, "workers_kept": 2})
    assert [(await group())[name] for name in ("revision", "oldest_revision")] == [2, 1]
    assert (await ask(cancel_update=True))[0] == 409, "it is cancelled already"
    await house.call("PUT", f"/api/v0/workergroups/{group_id}/", {"weight": 2.0})
    assert (await group())["oldest_revision"] == 1, "other traffic, same workers"

    await house.call("DELETE", "/api/v1/templates/rolled")
    assert (await ask())[1] == {"success": True, "workers_to_update": 2, "revision": 3}
    now = await group()
    assert (now["oldest_revision"], now["template"]["command"]) == (3, ["serve", "new"]), "its own copy serves on"
    changed = await events_of(house, endpoint.id, {"group_changed"})
    assert {(event.revision, event.changed) for event in changed} >= {
        (2, ("template", "revision")),
        (2, ("oldest_revision",)),
        (3, ("revision", "oldest_revision")),
    }
