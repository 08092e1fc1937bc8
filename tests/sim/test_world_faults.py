"""Somebody dies, or the network does. The inspector of each world watches the rules all along (see sim.world.inspector)."""

from __future__ import annotations

import pytest

from scaler.settings import ScalerSettings
from schemas import events
from sim.weather import Weather
from sim.world import Kind, group

MINUTE_S = 60.0


def test_the_leader_is_killed_every_ten_minutes(tell):
    """Six leaders die within an hour. Workers serve on, nothing is bought twice, the chain of decisions goes on."""
    seen = {}

    async def an_hour(world):
        chat = await world.operator.create("chat", group(), max_workers=5)
        crowd = world.clients.steady(chat, rate=0.12, units=1500, for_s=3600)
        leaders = []

        async def kill():
            leader = world.leader
            leaders.append(leader.name)
            world.spawn(leader.crash_for(30), "assassin")

        world.every(10 * MINUTE_S, kill, "assassin")
        await world.until(3700)
        seen.update(crowd=crowd, leaders=leaders, most=world.market.most[chat.id], creates=world.market.creates)

    # With the engine that keeps whoever it bought: the one that learns gives back who is still on the way when the load falls, and buys
    # another when it rises, so that its purchases are more than ever existed at once.
    report = tell(an_hour, grain_s=2.0, scaler=ScalerSettings(engine="reactive"))
    assert len(seen["leaders"]) == 6 and len(set(seen["leaders"])) == 2
    assert seen["crowd"].ended == {"answered": report.requests}
    assert not seen["crowd"].cut
    assert seen["creates"] == seen["most"], "whoever comes next counts what was bought before"


def test_the_provisioner_is_killed_in_the_middle_of_every_third_create(tell):
    """Before the provider did it, and after: both times the machine exists once, and somebody knows of it."""
    seen = {}

    async def story(world):
        killed = []

        def kill(number, moment):
            if number % 3 == 0 and moment == ("before", "after")[number // 3 % 2]:
                killed.append(number)
                world.spawn(world.provisioners[0].crash_for(4), "assassin")

        world.market.during_create = kill
        for n in range(1, 9):
            chat = await world.operator.create(f"chat-{n}", group(n), max_workers=3, min_load=250)
            await world.eventually(lambda chat=chat: world.count(chat) == 3, 600, "three are ready")
            assert len(world.market.of(chat.id)) == 3
            await world.operator.deletes(chat)
            await world.eventually(lambda chat=chat: not world.market.of(chat.id), 300, "all are given back")
        seen.update(killed=killed, creates=world.market.creates, calls=world.market.calls["create"])

    tell(story, grain_s=1.0, kinds=(Kind(create_s=25),))
    assert len(seen["killed"]) >= 8
    assert seen["creates"] == 24, "three for each of eight endpoints, none twice"


def test_two_provisioners_are_killed_in_turns_while_the_market_is_busy(tell):
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=8, inactivity_timeout=20)

        def rate(at_s):
            return 0.6 if at_s % 900 < 500 else 0.0

        crowd = world.clients.come(chat, world.clients.poisson(rate, 0.6, 500, 1500))
        victims = iter(world.provisioners * 100)
        world.every(47, lambda: next(victims).crash_for(7), "assassin")
        await world.until(1800)
        seen.update(crowd=crowd)

    report = tell(story, grain_s=1.0, provisioners=2, busy=0.2, kinds=(Kind(create_s=30, fails=0.05),))
    assert seen["crowd"].ended == {"answered": report.requests}


