"""What users of other systems suffer from, told with the real services: each must not happen here. The sources are public issues.

The pure ones are in tests/scaler/test_pains.py; docs/conformance.md lists them all.
"""

from __future__ import annotations

from collections import Counter

import pytest

from corral.budget import Budgets
from runtime.lease import LeaseTimes
from schemas import events, subjects
from schemas.states import WorkerState
from sim.world import Kind, group

HOUR_S = 3600.0


def one(world, endpoint, units=100.0):
    """One request, now."""
    return world.clients.come(endpoint, [(world.now_s, units)])


def test_pain_1_the_first_request_after_zero_succeeds(tell):
    """The first request to a zero-scaled app always fails, later ones work.

    https://github.com/kedacore/http-add-on/issues/432
    """

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=2, inactivity_timeout=30)
        for _ in range(3):
            first = one(world, chat)
            await world.eventually(lambda first=first: first.answered, 200)
            await world.eventually(lambda: not world.market.of(chat.id, "running"), 300, "back to zero")

    report = tell(story)
    assert report.ended == {"answered": 3}


@pytest.mark.parametrize("gateway_s", [0.0, 20.0], ids=["reached at once", "a gateway that lets nobody through for 20 s"])
def test_pain_2_ready_is_reachable(tell, gateway_s):
    """The first request gets a 502 and the second is fine: ready was not reachable.

    https://github.com/kedacore/http-add-on/issues/854
    """
    seen = Counter()

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=3, inactivity_timeout=20)
        for _ in range(4):
            crowd = world.clients.steady(chat, rate=2.0, units=50, for_s=60)
            await world.eventually(lambda crowd=crowd: crowd.came_all and not crowd.open, 300)
            seen.update(crowd.refusals)
            await world.eventually(lambda: not world.market.of(chat.id, "running"), 300)

    report = tell(story, kinds=(Kind(gateway_s=gateway_s),))
    assert report.ended == {"answered": report.requests}
    assert seen == {}, "nobody was sent where nobody listens"


def test_pain_3_from_zero_there_is_no_instant_refusal(tell):
    """A minor release broke scale-from-zero: an instant 503, and it never scales.

    https://github.com/kedacore/http-add-on/issues/1492
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=2)
        await world.until(5)
        crowd = one(world, chat)
        await world.until(6)
        assert crowd.open == 1, "it is held"
        await world.eventually(lambda: world.market.machines, 5, "and somebody is on the way")
        await world.eventually(lambda: crowd.answered, 200)
        seen.update(outcomes=[router.service.routing.outcomes for router in world.routers])

    tell(story)
    said = {outcome for outcomes in seen["outcomes"] for _, outcome in outcomes}
    assert said <= {"ready", "waiting_no_worker", "waiting_starting"}


@pytest.mark.parametrize("what_is_lost", ["nothing", "every message that is not stored"])
def test_pain_4_after_a_day_of_silence_a_request_still_wakes_the_endpoint(tell, what_is_lost):
    """After long idle the first request is held to its timeout and no scale-up is requested.

    https://github.com/kedacore/http-add-on/issues/1692
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=2)
        first = one(world, chat)
        await world.eventually(lambda: first.answered, 200)
        await world.until(26 * HOUR_S)
        assert not world.market.of(chat.id, "running")
        world.tempo.hold("awake")
        world.plan.weather.lost = 0.0 if what_is_lost == "nothing" else 0.999_999
        await world.until(world.now_s + 120)  # whoever slept with a coarse clock is awake
        calls = Counter(world.market.calls)
        crowd = one(world, chat)
        seen["woken_s"] = await world.eventually(
            lambda: world.market.calls["start"] + world.market.calls["create"] > calls["start"] + calls["create"], 30
        )
        world.plan.weather.lost = 0.0
        await world.eventually(lambda: crowd.answered, 200)

    tell(story, scalers=1, routers=1, grain_s=1.0, quiet_grain_s=60.0, lease=LeaseTimes(ttl_s=300, renew_s=60.0, margin_s=5.0))
    assert seen["woken_s"] <= 6


