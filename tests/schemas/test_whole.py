"""What an endpoint's parts ask of each other."""

import msgspec
import pytest

from runtime import topology
from schemas import codec, subjects, whole
from schemas.commands import CreateWorker
from schemas.ids import CommandId, EndpointId, GroupId, WorkerId
from schemas.records import (
    MAX_QUERY_CHARS,
    MAX_TEMPLATE_BYTES,
    Override,
    ScalingSettings,
    Schedule,
    Template,
    WorkerGroup,
)
from schemas.states import EndpointState

TEMPLATE = Template(name="t", command=("serve",))
NOON = Schedule(cron="0 12 * * *", lasts_s=3600, hot_min=4)
ADA = Override(owner="ada", expires_at=1e12, hot_min=4)


def groups(*fields):
    return [WorkerGroup(id=GroupId(n), template=TEMPLATE, name=f"g{n}", **given) for n, given in enumerate(fields, 1)]


@pytest.mark.parametrize(
    ("given", "settings", "more", "sentence"),
    [
        (
            [{"max_workers": 1}],
            {"cold_workers": 3},
            (),
            "cold_workers (3) is more than worker group g1 may have (1): raise max_workers of a group, or lower cold_workers",
        ),
        (
            [{"max_workers": 1}, {"max_workers": 2}],
            {"cold_workers": 4},
            (),
            "cold_workers (4) is more than the worker groups may have together (3): raise max_workers of a group, or lower cold_workers",
        ),
        ([{"max_workers": 1}, {"weight": 0.0}], {"cold_workers": 2}, (), "than worker group g1 may have (1)"),
        ([{"max_workers": 3}], {}, ([NOON],), "schedules[0]: hot_min (4) is more than worker group g1 may have (3)"),
        ([{"max_workers": 3}], {}, ([], ADA), "hot_min (4) of the override of ada is more than worker group g1 may have (3)"),
        (
            [{"max_workers": 0}],
            {"min_load": 10.0},
            (),
            "min_load (10) keeps some hot, and worker group g1 may have no worker: raise",
        ),
        ([{"max_workers": 0}], {"min_cold_load": 10.0}, (), "min_cold_load (10) keeps some in reserve, and worker group g1 may"),
        (
            [{"max_workers": 0}, {"max_workers": 0}],
            {"inactivity_timeout": -1.0},
            (),
            "says never to go to zero, and no worker group may have a worker: raise max_workers of a group, or set inactivity_timeout",
        ),
    ],
)
def test_floors_above_what_the_groups_may_have(given, settings, more, sentence):
    (said,) = whole.problems(ScalingSettings(**settings), groups(*given), *more)
    assert sentence in said


@pytest.mark.parametrize(
    "given",
    [
        [],  # no group yet: Vast's clients make the endpoint first
        [{}],  # as Vast's clients make it
        [{"max_workers": 1}, {}],
        [{"max_workers": 4}],
        [{"max_workers": 2}, {"max_workers": 2}],
        [{"weight": 0.0}, {"weight": 0.0, "max_workers": 1}],  # paused
        [{"max_workers": 1}, {"provider": "external"}],  # people may bring any number
    ],
)
def test_where_the_groups_may_have_enough_nothing_is_said(given):
    settings = ScalingSettings(cold_workers=4, min_load=10.0, inactivity_timeout=-1.0)
    assert whole.problems(settings, groups(*given), [NOON], ADA) == ()


def test_nothing_to_keep_is_no_contradiction_to_nothing():
    settings = ScalingSettings(cold_workers=0, min_load=0.0, min_cold_load=0.0, inactivity_timeout=0.0)
    assert whole.problems(settings, groups({"max_workers": 0})) == ()


