import asyncio
import time

import pytest

from runtime.bus import Message
from runtime.errors import BusUnavailable, Conflict
from schemas import subjects


async def eventually(condition, deadline_s: float = 5.0) -> None:
    """Wait for something that other tasks bring about; the deadline is the test's failure."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_heartbeat_arrives(bus_for, endpoint_id):
    scaler = await bus_for("scaler")
    worker = await bus_for("worker", "w7", endpoint=endpoint_id)
    heard: list[Message] = []
    await scaler.subscribe(subjects.HEARTBEATS, heard.append)
    await worker.publish(subjects.heartbeat(endpoint_id, "w7"), b"alive")
    await eventually(lambda: heard)
    assert heard == [Message(subjects.heartbeat(endpoint_id, "w7"), b"alive")]


async def test_a_request_is_answered(bus_for, endpoint_id):
    scaler = await bus_for("scaler")
    worker = await bus_for("worker", "w8", endpoint=endpoint_id)

    async def answer(message: Message) -> bytes:
        return message.data.upper()

    await worker.respond(subjects.control("w8"), answer)
    assert await scaler.request(subjects.control("w8"), b"drain", 2.0) == b"DRAIN"


async def test_nobody_there_is_said_at_once(bus):
    start = time.monotonic()
    with pytest.raises(BusUnavailable, match="nobody"):
        await bus.request(subjects.control("w404"), b"", 5.0)
    assert time.monotonic() - start < 1.0


async def test_the_same_msg_id_is_stored_once(bus, endpoint_id):
    subject = subjects.event("worker_ready", endpoint_id)
    first = await bus.append(subject, b"1", msg_id=f"evt:{endpoint_id}")
    again = await bus.append(subject, b"1", msg_id=f"evt:{endpoint_id}")
    assert not first.duplicate
    assert again.duplicate
    assert again.seq == first.seq


async def test_bucket_compare_and_set(bus, endpoint_id):
    bucket = bus.bucket(subjects.BUCKET_SCALER)
    key = subjects.endpoint_key(endpoint_id)
    first = await bucket.create(key, b"1")
    with pytest.raises(Conflict) as conflict:
        await bucket.create(key, b"2")
    assert conflict.value.revision == first
    second = await bucket.update(key, b"2", first)
    with pytest.raises(Conflict):
        await bucket.update(key, b"3", first)
    entry = await bucket.get(key)
    assert entry is not None
    assert (entry.data, entry.revision) == (b"2", second)
    await bucket.delete(key, revision=second)
    assert await bucket.get(key) is None
    assert await bucket.create(key, b"4") > second
