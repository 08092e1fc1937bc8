"""The router's feed: never empty by mistake, never wrong for long."""

import asyncio
import signal

import pytest

from runtime import js_names, kv, topology, view
from schemas import subjects


def bucket_stream(name):
    return topology._bucket_stream(topology.BucketSpec(name=name, about=""), 1)


@pytest.fixture
async def bucket(bus, endpoint_id):
    """A bucket of the test's own."""
    name = f"view_{endpoint_id}"
    await bus._stored.client.jetstream().add_stream(bucket_stream(name))
    return bus.bucket(name)


@pytest.fixture
async def reader(bus_for):
    return await bus_for("scaler")


@pytest.fixture
def streams(bus):
    """What an operator could do to streams behind our back."""
    return bus._stored.client.jetstream()


def values(seen) -> dict[str, bytes]:
    return {key: entry.data for key, entry in seen.map.items()}


async def put_many(bucket, count: int, data: bytes = b"x") -> None:
    for start in range(0, count, 100):
        await asyncio.gather(*(bucket.put(f"e1.w{n}", data) for n in range(start, min(start + 100, count))))


async def test_a_router_follows_every_kind_of_change(bus, bus_for, endpoint_id, eventually):
    told: list[tuple[str, bytes | None]] = []
    one, two, three = (f"e{endpoint_id}.w{n}" for n in (1, 2, 3))
    router = await bus_for("router")
    bucket = bus.bucket(subjects.BUCKET_WORKERS)
    await bucket.put(one, b"old")

    def tell(key, data, _):
        if key.startswith(f"e{endpoint_id}."):
            told.append((key, data))

    async with router.view(subjects.BUCKET_WORKERS, tell) as seen:
        await seen.wait_synced(5)
        assert seen.map[one].data == b"old"
        revision = await bucket.put(two, b"new")
        await bucket.put(one, b"newer")
        # The bucket keeps the last value only: whoever reads late never sees the ones before.
        await eventually(lambda: told[-1] == (one, b"newer"))
        await bucket.delete(one)
        await bucket.put(three, b"short", ttl_s=2)
        await eventually(lambda: len(told) == 6)
        assert one not in seen.map
        assert three not in seen.map
        assert seen.map[two].revision == revision
    assert told == [(one, b"old"), (two, b"new"), (one, b"newer"), (one, None), (three, b"short"), (three, None)]


async def test_is_synced_on_an_empty_bucket_and_proves_it_is_alive(bucket, reader):
    async with reader.view(bucket.name) as seen:
        await seen.wait_synced(5)
        assert seen.map == {}
        assert seen.age_s < 1.0


async def test_not_synced_while_there_is_no_bucket(reader, streams, endpoint_id):
    name = f"late_{endpoint_id}"
    async with reader.view(name) as seen:
        with pytest.raises(TimeoutError):
            await seen.wait_synced(0.3)
        await streams.add_stream(bucket_stream(name))
        await seen.wait_synced(5)


async def test_every_snapshot_is_complete(bucket, reader):
    """Right after writes, with more writes going on: a snapshot that lacks a key would look like dead workers."""
    await put_many(bucket, 1100)  # more than the server answers in one piece
    for n in range(5):
        await bucket.put(f"e2.w{n}", b"y")
        churn = asyncio.gather(*(bucket.put(f"e1.w{m}", b"z") for m in range(200)))
        async with reader.view(bucket.name) as seen:
            await seen.wait_synced(5)
            assert len(seen.map) == 1100 + n + 1
        await churn


async def test_what_changed_while_it_was_away_is_seen(bucket, reader, streams, eventually, monkeypatch):
    """A deletion that it slept through, and whose marker is gone too by the time it is back."""
    await put_many(bucket, 5)
    told: list[tuple[str, bytes | None]] = []
    async with reader.view(bucket.name, lambda key, data, _: told.append((key, data))) as seen:
        await seen.wait_synced(5)
        told.clear()
        client = reader._stored.client
        plugged = asyncio.Event()
        connect = client._select_next_server

        async def connect_when_plugged():
            await plugged.wait()
            await connect()

        monkeypatch.setattr(client, "_select_next_server", connect_when_plugged)
        await reader._stored.reconnect()
        await eventually(lambda: not reader.connected)
        await bucket.delete("e1.w1")
        await bucket.put("e1.w2", b"changed")
        await streams.purge_stream(js_names.kv_stream(bucket.name), subject=js_names.kv_subject(bucket.name, "e1.w1"))
        await asyncio.sleep(0.2)
        assert values(seen) == {f"e1.w{n}": b"x" for n in range(5)}
        plugged.set()
        await eventually(lambda: values(seen) == {"e1.w0": b"x", "e1.w2": b"changed", "e1.w3": b"x", "e1.w4": b"x"})
    assert sorted(told, key=str) == [("e1.w1", None), ("e1.w2", b"changed")]


