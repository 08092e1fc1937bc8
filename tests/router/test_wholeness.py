"""Contradictions between the parts of an endpoint are refused when they are set, one call at a time and by `corral apply`."""

import msgspec
import pytest

from corral.admin import Admin
from corral.apply import carry_out, manifest, plan
from corral.control import Control
from corral.errors import BadRequest
from schemas.records import Override
from tests.router.house import ADMIN_KEY, House

TEMPLATE = {"name": "t", "command": ["serve"]}


async def group(house, endpoint, **fields):
    return await house.call("POST", "/api/v0/workergroups/", {"endpoint_id": endpoint.id, "template": TEMPLATE, **fields})


def refused(answer, words):
    status, problem = answer
    assert (status, problem["error"]) == (422, "contradiction"), answer
    assert words in problem["msg"]


async def test_a_group_too_small_for_the_endpoints_floor(house: House):
    endpoint = await house.endpoint(groups=0, cold_workers=3)
    refused(await group(house, endpoint, name="a", max_workers=1), "cold_workers (3) is more than worker group a may have (1)")
    status, made = await group(house, endpoint, name="a", max_workers=3)
    assert status == 200
    path = f"/api/v0/workergroups/{made['id']}/"
    refused(await house.call("PUT", path, {"max_workers": 2}), "may have (2)")
    assert (await house.call("PUT", path, {"unset": ["max_workers"]}))[0] == 200
    assert (await house.call("PUT", path, {"weight": 0}))[0] == 200, "all at weight 0: paused"
    assert (await house.call("PUT", path, {"max_workers": 1}))[0] == 200
    refused(await house.call("PUT", path, {"weight": 1}), "may have (1)")
    assert (await house.call("DELETE", path))[0] == 200


async def test_a_floor_too_high_for_the_groups(house: House):
    endpoint = await house.endpoint(groups=0)
    await group(house, endpoint, name="a", max_workers=2)
    path = f"/api/v0/endptjobs/{endpoint.id}/"
    refused(await house.call("PUT", path, {"cold_workers": 3}), "cold_workers (3) is more than worker group a may have (2)")
    eight = {"cron": "0 8 * * *", "lasts_s": 60, "hot_min": 3}
    refused(await house.call("PUT", path, {"schedules": [eight]}), "schedules[0]: hot_min (3) is more than worker group a")
    override = f"/api/v1/endpoints/{endpoint.name}/override"
    refused(await house.call("PUT", override, {"hot_min": 3, "reason": "x"}), "hot_min (3) of the override of admin is more than")
    assert (await house.call("PUT", override, {"hot_min": 2, "reason": "x"}))[0] == 200
    other = await house.endpoint(groups=0)
    await group(house, other, name="none", max_workers=0)
    path = f"/api/v0/endptjobs/{other.id}/"
    refused(
        await house.call("PUT", path, {"min_load": 1}), "min_load (1) keeps some hot, and worker group none may have no worker"
    )
    refused(await house.call("PUT", path, {"inactivity_timeout": -1}), "inactivity_timeout (-1) says never")


async def test_what_was_contradictory_before_can_be_renamed_stopped_and_mended(house: House):
    endpoint = await house.endpoint(groups=0, cold_workers=3)
    assert (await group(house, endpoint, name="a", max_workers=1, rest_follows=True))[0] == 200
    path = f"/api/v0/endptjobs/{endpoint.id}/"
    assert (await house.call("PUT", path, {"endpoint_state": "stopped", "name": f"{endpoint.name}-old"}))[0] == 200
    refused(await house.call("PUT", path, {"cold_workers": 2}), "cold_workers (2)")
    assert (await house.call("PUT", path, {"cold_workers": 1}))[0] == 200


@pytest.mark.parametrize("state", ["stopped", "suspended"])
async def test_an_override_of_an_endpoint_that_rests_is_refused_and_one_that_is_there_stays(house: House, state):
    endpoint = await house.endpoint()
    path, override = f"/api/v0/endptjobs/{endpoint.id}/", f"/api/v1/endpoints/{endpoint.name}/override"
    assert (await house.call("PUT", override, {"hot_min": 2, "reason": "x"}))[0] == 200
    assert (await house.call("PUT", path, {"endpoint_state": state}))[0] == 200
    assert isinstance(house.router.board.desks[endpoint.id].record.override, Override)
    refused(await house.call("PUT", override, {"hot_min": 3, "reason": "x"}), f"because the endpoint is {state}: make it active")
    assert (await house.call("PUT", override, {"hot_max": 3, "reason": "x"}))[0] == 200


async def test_a_price_above_the_cap_of_its_own_group(house: House):
    endpoint = await house.endpoint(groups=0)
    status, problem = await group(house, endpoint, usd_per_hour=5, price_cap_usd_per_hour=2)
    assert (status, list(problem["fields"])) == (422, ["usd_per_hour"])


async def test_what_vasts_clients_do_in_turn_is_done(house: House):
    vast = {"min_load": 0.0, "min_cold_load": 0.0, "target_util": 0.9, "cold_mult": 2.5, "cold_workers": 5, "max_workers": 20}
    for more in ({}, {"max_workers": 20}, {"test_workers": 3, "cold_workers": 3, "min_load": None}):
        endpoint = await house.endpoint(groups=0, **vast)
        status, made = await group(house, endpoint, search_params="", launch_args="", gpu_ram=24.0, **more)
        assert status == 200, made
        assert (await house.call("PUT", f"/api/v0/endptjobs/{endpoint.id}/", {"cold_workers": 7}))[0] == 200
        assert (await house.call("DELETE", f"/api/v0/autojobs/{made['id']}/"))[0] == 200


FILES = """
kind: Template
name: split
command: [serve]
---
kind: Endpoint
name: {name}
cold_workers: {cold}
groups:
  - {{name: a, template: split, max_workers: {a}}}
  - {{name: b, template: split, max_workers: {b}}}
"""


async def test_a_file_that_makes_sense_as_a_whole_is_applied_whatever_lies_between_its_steps(house: House):
    admin = Admin(Control(house.http, house.url, ADMIN_KEY))
    name = (await house.endpoint(groups=0)).name
    for cold, a, b in ((5, 2, 3), (7, 5, 2), (7, 2, 5), (2, 1, 1)):
        wanted = manifest.read([("f", "/", FILES.format(name=name, cold=cold, a=a, b=b))], {})
        await carry_out.carry_out(admin, wanted, plan.plan(wanted, await carry_out.current(admin, wanted)), lambda _: None)
        record = house.router.board.desks[(await admin.endpoint(name))["id"]].record
        assert (record.settings.cold_workers, [group.max_workers for group in record.groups]) == (cold, [a, b])
    with pytest.raises(BadRequest, match="cold_workers"):
        await admin.update_endpoint(name, {"cold_workers": 3})
    assert msgspec.to_builtins(await admin.endpoint(name))["cold_workers"] == 2
