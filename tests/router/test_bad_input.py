"""Bad input is a 4xx that says what is wrong, and changes nothing."""

from __future__ import annotations

import json

import pytest

from tests.router.house import ADMIN_KEY, House

ROUTE = [
    # (body, status, error, field)
    (b"", 400, "bad_json", None),
    (b"{", 400, "bad_json", None),
    (b"\xff\xfe", 400, "bad_json", None),
    (b'{"endpoint": "EP"} x', 400, "bad_json", None),
    (b"[]", 422, "bad_field", "body"),
    (b"null", 422, "bad_field", "body"),
    (b"{}", 422, "bad_field", "endpoint"),
    (b'{"endpoint": 7}', 422, "bad_field", "endpoint"),
    (b'{"endpoint": ""}', 422, "bad_field", "endpoint"),
    (b'{"endpoint": null}', 422, "bad_field", "endpoint"),
    (b'{"endpoint": "%b"}' % (b"x" * 300), 422, "bad_field", "endpoint"),
    (b'{"endpoint": "no-such-endpoint"}', 404, "no_endpoint", None),
    (b'{"endpoint": "EP", "cost": -1}', 422, "bad_field", "cost"),
    (b'{"endpoint": "EP", "cost": NaN}', 400, "bad_json", None),
    (b'{"endpoint": "EP", "cost": Infinity}', 400, "bad_json", None),
    (b'{"endpoint": "EP", "cost": 1e999}', 422, "bad_field", "cost"),
    (b'{"endpoint": "EP", "cost": 1e13}', 422, "bad_field", "cost"),
    (b'{"endpoint": "EP", "cost": "100"}', 422, "bad_field", "cost"),
    (b'{"endpoint": "EP", "cost": null}', 422, "bad_field", "cost"),
    (b'{"endpoint": "EP", "cost": true}', 422, "bad_field", "cost"),
    (b'{"endpoint": "EP", "request_idx": -1}', 422, "bad_field", "request_idx"),
    (b'{"endpoint": "EP", "request_idx": 1.5}', 422, "bad_field", "request_idx"),
    (b'{"endpoint": "EP", "request_idx": 99999999999999999999}', 422, "bad_field", "request_idx"),
    (b'{"endpoint": "EP", "wait_s": -1}', 422, "bad_field", "wait_s"),
    (b'{"endpoint": "EP", "wait_s": 1e400}', 422, "bad_field", "wait_s"),
    (b'{"endpoint": "EP", "replay_timeout": -5}', 422, "bad_field", "replay_timeout"),
    (b'{"endpoint": "EP", "exclude_workers": "w1"}', 422, "bad_field", "exclude_workers"),
    (b'{"endpoint": "EP", "exclude_workers": ["nobody"]}', 422, "bad_field", "exclude_workers"),
    (b'{"endpoint": "EP", "exclude_workers": [' + b",".join([b'"w1"'] * 65) + b"]}", 422, "bad_field", "exclude_workers"),
    (b'{"endpoint": "EP", "session": 5}', 422, "bad_field", "session"),
    (b'{"endpoint": "EP", "api_key": 5}', 422, "bad_field", "api_key"),
    (b'{"endpoint": "EP", "pad": "%b"}' % (b"x" * 20_000), 413, "body_too_large", None),
    (b'{"endpoint": "EP", "pad": "%b"}' % (b"x" * 400_000), 413, "body_too_large", None),
]


def _counters(house):
    board = house.router.board
    return {
        desk.id: (desk.demand.arrivals, desk.demand.routed, len(desk.hold), desk.fleet.reserved_units)
        for desk in board.desks.values()
    }, len(board.memory)