def test_pain_40_who_waits_goes_to_the_new_worker(tell):
    """Queued requests stay on the old pod after new pods are ready.

    https://github.com/knative/serving/issues/13096 https://github.com/knative/serving/issues/4107
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=5, min_load=90)
        await world.eventually(lambda: world.count(chat) == 1, 200)
        (old,) = world.market.machines
        burst = world.clients.come(chat, [(world.now_s + 0.05 * n, 300.0) for n in range(60)])  # 24 s each on one of 8 slots
        deepest = 0
        while not burst.came_all or burst.open:
            deepest = max(deepest, world.market.machines[old].worker.load.queued)
            await world.until(world.now_s + 0.5)
        seen.update(burst=burst, deepest=deepest, old=burst.by_worker[old])

    report = tell(story)
    assert report.ended == {"answered": 60}
    assert seen["deepest"] <= 8, "what waits, waits at the router, bound to nobody"
    assert seen["old"] < 45, "the new ones took their part of what had come before them"


def test_pain_41_equal_workers_get_equal_work(tell):
    """All traffic goes to one GPU pod, the others idle.

    https://github.com/kserve/kserve/issues/1520
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=4, min_load=390)
        await world.eventually(lambda: world.count(chat) == 4, 200)
        crowd = world.clients.steady(chat, rate=2.0, units=100, for_s=400)
        await world.eventually(lambda: crowd.came_all and not crowd.open, 600)
        seen.update(crowd=crowd)

    tell(story)
    shares = [count / seen["crowd"].answered for count in seen["crowd"].by_worker.values()]
    assert len(shares) == 4 and all(0.2 < share < 0.3 for share in shares)
    assert seen["crowd"].share_within(1.0) > 0.99


def test_pain_42_the_dead_get_no_tickets(tell):
    """The router keeps sending to dead or removed backends.

    https://github.com/vllm-project/production-stack/issues/420
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=290)
        await world.eventually(lambda: world.count(chat) == 3, 200)
        crowd = world.clients.steady(chat, rate=2.0, units=60, for_s=200)
        await world.until(world.now_s + 50)
        world.market.down = True  # and the provider says nothing of it
        await world.market.vanish(world.market.of(chat.id)[0].id)
        await world.until(world.now_s + 12)
        seen["at first"] = Counter(crowd.refusals)
        await world.until(world.now_s + 100)
        seen["later"] = crowd.refusals - seen["at first"]
        world.market.down = False
        seen["crowd"] = crowd

    report = tell(story)
    assert report.ended == {"answered": report.requests}
    assert seen["at first"]["connect_failed"] <= 8, "its silence and the clients' word are noticed within seconds"
    assert seen["later"] == {}


def test_pain_43_one_that_hangs_holds_up_nobody_else(tell):
    """One hung backend blocks the router for all.

    https://github.com/vllm-project/production-stack/issues/749
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=290)
        await world.eventually(lambda: world.count(chat) == 3, 200)
        world.market.of(chat.id)[0].worker.stuck = True
        crowd = world.clients.steady(chat, rate=1.0, units=60, for_s=400, budgets=Budgets(first_byte_s=60.0))
        await world.eventually(lambda: crowd.came_all and not crowd.open, 600)
        seen.update(crowd=crowd)

    tell(story)
    crowd = seen["crowd"]
    assert crowd.ended["answered"] >= 0.8 * crowd.asked, "it holds its slots' worth and no more"
    assert set(crowd.ended) == {"answered", "first_byte budget"}
    assert crowd.share_within(1.0) > 0.99


def test_pain_44_nobody_meets_a_worker_that_is_still_loading(tell):
    """Requests reach a worker whose model is still loading; here the most dangerous one is that which was ready before.

    https://github.com/vllm-project/production-stack/issues/619
    """
    seen = Counter()

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=3, inactivity_timeout=10)
        for _ in range(5):
            crowd = world.clients.steady(chat, rate=3.0, units=40, for_s=30)
            await world.eventually(lambda crowd=crowd: crowd.came_all and not crowd.open, 300)
            seen.update(crowd.refusals)
            await world.eventually(
                lambda: world.count(chat, WorkerState.STOPPED) and not world.market.of(chat.id, "running"), 300
            )

    report = tell(story)
    assert report.ended == {"answered": report.requests}
    assert seen["loading"] == 0