async def test_a_key_that_vanishes_without_a_word_is_noticed(bucket, reader, streams, eventually, monkeypatch):
    """As when its marker expired while messages to us were lost: only the leader's count tells."""
    monkeypatch.setattr(view, "_AUDIT_S", 0.1)
    await put_many(bucket, 3)
    async with reader.view(bucket.name) as seen:
        await seen.wait_synced(5)
        await streams.purge_stream(js_names.kv_stream(bucket.name), subject=js_names.kv_subject(bucket.name, "e1.w1"))
        await eventually(lambda: values(seen) == {"e1.w0": b"x", "e1.w2": b"x"})


async def test_a_bucket_that_is_made_anew_is_followed(bucket, reader, streams, eventually, monkeypatch):
    """Its sequences begin again, far below what the view has read."""
    monkeypatch.setattr(view, "_AUDIT_S", 0.1)
    await put_many(bucket, 200)
    async with reader.view(bucket.name) as seen:
        await seen.wait_synced(5)
        await streams.delete_stream(js_names.kv_stream(bucket.name))
        await asyncio.sleep(0.3)
        assert len(seen.map) == 200, "no bucket is no news"
        await streams.add_stream(bucket_stream(bucket.name))
        await bucket.put("e9.w9", b"first of the new")
        await eventually(lambda: values(seen) == {"e9.w9": b"first of the new"})


async def test_deletions_are_forgotten_by_the_server_without_harm(bus, bucket, reader, eventually, monkeypatch):
    monkeypatch.setattr(kv, "TOMBSTONE_TTL_S", 1)
    monkeypatch.setattr(view, "_AUDIT_S", 0.1)
    stream = js_names.kv_stream(bucket.name)
    await put_many(bucket, 3)
    told: list[tuple[str, bytes | None]] = []
    async with reader.view(bucket.name, lambda key, data, _: told.append((key, data))) as seen:
        await seen.wait_synced(5)
        told.clear()
        await bucket.delete("e1.w1")
        async with asyncio.timeout(10):
            while (await bus._js.facts(stream)).num_subjects == 3:
                await asyncio.sleep(0.05)
        await bucket.put("e1.w7", b"y")
        await eventually(lambda: "e1.w7" in seen.map)
    assert told == [("e1.w1", None), ("e1.w7", b"y")]


async def test_keeps_up_with_bursts(bucket, reader, eventually):
    revisions: list[int] = []
    async with reader.view(bucket.name, lambda _key, _data, revision: revisions.append(revision)) as seen:
        await seen.wait_synced(5)
        await put_many(bucket, 500)
        await put_many(bucket, 500, b"again")
        await eventually(lambda: len(seen.map) == 500 and set(values(seen).values()) == {b"again"})
        assert seen.snapshots == 1, "nothing gave reason to doubt"
    assert revisions == sorted(revisions)


async def test_a_listener_that_fails_does_not_stop_the_view(bucket, reader, eventually):
    def fails(*_):
        raise RuntimeError("mine")

    async with reader.view(bucket.name, fails) as seen:
        await seen.wait_synced(5)
        await bucket.put("e1.w1", b"1")
        await bucket.put("e1.w2", b"2")
        await eventually(lambda: values(seen) == {"e1.w1": b"1", "e1.w2": b"2"})


async def test_through_crash_and_hang_it_is_never_empty_and_then_right(fresh_nats_server, bus_for, eventually):
    writer = await bus_for("scaler", server=fresh_nats_server)
    router = await bus_for("router", server=fresh_nats_server)
    bucket = writer.bucket(subjects.BUCKET_WORKERS)
    await put_many(bucket, 50)
    gone: list[str] = []
    async with router.view(bucket.name, lambda key, data, _: gone.append(key) if data is None else None) as seen:
        await seen.wait_synced(5)
        fresh_nats_server.kill(signal.SIGKILL)
        await fresh_nats_server.stop()
        await eventually(lambda: not router.connected)
        assert len(seen.map) == 50
        assert seen.synced
        await fresh_nats_server.start()
        await eventually(lambda: writer.connected)
        await bucket.put("e1.w0", b"after")
        await eventually(lambda: values(seen)["e1.w0"] == b"after")
        assert len(seen.map) == 50

        fresh_nats_server.kill(signal.SIGSTOP)
        await asyncio.sleep(0.4)
        old_s = seen.age_s
        assert old_s >= 0.3
        assert len(seen.map) == 50
        fresh_nats_server.kill(signal.SIGCONT)
        await eventually(lambda: seen.age_s < old_s)
        assert gone == []
