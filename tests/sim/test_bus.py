"""The bus in memory keeps the promises of runtime.bus, in good weather and in bad."""

import asyncio
import contextlib

import msgspec
import pytest

from runtime.errors import BusRefused, BusUnavailable, Conflict, StreamMissing
from schemas import subjects
from schemas.commands import DeadLetter
from schemas.ids import EndpointId
from sim.broker import Broker, matches
from sim.bus import MemoryBus
from sim.virtual_time import run_virtual
from sim.weather import Weather

E1 = EndpointId(1)
CREATE = subjects.command("create", E1)


def story(play):
    """Run an async test in virtual time, on a perfect network unless it says otherwise."""

    def test():
        run_virtual(play(Broker()))

    test.__name__ = play.__name__
    test.__doc__ = play.__doc__
    return test


async def until(condition, limit_s=3600.0):
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def running(*coroutines):
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    "pattern,subject,wanted",
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.*.c", "a.b.c", True),
        ("*.b", "a", False),
        (">", "a.b", True),
    ],
)
def test_wildcards(pattern, subject, wanted):
    assert matches(pattern, subject) is wanted


@story
async def test_core_messages_come_in_order_to_those_who_listen(broker):
    broker.weather.delay_s = (0.01, 0.5)
    one, two = MemoryBus(broker, "one"), MemoryBus(broker, "two")
    got = []
    subscription = await two.subscribe("x.*", lambda message: got.append((message.subject, message.data)))
    for k in range(50):
        await one.publish(f"x.{k}", b"%d" % k)
    await one.publish("y.1", b"")
    await asyncio.sleep(2)
    assert got == [(f"x.{k}", b"%d" % k) for k in range(50)]
    await subscription.stop()
    await one.publish("x.1", b"")
    await asyncio.sleep(2)
    assert len(got) == 50


@story
async def test_bad_weather_loses_and_repeats_core_messages(broker):
    broker.weather.lost = 0.2
    one, two = MemoryBus(broker, "one"), MemoryBus(broker, "two")
    got = []
    await two.subscribe("x", got.append)
    for _ in range(1000):
        await one.publish("x", b"")
    await asyncio.sleep(1)
    assert 750 < len(got) < 850
    got.clear()
    broker.weather.lost, broker.weather.duplicated = 0.0, 0.1
    for _ in range(1000):
        await one.publish("x", b"")
    await asyncio.sleep(1)
    assert 1070 < len(got) < 1130


@story
async def test_who_is_cut_off_is_told_so_at_once_and_hears_nothing(broker):
    one, two = MemoryBus(broker, "one"), MemoryBus(broker, "two")
    got = []
    await two.subscribe("x", got.append)
    two.cut()
    await one.publish("x", b"lost")
    with pytest.raises(BusUnavailable):
        await two.publish("x", b"")
    two.heal()
    await one.publish("x", b"heard")
    await asyncio.sleep(1)
    assert [message.data for message in got] == [b"heard"]


@story
async def test_requests_are_answered_or_unavailable(broker):
    one, two = MemoryBus(broker, "one"), MemoryBus(broker, "two")

    async def answer(message):
        await asyncio.sleep(1)
        return message.data.upper()

    responder = await two.respond("ask.*", answer)
    assert await one.request("ask.me", b"hi", 5) == b"HI"
    with pytest.raises(BusUnavailable):
        await one.request("ask.me", b"hi", 0.5)
    with pytest.raises(BusUnavailable):
        await one.request("other", b"", 5)
    await responder.stop()
    with pytest.raises(BusUnavailable):
        await one.request("ask.me", b"hi", 5)


@story
async def test_names_are_unique_among_the_live(broker):
    one = MemoryBus(broker, "one")
    with pytest.raises(ValueError, match="unique"):
        MemoryBus(broker, "one")
    await one.close()
    with pytest.raises(BusUnavailable):
        await one.publish("x", b"")
    assert MemoryBus(broker, "one").connected


@story
async def test_the_same_id_is_stored_once_within_the_window(broker):
    bus = MemoryBus(broker, "one")
    first = await bus.append(CREATE, b"1", msg_id="a")
    again = await bus.append(CREATE, b"1", msg_id="a")
    assert (again.seq, again.duplicate) == (first.seq, True)
    await asyncio.sleep(601)
    assert not (await bus.append(CREATE, b"1", msg_id="a")).duplicate
    with pytest.raises(StreamMissing):
        await bus.append("nobody.listens", b"", msg_id="b")


@story
async def test_a_lost_answer_to_an_append_does_not_store_it_twice(broker):
    broker.weather.lost_replies = 0.5
    bus = MemoryBus(broker, "one")
    unknown = 0
    for k in range(50):
        try:
            await bus.append(subjects.event("tick", E1), b"", msg_id=str(k))
        except BusUnavailable:
            unknown += 1
    assert len(broker.streams[subjects.STREAM_EVENTS].messages) == 50
    assert unknown > 0