# what Vast's clients send, together: their command line, their OpenAPI files, their web page, `run benchmarks`
@pytest.mark.parametrize(
    ("settings", "group"),
    [
        ({"min_load": 0.0, "min_cold_load": 0.0, "cold_mult": 2.5, "cold_workers": 5, "max_workers": 20}, {}),
        ({"min_load": 10.0, "cold_mult": 2.5, "cold_workers": 5, "max_workers": 20}, {"max_workers": 20}),
        ({"min_load": 1.0, "cold_mult": 3.0, "cold_workers": 5, "max_workers": 16}, {"max_workers": 20}),
        ({"min_load": 1.0, "cold_workers": 1, "max_workers": 1}, {}),
    ],
)
def test_what_vasts_clients_send_by_default_makes_sense_together(settings, group):
    assert whole.problems(ScalingSettings(**settings), groups(group)) == ()


def test_a_price_above_the_groups_own_cap():
    (one,) = groups({"usd_per_hour": 5.0, "price_cap_usd_per_hour": 2.0})
    assert one.problems() == {
        "usd_per_hour": "(5) is more than price_cap_usd_per_hour (2) allows: raise the cap, or take it away"
    }
    (one,) = groups({"usd_per_hour": 2.0, "price_cap_usd_per_hour": 2.0})
    assert one.problems() == {}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"start_timeout_s": 0}, "start_timeout_s"),
        ({"start_timeout_s": float("nan")}, "start_timeout_s"),
        ({"stop_timeout_s": float("inf")}, "stop_timeout_s"),
        ({"gpus": -1}, "gpus"),
        ({"slots": -4}, "slots"),
        ({"disk_gb": float("nan")}, "disk_gb"),
        ({"command": ()}, "command"),
        ({"name": "a b"}, "name"),
        ({"env": {"PROMPT": "x" * MAX_TEMPLATE_BYTES}}, "env"),
        ({"command": ("serve", "x" * MAX_TEMPLATE_BYTES)}, "command"),
    ],
)
def test_a_template_that_cannot_be(fields, wrong):
    assert list(Template(**{"name": "t", "command": ("x",), **fields}).problems()) == [wrong]


def test_the_largest_template_and_query_still_make_a_command_that_the_bus_takes():
    """In characters that take the most bytes, and with everything else that a command may say."""
    room = MAX_TEMPLATE_BYTES - len(codec.encode(Template(name="t", command=("",))))
    template = Template(name="t", command=("x" * room,))
    (group,) = groups({"search_params": "\N{EARTH GLOBE EUROPE-AFRICA}" * MAX_QUERY_CHARS})
    assert template.problems() == {} == group.problems()
    assert list(Template(name="t", command=("x" * (room + 1),)).problems()) == ["command"]
    assert list(msgspec.structs.replace(group, search_params=group.search_params + "x").problems()) == ["search_params"]
    create = CreateWorker(
        command_id=CommandId("c" * 40),
        endpoint_id=EndpointId(1),
        worker_id=WorkerId("w" * 40),
        issued_at=1.0,
        deadline_at=2.0,
        template=template,
        search_params=group.search_params,
        avoid_hosts=tuple(f"{n:03}" + "h" * 60 for n in range(32)),
        reason="s" * 2000,
    )
    (commands,) = [stream for stream in topology.streams(1) if stream.name == subjects.STREAM_COMMANDS]
    assert len(codec.encode(create)) < commands.max_msg_size


def test_a_template_that_can_be():
    assert Template(name="t", image="i", gpus=2, slots=4, disk_gb=10.0).problems() == {}


@pytest.mark.parametrize("state", [EndpointState.STOPPED, EndpointState.SUSPENDED])
def test_an_override_that_would_do_nothing_names_the_way_out(state):
    override = Override(owner="ada", expires_at=60.0, hot_min=3)
    (sentence,) = override.problems(ScalingSettings(), 0.0, state)
    assert f"hot_min (3) would do nothing, because the endpoint is {state}" in sentence
    assert "`corral endpoint resume`" in sentence
    assert Override(owner="ada", expires_at=60.0, hot_max=3).problems(ScalingSettings(), 0.0, state) == ()
    assert Override(owner="ada", expires_at=60.0, hot_min=0).problems(ScalingSettings(), 0.0, state) == ()