def test_pain_45_abandoned_requests_leave_no_trace_in_the_counts(tell):
    """An in-flight counter leaks on errors and goes negative, so the replica attracts traffic.

    https://github.com/skypilot-org/skypilot/issues/10444
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=3, min_load=290)
        await world.eventually(lambda: world.count(chat) == 3, 200)
        hasty = world.clients.steady(chat, rate=3.0, units=50, for_s=120, budgets=Budgets(first_byte_s=1.0))
        world.market.of(chat.id)[0].worker.stuck = True
        await world.eventually(lambda: hasty.came_all and not hasty.open, 300)
        world.market.of(chat.id)[0].worker.stuck = False
        await world.until(world.now_s + 15)
        workers = [w for router in world.routers for w in router.service.board.desks[chat.id].fleet.workers.values()]
        assert [(w.inflight, w.promised) for w in workers] == [(0, 0)] * 6
        calm = world.clients.steady(chat, rate=2.0, units=50, for_s=150)
        await world.eventually(lambda: calm.came_all and not calm.open, 300)
        seen.update(hasty=hasty, calm=calm)

    tell(story)
    assert seen["hasty"].ended["first_byte budget"] > 0.5 * seen["hasty"].asked
    shares = [count / seen["calm"].answered for count in seen["calm"].by_worker.values()]
    assert len(shares) == 3 and all(0.26 < share < 0.41 for share in shares)


def test_pain_51_scale_down_waits_for_the_longest_answer(tell):
    """In-flight and queued requests are aborted 5 s after SIGTERM; the client sees a 500.

    https://github.com/ai-dynamo/dynamo/issues/13559 https://github.com/gpustack/gpustack/issues/6059
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=4, inactivity_timeout=10)
        crowd = world.clients.come(chat, [(5.0 + n, 250.0 * (1 + n % 8)) for n in range(24)])  # 20 s to 160 s each
        slow = world.clients.come(chat, [(90.0, 5000.0)])  # 400 s
        await world.eventually(lambda: crowd.came_all and not crowd.open and slow.answered, 900)
        await world.eventually(lambda: not world.market.of(chat.id, "running"), 400)
        seen.update(crowd=crowd, drained=world.inspector.of(events.WorkerDrained))

    report = tell(story)
    assert report.ended == {"answered": 25}
    assert seen["drained"] and all((event.inflight, event.cut_short) == (0, False) for event in seen["drained"])


def test_pain_60_it_always_says_why_it_does_nothing(tell):
    """The autoscaler left no trace why it did nothing.

    https://github.com/FootprintAI/Containarium/issues/1469
    """
    seen = []

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=2)
        world.clients.steady(chat, rate=0.05, units=100, for_s=1200)

        def heard(stored):
            if stored.subject == subjects.event("decision", chat.id):
                last = world.inspector.told[chat.id].last
                seen.append((last.at, last.reason, last.inputs))

        world.broker.stream(subjects.STREAM_EVENTS).listeners.append(heard)
        await world.until(4 * HOUR_S)

    tell(story, scalers=1, routers=1, grain_s=2.0, quiet_grain_s=10.0)
    gaps = [after[0] - before[0] for before, after in zip(seen, seen[1:], strict=False)]
    assert max(gaps) <= 320
    assert all(reason and inputs for _, reason, inputs in seen)
    assert any("no request for" in reason for _, reason, _ in seen)


def test_pain_25_a_purchase_that_nobody_needs_any_more_is_given_back(tell):
    """Pods pend for more than an hour with no GPU; the planner never cancels.

    https://github.com/ai-dynamo/dynamo/issues/14251
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=6, min_load=90)
        await world.eventually(lambda: world.count(chat) == 1, 700)
        keeps = {rented.id for rented in world.market.of(chat.id)}
        await world.operator.sets(chat, min_load=590)
        await world.eventually(lambda: len(world.market.of(chat.id)) == 6, 60)
        await world.operator.sets(chat, min_load=90)
        seen["took_s"] = await world.eventually(lambda: {rented.id for rented in world.market.of(chat.id)} == keeps, 300)

    tell(story, kinds=(Kind(create_s=300.0),))
    assert seen["took_s"] <= 90


def test_pain_26_up_and_down_in_turns(tell):
    """ray 18925: up to N, the average queue drops, down to 1, repeat. Here requests come at random, at a constant rate.

    https://github.com/ray-project/ray/issues/18925
    """
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=12)
        world.clients.steady(chat, rate=0.7, units=500, for_s=1200)
        await world.until(1200)
        crowd = world.clients.steady(chat, rate=0.7, units=500, for_s=1200)
        counts = await world.counts(chat, for_s=1200)
        await world.until(2500)
        seen.update(crowd=crowd, counts=counts)

    tell(story, grain_s=1.0)
    assert set(seen["crowd"].ended) == {"answered"}
    assert min(seen["counts"]) >= 4, "350 units a second are the work of three and a half"
    assert max(seen["counts"]) - min(seen["counts"]) <= 3
