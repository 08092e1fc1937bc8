"""What people do: roll out, split traffic, suspend, stop, delete. Nobody's request is cut for it."""

from __future__ import annotations

import pytest

from scaler.settings import ScalerSettings
from schemas import events
from schemas.ids import GroupId
from schemas.reasons import Cause
from schemas.records import Template
from schemas.states import EndpointState, WorkerState
from sim.weather import Weather
from sim.world import Kind, group

G1, G2 = GroupId(1), GroupId(2)
NEW = Template(name="model", command=("serve", "--new"))


def test_a_rollout_replaces_everybody_and_cuts_nobody(tell):
    """vllm-project/router 140 (pain 54): thousands of 503 in each rolling update.

    https://github.com/vllm-project/router/issues/140
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=8, min_load=290)
        await world.eventually(lambda: world.count(chat) == 3, 300)
        crowd = world.clients.steady(chat, rate=0.8, units=250, for_s=900)
        await world.until(world.now_s + 60)
        seen.update(old={record.worker_id for record in world.records(chat) if record.state is WorkerState.READY})
        await world.operator.changes_group(chat, G1, template=NEW)
        lowest = 3
        while any(record.revision == 1 for record in world.records(chat)):
            lowest = min(lowest, world.count(chat))
            await world.until(world.now_s + 1)
        seen.update(took_s=world.now_s, lowest=lowest, revisions=[record.revision for record in world.records(chat)])
        await world.until(world.now_s + 300)
        seen.update(crowd=crowd, drained=world.inspector.of(events.WorkerDrained))

    report = tell(story)
    served = {event.worker_id for event in seen["drained"]} & seen["old"]
    assert seen["lowest"] >= 3, "the new one serves before the old one goes"
    assert seen["revisions"] == [2, 2, 2]
    assert seen["crowd"].ended == {"answered": report.requests}
    assert not seen["crowd"].refusals and not seen["crowd"].cut
    assert seen["crowd"].share_within(5) > 0.97
    assert len(served) == 3 and not any(event.cut_short for event in seen["drained"])


def test_a_rollout_without_room_swaps_one_by_one(tell):
    """LLMKube 192, rune 250, serving-progressive-rollout 200 (pain 74): no spare GPU, the rollout deadlocks.

    https://github.com/defilantech/LLMKube/issues/192 https://github.com/runestack/rune/issues/250
    https://github.com/knative-extensions/serving-progressive-rollout/issues/200
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=3, min_load=290)
        await world.eventually(lambda: world.count(chat) == 3, 300)
        crowd = world.clients.steady(chat, rate=0.5, units=250, for_s=1000)
        await world.operator.changes_group(chat, G1, template=NEW)
        lowest = 3
        while any(record.revision == 1 for record in world.records(chat)):
            lowest = min(lowest, world.count(chat))
            assert world.now_s < 2000, "it is stuck"
            await world.until(world.now_s + 1)
        await world.eventually(lambda: world.count(chat) == 3, 200)
        seen.update(lowest=lowest, most=world.market.most[chat.id])
        await world.until(world.now_s + 200)
        seen.update(crowd=crowd)

    report = tell(story)
    assert seen["most"] == 3 and seen["lowest"] == 2, "one at a time"
    assert seen["crowd"].ended == {"answered": report.requests} and not seen["crowd"].cut


def test_a_broken_rollout_leaves_the_old_revision_serving(tell):
    """dstackai/dstack 4186 (pain 73): the new replica cannot be placed, the healthy old one is terminated.

    https://github.com/dstackai/dstack/issues/4186
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=190)
        await world.eventually(lambda: world.count(chat) == 2, 300)
        old = {rented.id for rented in world.market.of(chat.id)}
        crowd = world.clients.steady(chat, rate=0.5, units=250, for_s=1500)
        world.market.broken[G1, 2] = Cause.MODEL_OOM
        await world.operator.changes_group(chat, G1, template=NEW)
        await world.eventually(lambda: world.inspector.of(events.GroupHalted), 900)
        await world.until(world.now_s + 300)
        assert {rented.id for rented in world.market.of(chat.id)} == old, "nothing else is left, and they are"
        seen.update(creates=world.market.creates)
        # Back to what worked: a third revision like the first.
        await world.operator.changes_group(chat, G1, template=group().template)
        await world.eventually(lambda: [r.revision for r in world.records(chat)] == [3, 3], 600)
        await world.until(world.now_s + 200)
        seen.update(crowd=crowd)

    report = tell(story)
    assert seen["creates"] <= 2 + 3
    assert seen["crowd"].ended == {"answered": report.requests} and not seen["crowd"].cut


def test_a_superseded_rollout_stops_buying(tell):
    """skypilot 3051, dstack 2985 (pain 75): superseded versions keep provisioning; a new replica gets traffic before it is ready.

    https://github.com/skypilot-org/skypilot/issues/3051 https://github.com/dstackai/dstack/issues/2985
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=8, min_load=290)
        await world.eventually(lambda: world.count(chat) == 3, 300)
        crowd = world.clients.steady(chat, rate=0.5, units=250, for_s=800)
        await world.operator.changes_group(chat, G1, template=NEW)
        await world.eventually(lambda: any(r.order.revision == 2 for r in world.market.of(chat.id)), 60)
        await world.operator.changes_group(chat, G1, template=Template(name="model", command=("serve", "--newer")))
        await world.until(world.now_s + 30)
        assert not [r for r in world.market.of(chat.id) if r.order.revision == 2], "what was on its way is given back"
        await world.eventually(lambda: [r.revision for r in world.records(chat)] == [3, 3, 3], 600)
        await world.until(world.now_s + 200)
        seen.update(crowd=crowd, served=world.inspector.of(events.WorkerReady))

    report = tell(story)
    assert seen["crowd"].ended == {"answered": report.requests}
    assert not seen["crowd"].refusals, "nobody met a worker that was still loading"