@story
async def test_compare_and_set(broker):
    bus = MemoryBus(broker, "one")
    bucket = bus.bucket(subjects.BUCKET_LEASE)
    first = await bucket.create("scaler.0", b"me")
    with pytest.raises(Conflict) as conflict:
        await bucket.create("scaler.0", b"you")
    assert conflict.value.revision == first
    second = await bucket.update("scaler.0", b"me again", first)
    with pytest.raises(Conflict):
        await bucket.update("scaler.0", b"late", first)
    with pytest.raises(Conflict):
        await bucket.delete("scaler.0", revision=first)
    await bucket.delete("scaler.0", revision=second)
    assert await bucket.get("scaler.0") is None
    await bucket.delete("scaler.0")
    await bucket.create("scaler.0", b"you")
    assert [entry.data for entry in await bucket.all("scaler.")] == [b"you"]
    assert await bucket.all("other") == []
    with pytest.raises(BusRefused):
        await bucket.put("scaler.*", b"")
    with pytest.raises(StreamMissing):
        bus.bucket("nothing")


@story
async def test_keys_expire_and_views_hear_of_it(broker):
    one, two = MemoryBus(broker, "one"), MemoryBus(broker, "two")
    changes = []
    bucket = one.bucket(subjects.BUCKET_LEASE)
    await bucket.put("old", b"0")
    async with two.view(subjects.BUCKET_LEASE, lambda key, data, _: changes.append((key, data))) as view:
        await view.wait_synced(1)
        assert dict(view.map)["old"].data == b"0"
        revision = await bucket.create("scaler.0", b"1", ttl_s=15)
        await asyncio.sleep(14)
        revision = await bucket.update("scaler.0", b"2", revision, ttl_s=15)
        await asyncio.sleep(14)
        assert (await bucket.get("scaler.0")).data == b"2"
        await asyncio.sleep(2)
        assert await bucket.get("scaler.0") is None
        await bucket.create("scaler.0", b"3", ttl_s=15)
        await asyncio.sleep(1)
    assert changes == [("old", b"0"), ("scaler.0", b"1"), ("scaler.0", b"2"), ("scaler.0", None), ("scaler.0", b"3")]


@story
async def test_a_view_keeps_what_it_has_while_away_and_catches_up(broker):
    broker.weather.delay_s = (0.01, 0.2)
    one, two = MemoryBus(broker, "one"), MemoryBus(broker, "two")
    bucket = one.bucket(subjects.BUCKET_WORKERS)
    for k in range(5):
        await bucket.put(f"e1.w{k}", b"old")
    changes = []
    async with two.view(subjects.BUCKET_WORKERS, lambda key, data, _: changes.append((key, data))) as view:
        await view.wait_synced(5)
        two.cut()
        changes.clear()
        await bucket.delete("e1.w0")
        await bucket.put("e1.w1", b"new")
        await asyncio.sleep(60)
        assert len(view.map) == 5
        assert view.age_s >= 60
        assert changes == []
        two.heal()
        await asyncio.sleep(1)
        assert view.age_s == 0
        assert changes == [("e1.w0", None), ("e1.w1", b"new")]
        assert sorted(view.map) == ["e1.w1", "e1.w2", "e1.w3", "e1.w4"]


@story
async def test_a_write_whose_answer_is_lost_may_have_happened(broker):
    broker.weather.lost_replies = 0.999999
    bus = MemoryBus(broker, "one")
    bucket = bus.bucket(subjects.BUCKET_IDEM)
    with pytest.raises(BusUnavailable):
        await bucket.create("c1", b"claimed")
    assert (await bucket.get("c1")).data == b"claimed"


@story
async def test_a_queue_gives_each_message_to_one_hand_until_it_is_settled(broker):
    scaler, left, right = (MemoryBus(broker, name) for name in ("scaler", "left", "right"))
    done, most, now = [], 0, 0

    async def handle(delivery):
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1
        done.append(delivery.data)
        await delivery.ack()

    async with running(*(bus.work(subjects.STREAM_COMMANDS, "provisioner", handle, concurrency=2) for bus in (left, right))):
        for k in range(20):
            await scaler.append(CREATE, b"%d" % k, msg_id=str(k))
        await until(lambda: len(done) == 20)
    assert sorted(done) == sorted(b"%d" % k for k in range(20))
    assert most == 4
    assert not broker.streams[subjects.STREAM_COMMANDS].messages


@story
async def test_a_message_that_is_not_settled_comes_again_and_ends_as_a_dead_letter(broker):
    bus = MemoryBus(broker, "provisioner")
    loop = asyncio.get_running_loop()
    seen = []

    async def handle(delivery):
        seen.append((round(loop.time()), delivery.deliveries))
        raise RuntimeError("the provider is on fire")

    letters = []
    async with running(
        bus.work(subjects.STREAM_COMMANDS, "provisioner", handle),
        bus.tail(
            subjects.STREAM_DEAD_LETTERS,
            [subjects.DEAD_LETTERS],
            lambda subject, data, _: letters.append((subject, msgspec.json.decode(data, type=DeadLetter))),
        ),
    ):
        await bus.append(CREATE, b"{}", msg_id="c")
        await until(lambda: letters)
    assert seen == [(0, 1), (30, 2), (90, 3), (210, 4), (510, 5), (1110, 6)]
    subject, letter = letters[0]
    assert subject == subjects.dead_letter("create", E1)
    assert (letter.op, letter.deliveries, letter.body) == ("create", 6, "{}")
    assert not broker.streams[subjects.STREAM_COMMANDS].messages


