"""What the market does to its customers: broken templates, bad hosts, machines taken back, nothing on offer."""

from __future__ import annotations

from collections import Counter

import pytest

from schemas import events
from schemas.ids import GroupId
from schemas.reasons import Cause, Why
from schemas.records import Template
from schemas.states import WorkerState
from sim.world import Kind, group

G1, G2 = GroupId(1), GroupId(2)


def test_a_broken_template_costs_three_starts_and_is_mended_by_a_new_revision(tell):
    seen = {}

    async def story(world):
        world.market.broken[G1, 1] = Cause.MODEL_DOWNLOAD
        chat = await world.operator.create("chat", group(), max_workers=5)
        crowd = world.clients.steady(chat, rate=0.2, units=100, for_s=1500)
        await world.until(1500)
        halted = world.inspector.of(events.GroupHalted)
        assert [(event.group_id, event.failures, event.failure.cause) for event in halted] == [(G1, 3, Cause.MODEL_DOWNLOAD)]
        assert not world.market.of(chat.id), "nothing is left running"
        seen.update(creates=world.market.creates, cost=world.market.cost_usd(G1), told_usd=halted[0].cost_usd)
        assert world.inspector.told[chat.id].last.why is Why.BREAKER_OPEN
        template = Template(name="model", command=("serve", "--mended"))
        await world.operator.changes_group(chat, G1, template=template)
        await world.eventually(lambda: world.count(chat), 200, "the mended one is ready")
        await world.until(world.now_s + 200)
        seen.update(crowd=crowd)

    tell(story)
    assert seen["creates"] == 3
    assert seen["cost"] < 3 * 1.0 * 180 / 3600, "three starts of at most three minutes at $1 an hour"
    assert seen["told_usd"] == pytest.approx(seen["cost"], rel=0.3)
    assert seen["crowd"].ended["answered"] > 0.4 * seen["crowd"].asked
    assert set(seen["crowd"].ended) <= {"answered", "queue budget"}, "whoever gave up was told why"


def test_one_bad_host_is_left_alone(tell):
    """The market offers it first each time, and the model never loads there."""
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=8, min_load=90)
        await world.eventually(lambda: world.count(chat) == 1, 300)
        world.market.bad_hosts.add("host-1")
        await world.operator.sets(chat, min_load=690)
        await world.eventually(lambda: world.count(chat) == 7, 1500, "seven are ready")
        seen.update(creates=world.market.creates, halts=world.inspector.of(events.GroupHalted))
        seen["hosts"] = sorted(rented.host for rented in world.market.of(chat.id))
        await world.until(world.now_s + 600)
        assert world.count(chat) == 7

    tell(story, kinds=(Kind(create_s=40, per_host=2),))
    assert "host-1" not in seen["hosts"]
    assert seen["halts"] == []
    assert seen["creates"] <= 7 + 2 + 1


def test_one_bad_host_that_is_offered_first_is_not_taken_for_a_bad_template(tell):
    """The template never ran before."""
    seen = {}

    async def story(world):
        world.market.bad_hosts.add("host-0")
        chat = await world.operator.create("chat", group(), max_workers=8, min_load=90)
        await world.eventually(lambda: world.count(chat) == 1, 600, "one is ready elsewhere")
        seen.update(creates=world.market.creates, halts=world.inspector.of(events.GroupHalted))

    tell(story, kinds=(Kind(create_s=40, per_host=2),))
    assert seen["creates"] == 2
    assert seen["halts"] == []


