"""What operators say over HTTP: schedules, overrides, resumed groups, groups side by side, and events read to their end."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import msgspec
import pytest

from router import admin_events
from schemas import codec, events, subjects
from schemas.reasons import Cause, Phase
from schemas.records import Failure
from tests.router.house import House, until

EIGHT = {"cron": "0 8 * * 1-5", "lasts_s": 36000.0, "hot_min": 2, "time_zone": "Europe/Berlin"}


def record(house: House, endpoint):
    return house.router.board.desks[endpoint.id].record


async def told(house: House, endpoint, kind) -> list:
    """Events of this kind, as the API tells them."""
    url = f"{house.url}/api/v1/events?endpoint={endpoint.name}&since=-600"
    async with house.http.get(url, headers={"Authorization": "Bearer test-admin-key"}) as response:
        lines = (await response.read()).decode().splitlines()
    found = [codec.event(line[6:].encode()) for line in lines if line.startswith("data: ")]
    return [event for event in found if isinstance(event, kind)]


async def test_schedules_are_set_shown_changed_and_unset(house: House):
    endpoint = await house.endpoint(schedules=[EIGHT], max_workers=3)
    path = f"/api/v0/endptjobs/{endpoint.id}/"
    assert (await house.call("GET", path))[1]["result"]["schedules"] == [EIGHT]
    await house.call("PUT", path, {"target_util": 0.8, "schedules": None})
    assert [s.cron for s in record(house, endpoint).schedules] == ["0 8 * * 1-5"], "null is: as it was"
    status, problem = await house.call("PUT", path, {"max_workers": 1})
    assert (status, problem["error"]) == (422, "contradiction")
    assert "schedules[0]: hot_min (2) is more than max_workers (1)" in problem["msg"]
    await house.call("PUT", path, {"unset": ["schedules"], "max_workers": 1})
    assert record(house, endpoint).schedules == ()
    assert "schedules" not in (await house.call("GET", path))[1]["result"]
    changed = await told(house, endpoint, events.EndpointChanged)
    assert set(changed[-1].changed) == {"schedules", "max_workers"}


async def test_an_override_has_the_name_of_the_key_that_set_it_and_always_an_end(house: House):
    endpoint = await house.endpoint(max_workers=5)
    path = f"/api/v1/endpoints/{endpoint.name}/override"
    _, made = await house.call("POST", "/api/v1/keys", {"name": "ada", "role": "admin"})
    body = {"hot_min": 2, "hot_max": 3, "for_s": 7200, "reason": "launch day"}
    status, answer = await house.call("PUT", path, body, key=made["key"])
    assert status == 200, answer
    override = record(house, endpoint).override
    assert msgspec.to_builtins(override) == answer["result"]
    assert (override.owner, override.hot_min, override.hot_max) == ("ada", 2, 3)
    assert override.expires_at == pytest.approx(time.time() + 7200, abs=30)
    shown = (await house.call("GET", f"/api/v1/endpoints/{endpoint.name}"))[1]["result"]
    assert shown["override"] == answer["result"]

    status, problem = await house.call("PUT", f"/api/v0/endptjobs/{endpoint.id}/", {"max_workers": 1})
    assert (status, problem["error"]) == (422, "contradiction")
    assert (
        "max_workers (1) is less than hot_min (2) of the override of ada: raise it, or clear the override first" in problem["msg"]
    )

    await house.call("PUT", path, {"hot_min": 1, "reason": "calmer"})  # replaces it; an hour where nothing is said
    assert record(house, endpoint).override.expires_at == pytest.approx(time.time() + 3600, abs=30)
    assert record(house, endpoint).override.owner == "admin"
    assert (await house.call("DELETE", path))[1]["result"]["hot_min"] == 1
    assert record(house, endpoint).override is None
    assert (await house.call("DELETE", path))[1]["result"] is None, "none there is fine"
    said = [(event.changed, event.reason) for event in await told(house, endpoint, events.EndpointChanged)]
    assert [changed for changed, _ in said] == [("override",)] * 3
    assert said[0][1].startswith("ada asks for at least 2 hot and at most 3 hot until 20")
    assert said[0][1].endswith("UTC: launch day")
    assert said[2][1] == "admin cleared the override (at least 1 hot, by admin)"


async def test_an_override_that_is_over_is_not_shown_and_stands_in_nobodys_way(house: House):
    endpoint = await house.endpoint(max_workers=5)
    await house.call("PUT", f"/api/v1/endpoints/{endpoint.name}/override", {"hot_min": 4, "for_s": 0.05, "reason": "x"})
    await asyncio.sleep(0.06)  # its life, not a wait for something to happen
    assert "override" not in (await house.call("GET", f"/api/v1/endpoints/{endpoint.name}"))[1]["result"]
    assert (await house.call("PUT", f"/api/v0/endptjobs/{endpoint.id}/", {"max_workers": 1}))[0] == 200


async def test_a_halted_group_says_so_and_can_be_resumed(house: House, bus_for):
    endpoint = await house.endpoint()
    group = endpoint.groups[0].id
    failure = Failure(cause=Cause.MODEL_OOM, message="out of memory", phase=Phase.MODEL)
    event = events.GroupHalted(
        id=f"halt-{group}", at=time.time(), endpoint_id=endpoint.id, group_id=group, revision=1, failure=failure, failures=3,
        cost_usd=0.42,
    )  # fmt: skip
    await house.bus.append(subjects.event("group_halted", endpoint.id), codec.encode(event), msg_id=event.id)
    await until(lambda: group in house.router.board.halts)
    path = f"/api/v0/workergroups/{group}/"
    halted = (await house.call("GET", path))[1]["result"]["halted"]
    assert (halted["cause"], halted["phase"], halted["failures"], halted["cost_usd"]) == ("model_oom", "model", 3, 0.42)
    compared = (await house.call("GET", f"/api/v1/endpoints/{endpoint.name}/compare"))[1]["result"]["groups"]
    assert compared[0]["halted"]["cause"] == "model_oom"

    status, answer = await house.call("POST", path + "resume/", {"reason": "more memory"})
    assert (status, answer["was_halted"]["failures"]) == (200, 3)
    await until(lambda: group not in house.router.board.halts)
    (resumed,) = await told(house, endpoint, events.GroupResumed)
    assert (resumed.by, resumed.reason, resumed.group_id) == ("admin", "more memory", group)
    assert "halted" not in (await house.call("GET", path))[1]["result"]
    assert (await house.call("POST", path + "resume/"))[1]["was_halted"] is None


async def test_groups_side_by_side_over_http(house: House):
    endpoint = await house.endpoint(groups=2)
    one, two = [await house.worker(endpoint, group=n, slots=4, perf=100.0 * (n + 1), usd_per_hour=1.0) for n in (0, 1)]
    fleet = house.router.board.desks[endpoint.id].fleet
    for worker in (one, two):
        await house.beat(worker, requests_total=0)
    await until(lambda: all(w.pulse is not None for w in fleet.workers.values()))
    for _ in range(6):
        await house.route(endpoint.name)
    await house.beat(one, requests_total=3, served_total=3, served_units_total=300.0, service_s_total=1.5)
    await house.beat(two, requests_total=3, served_total=2, failed_total=1, served_units_total=200.0, service_s_total=0.5)
    await until(lambda: all(w.pulse.requests_total == 3 for w in fleet.workers.values()))
    _, answer = await house.call("GET", f"/api/v1/endpoints/{endpoint.name}/compare?over_s=600")
    found = answer["result"]
    assert found["router"] == house.router.board.router
    assert [group["routed"] for group in found["groups"]] == [3, 3]
    assert [group["perf"] for group in found["groups"]] == [100.0, 200.0]
    assert [group["failed"] for group in found["groups"]] == [0, 1]
    assert [group["traffic_share"] for group in found["groups"]] == [0.5, 0.5]
    assert [group["service_mean_s"] for group in found["groups"]] == [0.5, 0.25]
    assert all(group["usd_per_million_units"] > 0 for group in found["groups"])


async def test_what_was_said_to_a_group_about_its_price_is_no_new_revision(house: House):
    endpoint = await house.endpoint()
    path = f"/api/v0/workergroups/{endpoint.groups[0].id}/"
    _, changed = await house.call("PUT", path, {"usd_per_hour": 0.75})
    assert (changed["result"]["usd_per_hour"], changed["result"]["revision"]) == (0.75, 1)
    _, changed = await house.call("PUT", path, {"unset": ["usd_per_hour"]})
    assert changed["result"]["usd_per_hour"] is None


async def test_events_are_read_to_their_end_however_slow_the_reader_is(house: House, monkeypatch):
    """More than is read ahead: nothing is left out, and the answer ends when all is told."""
    monkeypatch.setattr(admin_events, "MAX_BEHIND_BYTES", 20_000)
    endpoint = await house.endpoint(groups=0)
    sent = 600  # more than one batch
    for start in range(0, sent, 100):
        await asyncio.gather(*(_say(house, endpoint, n) for n in range(start, start + 100)))
    url = f"{house.url}/api/v1/events?endpoint={endpoint.name}&since=-600&kind=endpoint_changed"
    async with house.http.get(url, headers={"Authorization": "Bearer test-admin-key"}) as response:
        text, pieces = b"", 0
        async for piece in response.content.iter_chunked(4096):
            text, pieces = text + piece, pieces + 1
            await asyncio.sleep(0)
    assert text.count(b"\ndata: ") == sent
    ids = [int(line[4:]) for line in text.splitlines() if line.startswith(b"id: ")]
    assert ids == sorted(ids)


async def _say(house: House, endpoint, number: int) -> None:
    event = events.EndpointChanged(
        id=f"many-{endpoint.id}-{number}", at=time.time(), endpoint_id=endpoint.id, name="x" * 50, revision=number
    )
    await house.bus.append(subjects.event("endpoint_changed", endpoint.id), codec.encode(event), msg_id=event.id)


async def test_who_follows_hears_that_it_is_heard(house: House, monkeypatch):
    monkeypatch.setattr(admin_events, "KEEPALIVE_S", 0.05)
    endpoint = await house.endpoint(groups=0)
    url = f"{house.url}/api/v1/events?endpoint={endpoint.name}&follow=1"
    async with house.http.get(url, headers={"Authorization": "Bearer test-admin-key"}) as response, asyncio.timeout(10):
        lines = [(await response.content.readline()).decode() for _ in range(4)]
    assert lines == [": still here\n", "\n"] * 2


class Mute:
    """A bus that never answers: the stream cannot be read to its end."""

    def __init__(self, bus) -> None:
        self._bus = bus

    def __getattr__(self, name):
        return getattr(self._bus, name)

    async def tail(self, *_args, **_more):
        await asyncio.Event().wait()


async def test_an_answer_that_cannot_be_whole_is_broken_off(house: House, monkeypatch):
    monkeypatch.setattr(admin_events, "KEEPALIVE_S", 0.02)
    monkeypatch.setattr(admin_events, "PATIENCE_S", 0.05)
    (admin,) = [h.__self__ for (_, path), h in house.listener._app._table._handlers.items() if path == "/api/v1/events"]
    monkeypatch.setattr(admin, "_bus", Mute(house.bus))
    async with house.http.get(f"{house.url}/api/v1/events", headers={"Authorization": "Bearer test-admin-key"}) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_what_happened_to_a_deleted_endpoint_can_be_read_by_its_number(house: House):
    endpoint = await house.endpoint(groups=0)
    await house.call("DELETE", f"/api/v0/endptjobs/{endpoint.id}/")
    url = f"{house.url}/api/v1/events?endpoint={endpoint.id}&since=-600"
    async with house.http.get(url, headers={"Authorization": "Bearer test-admin-key"}) as response:
        assert response.status == 200
        assert "endpoint_deleted" in (await response.read()).decode()


async def test_a_kind_of_event_that_does_not_exist_is_refused_with_the_closest(house: House):
    status, problem = await house.call("GET", "/api/v1/events?kind=worker_redy")
    assert (status, problem["error"]) == (422, "bad_field")
    assert "did you mean worker_ready?" in problem["fields"]["kind"]
    _, problem = await house.call("GET", "/api/v1/events?kind=nope")
    assert "'nope' is no kind of event; it is one of command_dead, command_refused, decision" in problem["fields"]["kind"]