@story
async def test_a_slow_reader_is_waited_for_and_told_when_it_has_everything(broker):
    bus = MemoryBus(broker, "router")
    for number in range(3):
        await bus.append(subjects.event("worker_ready", E1), b"%d" % number, msg_id=str(number))
    told, caught_up = [], []

    async def room():
        await asyncio.sleep(10)

    async with running(
        bus.tail(
            subjects.STREAM_EVENTS,
            [subjects.EVENTS],
            lambda _s, data, _n: told.append(data),
            since_at=0.0,
            room=room,
            caught_up=lambda: caught_up.append((len(told), round(asyncio.get_running_loop().time()))),
        )  # fmt: skip
    ):
        await until(lambda: caught_up)
    assert caught_up[0] == (3, 30)


@story
async def test_retry_and_working_move_the_next_delivery(broker):
    bus = MemoryBus(broker, "provisioner")
    loop = asyncio.get_running_loop()
    seen = []

    async def handle(delivery):
        seen.append(round(loop.time()))
        if delivery.deliveries == 1:
            await delivery.retry(5)
        elif delivery.deliveries == 2:
            for _ in range(10):
                await asyncio.sleep(20)
                await delivery.working()
            await delivery.ack()

    async with running(bus.work(subjects.STREAM_COMMANDS, "provisioner", handle)):
        await bus.append(CREATE, b"", msg_id="c")
        await asyncio.sleep(1000)
    assert seen == [0, 5]


@story
async def test_a_participant_that_is_cut_off_mid_work_cannot_ack_and_another_takes_over(broker):
    left, right = MemoryBus(broker, "left"), MemoryBus(broker, "right")
    took, failed = [], []

    def hand(name):
        async def handle(delivery):
            took.append(name)
            await asyncio.sleep(10)
            try:
                await delivery.ack()
            except BusUnavailable:
                failed.append(name)

        return handle

    async with running(left.work(subjects.STREAM_COMMANDS, "provisioner", hand("left"))):
        await right.append(CREATE, b"", msg_id="c")
        await asyncio.sleep(5)
        left.cut()
        async with running(right.work(subjects.STREAM_COMMANDS, "provisioner", hand("right"))):
            await asyncio.sleep(100)
    assert (took, failed) == (["left", "right"], ["left"])


@story
async def test_deliveries_may_be_duplicated(broker):
    broker.weather.duplicated = 0.3
    bus = MemoryBus(broker, "provisioner")
    seen = []

    async def handle(delivery):
        seen.append(delivery.data)
        await delivery.ack()

    async with running(bus.work(subjects.STREAM_COMMANDS, "provisioner", handle)):
        for k in range(100):
            await bus.append(CREATE, b"%d" % k, msg_id=str(k))
        await asyncio.sleep(100)
    assert len(set(seen)) == 100
    assert len(seen) > 110


@story
async def test_a_tail_begins_where_asked_and_goes_on_after_an_outage(broker):
    writer, reader = MemoryBus(broker, "writer"), MemoryBus(broker, "reader")
    for k in range(3):
        await writer.append(subjects.event("tick", E1), b"%d" % k, msg_id=str(k))
        await asyncio.sleep(10)
    new, since = [], []
    async with running(
        reader.tail(subjects.STREAM_EVENTS, [subjects.EVENTS], lambda _, data, __: new.append(data)),
        reader.tail(
            subjects.STREAM_EVENTS,
            [subjects.events_of_kind("tick")],
            lambda _, data, __: since.append(data),
            since_at=broker.started_at + 5,
        ),
    ):
        await writer.append(subjects.event("tock", E1), b"3", msg_id="3")
        await asyncio.sleep(1)
        broker.go_down()
        with pytest.raises(BusUnavailable):
            await writer.append(subjects.event("tick", E1), b"4", msg_id="4")
        broker.come_up()
        reader.cut()
        await writer.append(subjects.event("tick", E1), b"4", msg_id="4")
        await asyncio.sleep(1)
        assert new == [b"3"]
        reader.heal()
        await asyncio.sleep(1)
    assert new == [b"3", b"4"]
    assert since == [b"1", b"2", b"4"]


def test_the_same_seed_gives_the_same_weather():
    def once(seed):
        async def play():
            broker = Broker(Weather(seed=seed, delay_s=(0.0, 1.0), lost=0.3, duplicated=0.2))
            one, two = MemoryBus(broker, "one"), MemoryBus(broker, "two")
            got = []
            loop = asyncio.get_running_loop()
            await two.subscribe("x", lambda message: got.append((message.data, loop.time())))
            for k in range(100):
                await one.publish("x", b"%d" % k)
                await asyncio.sleep(0.1)
            await asyncio.sleep(5)
            return got

        return run_virtual(play())

    assert once(1) == once(1)
    assert once(1) != once(2)