def test_preempted_with_notice_it_is_replaced_first(tell):
    """skypilot-org/skypilot 5371, dstack 1078 (pain 56): want reaction to interruption notices.

    https://github.com/skypilot-org/skypilot/issues/5371 https://github.com/dstackai/dstack/issues/1078
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=190)
        await world.eventually(lambda: world.count(chat) == 2, 300)
        crowd = world.clients.steady(chat, rate=0.5, units=200, for_s=900)
        await world.until(world.now_s + 60)
        victim = world.market.of(chat.id)[0]
        world.market.preempt(victim.id, 300.0)
        lowest = 2
        while victim.id in world.market.machines:
            lowest = min(lowest, world.count(chat))
            await world.until(world.now_s + 1)
        seen.update(lowest=lowest, gone_s=victim.gone_at - world.broker.now())
        await world.until(world.now_s + 300)
        assert world.count(chat) == 2
        seen.update(crowd=crowd, drained=world.inspector.of(events.WorkerDrained))

    report = tell(story)
    assert seen["lowest"] == 2, "the replacement is ready before it goes"
    assert seen["gone_s"] > 0, "and it is given back before it is taken"
    assert [event.cut_short for event in seen["drained"]] == [False]
    assert seen["crowd"].ended == {"answered": report.requests} and not seen["crowd"].cut


def test_preempted_without_notice_its_requests_go_elsewhere(tell):
    """cortexlabs/cortex 1447 (pain 55): spot loss, in-flight requests hang for ever, queued ones get 503.

    https://github.com/cortexlabs/cortex/issues/1447
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=190)
        await world.eventually(lambda: world.count(chat) == 2, 300)
        crowd = world.clients.steady(chat, rate=0.7, units=200, for_s=400)
        await world.until(world.now_s + 60)
        await world.market.vanish(world.market.of(chat.id)[0].id)
        await world.eventually(lambda: world.count(chat) == 2, 200, "replaced")
        await world.until(world.now_s + 300)
        seen.update(crowd=crowd)

    report = tell(story)
    assert seen["crowd"].cut["vanished"] >= 1
    assert seen["crowd"].ended == {"answered": report.requests}


def test_a_spike_overflows_to_the_cheap_tier_and_comes_back(tell):
    seen = {}

    async def story(world):
        chat = await world.operator.create(
            "chat",
            group(1, kind="big", expected_perf=200.0),
            group(2, kind="cheap", tier=1, expected_perf=50.0),
            max_workers=20,
            inactivity_timeout=60,
        )

        def rate(at_s):
            return 0.75 if 900 <= at_s < 1800 else 0.22

        crowd = world.clients.come(chat, world.clients.poisson(rate, 0.75, 1200, 4200, sigma=0.5))

        async def tickets(begin_s, end_s):
            await world.until(begin_s)
            then = Counter(crowd.by_group)
            await world.until(end_s)
            return crowd.by_group - then

        seen["before"] = await tickets(450, 890)
        seen["spike"] = await tickets(900, 1800)
        seen["running"] = {rented.kind.name for rented in world.market.of(chat.id, "running")}
        seen["after"] = await tickets(3200, 4200)
        seen.update(crowd=crowd)

    kinds = (
        Kind(name="big", perf=200.0, slots=16, usd_per_hour=2.0, stock=2, create_s=40),
        Kind(name="cheap", perf=50.0, slots=4, usd_per_hour=0.4, create_s=30),
    )
    report = tell(story, kinds=kinds, grain_s=2.0)
    assert seen["before"][G2] <= 0.02 * seen["before"][G1]
    assert seen["running"] == {"big", "cheap"}
    assert seen["spike"][G2] > 0.3 * seen["spike"][G1]
    assert seen["after"][G2] <= 0.02 * seen["after"][G1], "no more than a burst now and then"
    assert seen["crowd"].ended == {"answered": report.requests}


def test_nothing_on_offer_is_no_fault_of_the_template(tell):
    seen = {}

    async def story(world):
        world.market.sold_out.add("")
        chat = await world.operator.create("chat", group(), max_workers=3)
        crowd = world.clients.steady(chat, rate=0.05, units=100, for_s=1800)
        await world.until(1800)
        calls = world.market.calls["create"]
        assert not world.inspector.of(events.GroupHalted)
        world.market.sold_out.clear()
        await world.eventually(lambda: world.count(chat), 700, "bought as soon as there is something")
        await world.until(world.now_s + 100)
        seen.update(crowd=crowd, calls=calls)

    tell(story, grain_s=1.0)
    assert seen["calls"] < 40, "it backs off"
    assert seen["crowd"].ended["answered"] > 0


def test_the_market_is_down_for_twenty_minutes_and_nobody_is_harmed(tell):
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=190)
        await world.eventually(lambda: world.count(chat) == 2, 300)
        crowd = world.clients.steady(chat, rate=0.6, units=200, for_s=2000)
        world.market.down = True
        await world.operator.sets(chat, min_load=290)
        await world.until(world.now_s + 1200)
        assert world.count(chat) == 2
        world.market.down = False
        await world.eventually(lambda: world.count(chat) == 3, 900)
        await world.until(world.now_s + 100)
        assert world.count(chat, WorkerState.READY) == len(world.market.of(chat.id)) == 3
        seen.update(crowd=crowd)

    report = tell(story, grain_s=1.0)
    assert seen["crowd"].ended == {"answered": report.requests}
