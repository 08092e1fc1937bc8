import asyncio
import signal
import time
from typing import NamedTuple

import msgspec
import pytest
from nats.js import api

from runtime import topology, work
from runtime.bus import Delivery
from runtime.errors import BusError, StreamMissing
from schemas import subjects
from schemas.ids import EndpointId

E1 = EndpointId(1)


class Queue(NamedTuple):
    stream: str
    durable: str
    subject: str


@pytest.fixture
async def queue(bus, endpoint_id) -> Queue:
    """A work queue like CORRAL_CMD, of the test's own."""
    return await make_queue(bus, f"WORK_{endpoint_id}")


@pytest.fixture
async def quick_queue(bus, endpoint_id) -> Queue:
    """One whose consumer has a backoff that a test can wait for."""
    return await make_queue(bus, f"WORK_{endpoint_id}", backoff=[0.2, 0.2, 0.2], ack_wait=0.2, max_deliver=4)


async def make_queue(bus, name: str, **changes) -> Queue:
    js = bus._stored.client.jetstream()
    commands, (_, consumer) = topology.streams(1)[0], topology.consumers()[0]
    subject = f"test.{name}"
    await js.add_stream(api.StreamConfig(**{**vars(commands), "name": name, "subjects": [subject]}))
    await js.add_consumer(name, api.ConsumerConfig(**{**vars(consumer), "filter_subject": subject, **changes}))
    return Queue(name, consumer.durable_name, subject)


@pytest.fixture
async def worker(bus_for):
    return await bus_for("scaler")


class Hands:
    """Works a queue with a handler, and keeps what was delivered."""

    def __init__(self, bus, queue: Queue, handle=None, concurrency: int = 8) -> None:
        self.got: list[tuple[bytes, int]] = []
        self._handle = handle
        self.task = asyncio.create_task(bus.work(queue.stream, queue.durable, self._work, concurrency=concurrency))

    async def _work(self, delivery: Delivery) -> None:
        self.got.append((delivery.data, delivery.deliveries))
        if self._handle is not None:
            await self._handle(delivery)
        else:
            await delivery.ack()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def router(fresh_nats_server, bus_for):
    return await bus_for("router", server=fresh_nats_server)


@pytest.fixture
async def provisioner(fresh_nats_server, bus_for):
    return await bus_for("provisioner", server=fresh_nats_server)


COMMANDS = Queue(subjects.STREAM_COMMANDS, subjects.CONSUMER_PROVISIONER, subjects.command("create", E1))


async def ask(bus, queue: Queue, number: int) -> None:
    await bus.append(queue.subject, b"%d" % number, msg_id=f"e1.g{number}.s0", ttl_s=600)


async def waiting(bus, queue: Queue) -> int:
    return (await bus._stored.client.jetstream().stream_info(queue.stream)).state.messages


async def test_every_command_is_handled_once_and_leaves_the_queue(bus, worker, queue, eventually):
    async with Hands(worker, queue) as hands:
        for n in range(100):
            await ask(bus, queue, n)
        await eventually(lambda: len(hands.got) == 100)
        async with asyncio.timeout(5):
            while await waiting(bus, queue):
                await asyncio.sleep(0.01)
    assert hands.got == [(b"%d" % n, 1) for n in range(100)]


async def test_a_command_is_there_at_once(bus, worker, queue, eventually):
    async with Hands(worker, queue) as hands:
        await asyncio.sleep(0.2)  # the pull is waiting
        start = time.monotonic()
        await ask(bus, queue, 1)
        await eventually(lambda: hands.got)
        assert time.monotonic() - start < 1.0


async def test_no_more_at_a_time_than_asked_for(bus, worker, queue, eventually):
    at_once, most = 0, 0
    finish = asyncio.Event()

    async def slow(delivery: Delivery) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await finish.wait()
        at_once -= 1
        await delivery.ack()

    for n in range(10):
        await ask(bus, queue, n)
    async with Hands(worker, queue, slow, concurrency=3) as hands:
        await eventually(lambda: at_once == 3)
        await asyncio.sleep(0.1)
        assert at_once == 3
        finish.set()
        await eventually(lambda: len(hands.got) == 10)
    assert most == 3


async def test_several_share_the_work(bus, worker, bus_for, queue, eventually):
    other = await bus_for("scaler")

    async def slow(delivery: Delivery) -> None:
        await asyncio.sleep(0.02)
        await delivery.ack()

    async with Hands(worker, queue, slow, 2) as one, Hands(other, queue, slow, 2) as two:
        for n in range(20):
            await ask(bus, queue, n)
        await eventually(lambda: len(one.got) + len(two.got) == 20)
    assert one.got
    assert two.got
    assert {data for data, _ in one.got}.isdisjoint({data for data, _ in two.got})


async def test_a_handler_that_fails_gets_it_again_by_the_backoff(bus, worker, quick_queue, eventually):
    async def fails_twice(delivery: Delivery) -> None:
        if delivery.deliveries < 3:
            raise RuntimeError("mine")
        await delivery.ack()

    async with Hands(worker, quick_queue, fails_twice) as hands:
        await ask(bus, quick_queue, 7)
        await eventually(lambda: len(hands.got) == 3)
    assert hands.got == [(b"7", 1), (b"7", 2), (b"7", 3)]


async def test_retry_comes_after_the_delay_and_not_before(bus, worker, queue, eventually):
    came: list[float] = []

    async def later(delivery: Delivery) -> None:
        came.append(time.monotonic())
        if delivery.deliveries == 1:
            await delivery.retry(0.3)
        else:
            await delivery.ack()

    async with Hands(worker, queue, later):
        await ask(bus, queue, 7)
        await eventually(lambda: len(came) == 2)
    assert came[1] - came[0] >= 0.28