@pytest.mark.parametrize("engine", ["reactive", "ensemble"])
def test_the_bus_is_gone_for_a_minute_under_load(tell, engine):
    """ai-dynamo/dynamo 3493, ray 64241 (pain 77): a hiccup of the control plane's store takes serving down.

    Tickets are given out and requests served all the time; what was under way goes on after the return.
    https://github.com/ai-dynamo/dynamo/issues/3493 https://github.com/ray-project/ray/issues/64241
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=4, min_load=150)
        await world.eventually(lambda: world.count(chat) == 2, 300)
        crowd = world.clients.steady(chat, rate=1.0, units=100, for_s=900)
        for _ in range(3):
            await world.until(world.now_s + 120)
            before = crowd.answered
            world.broker.go_down()
            await world.until(world.now_s + 60)
            seen["meanwhile"] = crowd.answered - before
            assert seen["meanwhile"] > 40, "routing needs no broker"
            assert world.leader is None, "and nobody decides without one"
            world.broker.come_up()
        await world.eventually(lambda: world.leader, 60)
        await world.until(world.now_s + 400)
        assert world.count(chat) == 2
        seen.update(crowd=crowd, creates=world.market.creates)

    report = tell(story, scaler=ScalerSettings(engine=engine))
    assert seen["crowd"].ended == {"answered": report.requests}
    assert seen["creates"] == 2, "what came meanwhile is no burst"
    assert not seen["crowd"].refusals and seen["crowd"].share_within(5) > 0.99


def test_all_heartbeats_are_silent_for_five_minutes(tell):
    """Silence of all is our network: frozen, nobody is killed, everybody goes on serving."""
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=250)
        await world.eventually(lambda: world.count(chat) == 3, 300)
        crowd = world.clients.steady(chat, rate=0.8, units=200, for_s=900)
        await world.until(world.now_s + 100)
        before, gone = crowd.answered, len(world.inspector.of(events.WorkerLost))
        world.market.silent = True
        await world.until(world.now_s + 300)
        assert world.inspector.of(events.TelemetryFrozen)
        assert not world.inspector.of(events.TelemetryThawed)
        seen["meanwhile"] = crowd.answered - before
        world.market.silent = False
        await world.eventually(lambda: world.inspector.of(events.TelemetryThawed), 10)
        await world.until(world.now_s + 500)
        assert len(world.inspector.of(events.WorkerLost)) == gone == 0
        assert world.count(chat) == 3
        seen.update(crowd=crowd, creates=world.market.creates, destroys=world.market.calls["destroy"])

    report = tell(story)
    assert seen["meanwhile"] > 200
    assert seen["crowd"].ended == {"answered": report.requests}
    assert seen["crowd"].share_within(5) > 0.99, "without any report routers still know what they gave to whom"
    assert (seen["creates"], seen["destroys"]) == (3, 0)


def test_one_worker_is_silent_among_others(tell):
    """It is that one: no tickets, replaced; the others never notice."""
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=250)
        await world.eventually(lambda: world.count(chat) == 3, 300)
        crowd = world.clients.steady(chat, rate=0.5, units=200, for_s=400)
        victim = world.market.of(chat.id)[0]
        victim.worker.silent = True
        await world.until(world.now_s + 20)
        served = crowd.by_worker[victim.id]
        await world.eventually(lambda: victim.id not in world.market.machines, 120, "it is given back")
        assert crowd.by_worker[victim.id] <= served + 1, "no tickets for the lost one"
        await world.eventually(lambda: world.count(chat) == 3, 200, "it is replaced")
        await world.until(world.now_s + 200)
        seen.update(crowd=crowd, lost=len(world.inspector.of(events.WorkerLost)))

    report = tell(story)
    assert seen["crowd"].ended == {"answered": report.requests}
    assert seen["lost"] == 1


def test_a_router_dies_and_another_and_nobody_is_lost(tell):
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=4)
        crowd = world.clients.steady(chat, rate=2.0, units=100, for_s=600)
        for n in range(10):
            await world.until(30 + 55 * n)
            await world.routers[n % 2].crash_for(5)
        await world.until(700)
        seen.update(crowd=crowd)

    report = tell(story)
    assert seen["crowd"].ended == {"answered": report.requests}


def test_a_router_is_cut_off_for_five_minutes_under_load(tell):
    """It goes on routing by its last view, unseen: nobody takes that for clients that left, and no return for a burst."""
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=12)
        world.clients.steady(chat, rate=1.5, units=300, for_s=900)
        await world.until(900)
        crowd = world.clients.steady(chat, rate=1.5, units=300, for_s=900)
        world.routers[0].bus.cut()
        counts = await world.counts(chat, for_s=300)
        world.routers[0].bus.heal()
        counts += await world.counts(chat, for_s=600)
        await world.until(1900)
        seen.update(crowd=crowd, counts=counts)

    tell(story, routers=1, scaler=ScalerSettings(engine="ensemble"))
    assert seen["crowd"].ended == {"answered": seen["crowd"].answered}
    assert min(seen["counts"]) >= 5, "450 units a second are the work of four and a half"
    assert max(seen["counts"]) <= 8
    assert seen["crowd"].share_within(5) > 0.95


def test_everything_at_once(tell):
    """Bad weather, a busy market, bad machines, and every few minutes somebody is killed."""
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, inactivity_timeout=60)

        def rate(at_s):
            return 0.4 if at_s % 1200 < 600 else 0.0

        crowd = world.clients.come(chat, world.clients.poisson(rate, 0.5, 400, 2700, sigma=0.8))
        everybody = [*world.scalers, *world.routers, *world.provisioners]
        victims = iter(everybody * 50)
        world.every(2.5 * MINUTE_S, lambda: next(victims).crash_for(10), "assassin")
        await world.until(3000)
        seen.update(crowd=crowd)

    report = tell(
        story,
        seed=11,
        grain_s=1.0,
        busy=0.1,
        kinds=(Kind(create_s=40, start_s=10, fails=0.05, hangs=0.01),),
        weather=Weather(seed=4, delay_s=(0.001, 0.1), lost=0.02, duplicated=0.05, lost_replies=0.02),
    )
    assert seen["crowd"].ended == {"answered": report.requests}