@pytest.mark.parametrize("path", ["/route/", "/route?x=1"], ids=["lane", "aiohttp"])
async def test_a_bad_route_call_is_refused_with_its_reason_and_changes_nothing(house: House, path):
    endpoint = await house.endpoint()
    await house.worker(endpoint, slots=9)
    stored, counters = await house.everything_stored(), _counters(house)
    for body, status, error, field in ROUTE:
        body = body.replace(b"EP", endpoint.name.encode())
        async with house.http.post(
            house.url + path, data=body, headers={"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
        ) as response:
            problem = json.loads(await response.read())
            assert (response.status, problem["error"]) == (status, error), (body[:80], problem)
        assert problem["success"] is False
        assert problem["msg"] == problem["error_msg"]
        assert problem["request_id"]
        if field is not None:
            assert field in problem["fields"], (body[:80], problem)
    assert _counters(house) == counters
    assert await house.everything_stored() == stored


@pytest.mark.parametrize(
    "key, status, error",
    [
        (None, 401, "no_key"),
        ("", 401, "no_key"),
        ("wrong", 401, "bad_key"),
        ("x" * 5000, 401, "bad_key"),
        ("käse", 401, "bad_key"),
    ],
)
async def test_without_a_good_key_nothing_is_done(house: House, key, status, error):
    endpoint = await house.endpoint()
    await house.worker(endpoint)
    stored, counters = await house.everything_stored(), _counters(house)
    for method, path, body in (
        ("POST", "/route/", {"endpoint": endpoint.name}),
        ("GET", "/api/v0/endptjobs/", None),
        ("POST", "/api/v0/endptjobs/", {"endpoint_name": "x"}),
        ("PUT", f"/api/v0/endptjobs/{endpoint.id}/", {"max_workers": 3}),
        ("DELETE", f"/api/v0/endptjobs/{endpoint.id}/", None),
        ("POST", "/api/v0/workergroups/", {"endpoint_id": endpoint.id}),
        ("DELETE", f"/api/v0/autojobs/{endpoint.groups[0].id}/", None),
        ("GET", "/api/v1/keys", None),
        ("POST", "/api/v1/keys", {"role": "admin"}),
        ("PUT", "/api/v1/templates/t", {"command": ["x"]}),
        ("GET", "/api/v1/workers", None),
        ("POST", "/api/v1/workers/w1/destroy", {}),
        ("POST", "/api/v1/enroll", {"endpoint": endpoint.name}),
        ("GET", "/api/v1/events", None),
        ("PUT", f"/api/v1/endpoints/{endpoint.name}/override", {"hot_min": 1, "reason": "x"}),
        ("DELETE", f"/api/v1/endpoints/{endpoint.name}/override", None),
        ("GET", f"/api/v1/endpoints/{endpoint.name}/compare", None),
        ("POST", f"/api/v0/workergroups/{endpoint.groups[0].id}/resume/", {}),
        ("POST", "/get_endpoint_workers/", {"id": endpoint.id}),
        ("POST", "/get_endpoint_logs/", {"id": endpoint.id}),
        ("POST", "/update_workers/", {"workergroup_id": endpoint.groups[0].id}),
        ("GET", "/api/v0/users/current", None),
    ):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        if key and not key.isascii():
            headers, path = {}, f"{path}?api_key={key}"
        async with house.http.request(method, house.url + path, json=body, headers=headers) as response:
            problem = json.loads(await response.read())
            assert (response.status, problem["error"]) == (status, error), (method, path, problem)
            assert "Bearer" in response.headers["WWW-Authenticate"]
    assert _counters(house) == counters
    assert await house.everything_stored() == stored


async def test_a_client_key_routes_where_it_may_and_does_nothing_else(house: House):
    mine, other = await house.endpoint(), await house.endpoint()
    for endpoint in (mine, other):
        await house.worker(endpoint, slots=9)
    _, made = await house.call("POST", "/api/v1/keys", {"endpoints": [mine.id]})
    own_key = (await house.call("GET", f"/api/v1/endpoints/{mine.name}"))[1]["result"]["api_key"]
    for key in (made["key"], own_key):
        assert "url" in await house.route(mine.name, key=key)
        for method, path, body in (
            ("POST", "/route/", {"endpoint": other.name}),
            ("GET", "/api/v0/endptjobs/", None),
            ("DELETE", f"/api/v0/endptjobs/{mine.id}/", None),
            ("POST", "/api/v1/keys", {"role": "admin"}),
            ("POST", "/get_endpoint_workers/", {"id": other.id}),
        ):
            status, problem = await house.call(method, path, body, key)
            assert (status, problem["error"]) == (403, "forbidden"), (path, problem)
        assert (await house.call("POST", "/route/", {"endpoint": "no-such"}, key))[0] == 404


OK = {"name": "t", "command": ["x"]}
EIGHT = {"cron": "0 8 * * *", "lasts_s": 3600, "hot_min": 1}
ADMIN = [
    # (method, path, body, status, error)
    ("POST", "/api/v0/endptjobs/", {}, 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", [], 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": ""}, 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "a/b"}, 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": " a"}, 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "x" * 256}, 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new\x00"}, 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "target_util": 0}, 422, "contradiction"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "target_util": 1.5}, 422, "contradiction"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "min_load": -1}, 422, "contradiction"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "max_workers": -1}, 422, "contradiction"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "max_workers": 2.5}, 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "cold_workers": 5, "max_workers": 4}, 422, "contradiction"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "max_workers": 0, "min_load": 1}, 422, "contradiction"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "max_workers": 0, "inactivity_timeout": -1}, 422, "contradiction"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "max_workers": 0, "min_load": 10}, 422, "contradiction"),
    ("PUT", "/api/v0/endptjobs/ID/", {"target_queue_time": 31}, 422, "contradiction"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "endpoint_state": "sleepy"}, 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "TAKEN"}, 409, "name_taken"),
    ("PUT", "/api/v0/endptjobs/ID/", {"max_workers": "many"}, 422, "bad_field"),
    ("PUT", "/api/v0/endptjobs/ID/", {"cold_workers": 99}, 422, "contradiction"),
    ("PUT", "/api/v0/endptjobs/ID/", {"endpoint_name": "TAKEN"}, 409, "name_taken"),
    ("PUT", "/api/v0/endptjobs/ID/", {"schedules": "daily"}, 422, "bad_field"),
    ("PUT", "/api/v0/endptjobs/ID/", {"schedules": [{"cron": "0 8 * * *", "hot_min": 1}]}, 422, "bad_field"),
    ("PUT", "/api/v0/endptjobs/ID/", {"schedules": [{**EIGHT, "timezone": "Europe/Berlin"}]}, 422, "bad_field"),
    ("PUT", "/api/v0/endptjobs/ID/", {"schedules": [{**EIGHT, "cron": "61 * * * *"}]}, 422, "contradiction"),
    ("PUT", "/api/v0/endptjobs/ID/", {"schedules": [{**EIGHT, "time_zone": "Europe/Atlantis"}]}, 422, "contradiction"),
    ("PUT", "/api/v0/endptjobs/ID/", {"schedules": [{**EIGHT, "hot_min": 99}]}, 422, "contradiction"),
    ("PUT", "/api/v0/endptjobs/ID/", {"schedules": [EIGHT], "max_workers": 0}, 422, "contradiction"),
    ("PUT", "/api/v0/endptjobs/ID/", {"unset": ["override"]}, 422, "bad_field"),
    ("POST", "/api/v0/endptjobs/", {"endpoint_name": "new", "schedules": [{**EIGHT, "lasts_s": 1}]}, 422, "contradiction"),
    ("PUT", "/api/v1/endpoints/nobody/override", {"hot_min": 1, "reason": "x"}, 404, "no_endpoint"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_min": 1}, 422, "bad_field"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_min": 1, "reason": "a\nb"}, 422, "bad_field"),
    ("PUT", "/api/v1/endpoints/EP/override", {"reason": "x"}, 422, "contradiction"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_min": 2.5, "reason": "x"}, 422, "bad_field"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_min": 3, "hot_max": 2, "reason": "x"}, 422, "contradiction"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_min": 99, "reason": "x"}, 422, "contradiction"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_min": 1, "reason": "x", "for_s": -1}, 422, "bad_field"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_min": 1, "reason": "x", "for_s": 1e9}, 422, "contradiction"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_min": 1, "reason": "x", "expires_at": 5}, 422, "contradiction"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_min": 1, "reason": "x", "for_s": 5, "expires_at": 5}, 422, "bad_field"),
    ("PUT", "/api/v1/endpoints/EP/override", {"hot_minimum": 1, "reason": "x"}, 422, "bad_field"),
    ("DELETE", "/api/v1/endpoints/nobody/override", None, 404, "no_endpoint"),
    ("GET", "/api/v1/endpoints/nobody/compare", None, 404, "no_endpoint"),
    ("GET", "/api/v1/endpoints/EP/compare?over_s=-1", None, 422, "bad_field"),
    ("GET", "/api/v1/endpoints/EP/compare?over_s=ever", None, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/999999999/resume/", {}, 404, "no_group"),
    ("PUT", "/api/v0/workergroups/GID/", {"usd_per_hour": -1}, 422, "bad_field"),
    ("PUT", "/api/v0/endptjobs/999999999/", {"max_workers": 1}, 404, "no_endpoint"),
    ("GET", "/api/v0/endptjobs/999999999/", None, 404, "no_endpoint"),
    ("GET", "/api/v0/endptjobs/abc/", None, 404, "not_found"),
    ("GET", "/api/v0/endptjobs/-1/", None, 404, "not_found"),
    ("GET", "/api/v0/endptjobs/" + "9" * 40 + "/", None, 404, "not_found"),
    ("DELETE", "/api/v0/endptjobs/999999999/", None, 404, "no_endpoint"),
    ("GET", "/api/v1/endpoints/nobody", None, 404, "no_endpoint"),
    ("POST", "/api/v0/workergroups/", {}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_id": "ID"}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "nobody", "template": "t"}, 404, "no_endpoint"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP"}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": "no-such"}, 404, "no_template"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": {"name": "t"}}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": {"name": "t", "comand": ["x"]}}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": {"name": "t", "command": "x"}}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": {"name": "t.x", "command": ["x"]}}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": OK, "weight": -1}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": OK, "tier": -1}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": OK, "max_workers": -1}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": OK, "overflow_util": 0.5}, 422, "bad_field"),
    ("POST", "/api/v0/workergroups/", {"endpoint_name": "EP", "template": OK, "tier": 1, "overflow_util": 1.5}, 422, "bad_field"),
    ("PUT", "/api/v0/workergroups/GID/", {"tier": 1, "overflow_queue_s": -3}, 422, "bad_field"),
    ("PUT", "/api/v0/workergroups/GID/", {"unset": ["tier"]}, 422, "bad_field"),
    ("PUT", "/api/v0/workergroups/GID/", {"weight": "heavy"}, 422, "bad_field"),
    ("PUT", "/api/v0/workergroups/GID/", {"endpoint_id": 999999999}, 422, "bad_field"),
    ("PUT", "/api/v0/workergroups/999999999/", {"weight": 1}, 404, "no_group"),
    ("DELETE", "/api/v0/autojobs/999999999/", None, 404, "no_group"),
    ("PUT", "/api/v1/templates/a.b", {"command": ["x"]}, 422, "bad_field"),
    ("PUT", "/api/v1/templates/a", {"command": ["x"], "start_timeout_s": 0}, 422, "bad_field"),
    ("PUT", "/api/v1/templates/a", {"command": ["x"], "env": {"A": 1}}, 422, "bad_field"),
    ("GET", "/api/v1/templates/nobody", None, 404, "no_template"),
    ("DELETE", "/api/v1/templates/nobody", None, 404, "no_template"),
    ("POST", "/api/v1/keys", {"role": "god"}, 422, "bad_field"),
    ("POST", "/api/v1/keys", {"expires_in_s": -1}, 422, "bad_field"),
    ("POST", "/api/v1/keys", {"endpoints": "all"}, 422, "bad_field"),
    ("DELETE", "/api/v1/keys/nobody", None, 404, "not_found"),
    ("GET", "/api/v1/workers/w1", None, 404, "no_worker"),
    ("GET", "/api/v1/workers?endpoint=nobody", None, 404, "no_endpoint"),
    ("POST", "/api/v1/workers/w1/destroy", {}, 404, "no_worker"),
    ("POST", "/api/v1/workers/w1/dance", {}, 404, "not_found"),
    ("POST", "/api/v1/enroll", {}, 422, "bad_field"),
    ("POST", "/api/v1/enroll", {"endpoint": "nobody"}, 404, "no_endpoint"),
    ("POST", "/api/v1/enroll", {"endpoint": "EP", "group": 999999999}, 404, "no_group"),
    ("POST", "/get_endpoint_workers/", {"id": 999999999}, 404, "no_endpoint"),
    ("POST", "/get_endpoint_workers/", {"id": "x"}, 422, "bad_field"),
    ("POST", "/get_endpoint_logs/", {"id": 999999999}, 404, "no_endpoint"),
    ("POST", "/get_autogroup_logs/", {"id": 999999999}, 404, "no_group"),
    ("GET", "/api/v1/events?since=yesterday", None, 422, "bad_field"),
    ("GET", "/api/v1/events?since=nan", None, 422, "bad_field"),
    ("GET", "/api/v1/events?endpoint=nobody", None, 404, "no_endpoint"),
    ("GET", "/api/v1/events?kind=*", None, 422, "bad_field"),
    ("GET", "/nothing/here", None, 404, "not_found"),
    ("GET", "/route/", None, 405, "method_not_allowed"),
    ("PATCH", "/api/v0/endptjobs/", {}, 405, "method_not_allowed"),
    ("POST", "/update_workers/", {}, 422, "bad_field"),
    ("POST", "/update_workers/", {"workergroup_id": "x"}, 422, "bad_field"),
    ("POST", "/update_workers/", {"workergroup_id": 999999999}, 404, "no_group"),
    ("POST", "/update_workers/", {"workergroup_id": 999999999, "cancel_update": True}, 404, "no_group"),
]