async def test_term_is_the_end_of_it(bus, worker, queue, eventually):
    async def refuse(delivery: Delivery) -> None:
        await delivery.term("too late\r\nfor this")

    async with Hands(worker, queue, refuse) as hands:
        await ask(bus, queue, 7)
        await eventually(lambda: hands.got)
        async with asyncio.timeout(5):
            while await waiting(bus, queue):
                await asyncio.sleep(0.01)
    assert hands.got == [(b"7", 1)]


async def test_working_keeps_it_ours(bus, worker, quick_queue, eventually):
    done = asyncio.Event()

    async def long(delivery: Delivery) -> None:
        for _ in range(12):
            await asyncio.sleep(0.05)
            await delivery.working()
        await delivery.ack()
        done.set()

    async with Hands(worker, quick_queue, long) as hands:
        await ask(bus, quick_queue, 7)
        async with asyncio.timeout(5):
            await done.wait()
    assert hands.got == [(b"7", 1)]


async def test_given_up_commands_can_be_found_and_taken_out(router, provisioner, fresh_nats_server, bus_for, eventually):
    """What the mover of dead letters does: an advisory names the place."""
    admin = await bus_for("scaler", server=fresh_nats_server)
    js = admin._stored.client.jetstream()
    stream, config = topology.consumers()[0]
    await js.delete_consumer(stream, subjects.CONSUMER_PROVISIONER)
    quick = {"backoff": [0.1, 0.1, 0.1], "ack_wait": 0.1, "max_deliver": 4}
    await js.add_consumer(stream, api.ConsumerConfig(**{**vars(config), **quick}))

    async def fails(_: Delivery) -> None:
        raise RuntimeError("always")

    advisories: list[dict] = []

    async def note(delivery: Delivery) -> None:
        advisories.append(msgspec.json.decode(delivery.data))
        await delivery.ack()

    moving = asyncio.create_task(provisioner.work(subjects.STREAM_ADVISORIES, subjects.CONSUMER_DLQ, note))
    async with Hands(provisioner, COMMANDS, fails) as hands:
        await ask(router, COMMANDS, 7)
        await eventually(lambda: advisories)
    moving.cancel()
    await asyncio.gather(moving, return_exceptions=True)
    assert [deliveries for _, deliveries in hands.got] == [1, 2, 3, 4]
    stream, seq = advisories[0]["stream"], advisories[0]["stream_seq"]
    found = await provisioner.stored(stream, seq)
    assert found is not None
    assert (found.data, found.subject) == (b"7", subjects.command("create", E1))
    assert await provisioner.remove(stream, seq)
    assert await provisioner.stored(stream, seq) is None
    assert not await provisioner.remove(stream, seq)


async def test_nothing_is_lost_through_crashes_and_hangs(router, provisioner, fresh_nats_server, eventually, monkeypatch):
    monkeypatch.setattr(work, "_HEARTBEAT_S", 0.2)
    monkeypatch.setattr(work, "_SILENT_S", 0.6)
    handled: set[bytes] = set()

    async def note(delivery: Delivery) -> None:
        handled.add(delivery.data)
        await delivery.ack()

    async with Hands(provisioner, COMMANDS, note):
        for n in range(90):
            await ask(router, COMMANDS, n)
            if n == 30:
                fresh_nats_server.kill(signal.SIGKILL)
                await fresh_nats_server.stop()
                await fresh_nats_server.start()
            if n == 60:
                fresh_nats_server.kill(signal.SIGSTOP)
                await asyncio.sleep(0.8)
                fresh_nats_server.kill(signal.SIGCONT)
        await eventually(lambda: len(handled) == 90, 20)


async def test_the_handler_learns_that_an_ack_was_not_heard(router, provisioner, fresh_nats_server, eventually):
    failed: list[BusError] = []

    async def ack_too_late(delivery: Delivery) -> None:
        await fresh_nats_server.stop()
        try:
            await delivery.ack()
        except BusError as error:
            failed.append(error)

    async with Hands(provisioner, COMMANDS, ack_too_late):
        await ask(router, COMMANDS, 1)
        await eventually(lambda: failed)
    await fresh_nats_server.start()


async def test_handlers_end_with_the_work(bus, worker, queue, eventually):
    ended: list[str] = []

    async def forever(_: Delivery) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    async with Hands(worker, queue, forever) as hands:
        await ask(bus, queue, 1)
        await eventually(lambda: hands.got)
    assert ended == ["cleaned up"]


async def test_no_consumer_is_said_and_not_waited_out(bare_nats_server, bus_for):
    provisioner = await bus_for("provisioner", server=bare_nats_server)
    async with asyncio.timeout(10):
        with pytest.raises(StreamMissing, match="provisioner"):
            await provisioner.work(subjects.STREAM_COMMANDS, subjects.CONSUMER_PROVISIONER, _never)


async def test_a_consumer_that_is_made_anew_is_worked_on(bus, worker, queue, eventually):
    js = bus._stored.client.jetstream()
    async with Hands(worker, queue) as hands:
        await ask(bus, queue, 1)
        await eventually(lambda: hands.got)
        config = (await js.consumer_info(queue.stream, queue.durable)).config
        await js.delete_consumer(queue.stream, queue.durable)
        await js.add_consumer(queue.stream, config)
        await ask(bus, queue, 2)
        await eventually(lambda: (b"2", 1) in hands.got)


async def _never(_):
    raise AssertionError("nothing may arrive")