@pytest.mark.parametrize("before_s", [0.1, 0.72, 0.78])
def test_who_becomes_ready_while_it_is_called_off_finishes_what_it_got(tell, before_s):
    """Requests wait for the first worker. It is told to go about when it is ready, and a router may have heard that first."""
    ready = {}

    async def first(world):
        chat = await world.operator.create("chat", group(), max_workers=1)
        world.clients.steady(chat, rate=0.5, units=2000, for_s=60)
        await world.eventually(lambda: world.count(chat) == 1, 300)
        ready.update(at_s=world.now_s)
        await world.until(200)

    async def again(world):
        chat = await world.operator.create("chat", group(), max_workers=1)
        world.clients.steady(chat, rate=0.5, units=2000, for_s=60)
        await world.until(ready["at_s"] - before_s)
        await world.operator.turns(chat, EndpointState.STOPPED)
        await world.eventually(lambda: not world.market.of(chat.id, "running"), 300)

    for story in (first, again):  # fails when a request was cut
        tell(story, weather=Weather(seed=1, delay_s=(0.001, 0.3)))


def test_suspended_stopped_deleted(tell):
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, inactivity_timeout=60)
        crowd = world.clients.steady(chat, rate=0.4, units=250, for_s=600)
        await world.until(300)
        hot = {rented.id for rented in world.market.of(chat.id, "running")}
        await world.operator.turns(chat, EndpointState.SUSPENDED)
        await world.until(1000)
        assert {rented.id for rented in world.market.of(chat.id, "running")} == hot, "suspended: workers stay as they are"
        await world.operator.turns(chat, EndpointState.STOPPED)
        await world.eventually(lambda: world.count(chat, WorkerState.STOPPED) == len(hot), 200)
        assert not world.market.of(chat.id, "running")
        late = world.clients.steady(chat, rate=0.5, units=100, for_s=20)
        await world.until(1300)
        assert set(late.ended) == {"EndpointStopped"}, "told at once, and why"
        await world.operator.turns(chat, EndpointState.ACTIVE)
        again = world.clients.steady(chat, rate=0.4, units=250, for_s=200)
        await world.until(1700)
        await world.operator.deletes(chat)
        await world.eventually(lambda: not world.market.of(chat.id), 300, "all is given back")
        seen.update(crowd=crowd, again=again)
        gone = world.clients.steady(chat, rate=0.5, units=100, for_s=20)
        await world.until(world.now_s + 60)
        assert set(gone.ended) == {"NotFound"}

    # With the engine that keeps who is hot: the one that learns has stopped one before we count who is running.
    tell(story, scaler=ScalerSettings(engine="reactive"))
    assert set(seen["crowd"].ended) == set(seen["again"].ended) == {"answered"}


def test_deleted_under_load_it_finishes_what_it_has(tell):
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=190)
        await world.eventually(lambda: world.count(chat) == 2, 300)
        crowd = world.clients.steady(chat, rate=0.6, units=250, for_s=300)
        await world.until(world.now_s + 150)
        here = sum(rented.worker.load.open for rented in world.market.of(chat.id))
        await world.operator.deletes(chat)
        await world.eventually(lambda: not world.market.of(chat.id), 300, "all is given back")
        await world.until(world.now_s + 200)
        seen.update(crowd=crowd, here=here)

    tell(story)
    assert seen["here"] >= 5
    assert set(seen["crowd"].ended) == {"answered", "NotFound"} and not seen["crowd"].cut


def test_a_tenth_of_ten_thousand_requests_reaches_the_new_group(tell):
    """Weights 90 to 10, over two routers, while workers come and go."""
    seen = {}

    async def story(world):
        old, new = group(1, weight=90.0, kind="a"), group(2, weight=10.0, kind="b")
        chat = await world.operator.create("chat", old, new, max_workers=20, min_load=950)
        await world.eventually(lambda: world.count(chat) == 10, 400)
        assert {record.group_id for record in world.records(chat)} == {G1, G2}
        crowd = world.clients.steady(chat, rate=12.0, units=10, for_s=850)
        await world.eventually(lambda: crowd.asked >= 10_000, 2000)
        await world.until(world.now_s + 20)
        seen.update(crowd=crowd, tickets=dict(crowd.by_group))

    report = tell(story, grain_s=1.0, kinds=(Kind(name="a", create_s=30), Kind(name="b", create_s=30)))
    tickets, total = seen["tickets"], sum(seen["tickets"].values())
    share = tickets[G2] / total
    print(f"weights 90/10: {tickets[G2]} of {total} requests reached the new group: {share:.3%}")
    assert seen["crowd"].ended == {"answered": report.requests}
    assert total >= 10_000
    assert abs(share - 0.10) <= 0.005