async def test_bad_admin_calls_are_refused_with_their_reason_and_change_nothing(house: House):
    endpoint, taken = await house.endpoint(), await house.endpoint(groups=0)
    stored = await house.everything_stored()
    swaps = {"EP": endpoint.name, "TAKEN": taken.name, "GID": str(endpoint.groups[0].id), "ID": str(endpoint.id)}
    for method, path, body, status, error in ADMIN:
        for mark, value in swaps.items():
            path = path.replace(f"/{mark}/", f"/{value}/")
        if isinstance(body, dict):
            body = {k: swaps.get(v, v) if isinstance(v, str) else v for k, v in body.items()}
        got, problem = await house.call(method, path, body)
        assert (got, problem["error"]) == (status, error), (method, path, body, problem)
        assert isinstance(problem["msg"], str) and len(problem["msg"]) > 10
    assert await house.everything_stored() == stored


async def test_broken_bodies_of_admin_calls(house: House):
    stored = await house.everything_stored()
    auth = {"Authorization": f"Bearer {ADMIN_KEY}"}
    for data, status in ((b"{", 400), (b"\xff", 400), (b"[1]", 422), (b'{"a":"%b"}' % (b"x" * 300_000), 413)):
        for path in ("/api/v0/endptjobs/", "/api/v0/workergroups/", "/api/v1/keys"):
            async with house.http.post(house.url + path, data=data, headers=auth) as response:
                assert response.status == status, (path, await response.text())
                assert json.loads(await response.read())["error"]
    assert await house.everything_stored() == stored
