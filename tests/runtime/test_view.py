"""The router's feed: never empty by mistake, never wrong for long."""

import asyncio
import signal

import pytest

from runtime import js_names, kv, topology, view
from runtime.nats_bus import open_client
from runtime.permissions import Role
from schemas import subjects

BUCKET = subjects.BUCKET_WORKERS
STREAM = js_names.kv_stream(BUCKET)


@pytest.fixture
async def scaler(fresh_nats_server, bus_for):
    return await bus_for("scaler", server=fresh_nats_server)


@pytest.fixture
async def router(fresh_nats_server, bus_for):
    return await bus_for("router", server=fresh_nats_server)


def values(seen) -> dict[str, bytes]:
    return {key: entry.data for key, entry in seen.map.items()}


async def put_many(bucket, count: int, data: bytes = b"x") -> None:
    for start in range(0, count, 500):
        await asyncio.gather(*(bucket.put(f"e1.w{n}", data) for n in range(start, min(start + 500, count))))


async def test_follows_every_kind_of_change(scaler, router, eventually):
    told: list[tuple[str, bytes | None]] = []
    bucket = scaler.bucket(BUCKET)
    await bucket.put("e1.w1", b"old")
    async with router.view(BUCKET, lambda key, data, _: told.append((key, data))) as seen:
        await seen.wait_synced(5)
        assert values(seen) == {"e1.w1": b"old"}
        revision = await bucket.put("e1.w2", b"new")
        await bucket.put("e1.w1", b"newer")
        await bucket.delete("e1.w1")
        await bucket.put("e1.w3", b"short", ttl_s=1)
        await eventually(lambda: len(told) == 6)
        assert values(seen) == {"e1.w2": b"new"}
        assert seen.map["e1.w2"].revision == revision
    assert told == [
        ("e1.w1", b"old"),
        ("e1.w2", b"new"),
        ("e1.w1", b"newer"),
        ("e1.w1", None),
        ("e1.w3", b"short"),
        ("e1.w3", None),
    ]


async def test_is_synced_on_an_empty_bucket_and_proves_it_is_alive(router):
    async with router.view(BUCKET) as seen:
        await seen.wait_synced(5)
        assert seen.map == {}
        assert seen.age_s < 1.0


async def test_not_synced_while_there_is_no_bucket(bare_nats_server, bus_for, eventually):
    router = await bus_for("router", server=bare_nats_server)
    async with router.view(BUCKET) as seen:
        with pytest.raises(TimeoutError):
            await seen.wait_synced(0.3)
        await bare_nats_server.make_topology()
        await seen.wait_synced(5)


async def test_every_snapshot_is_complete(scaler, router):
    """Right after writes, with more writes going on: a snapshot that lacks a key would look like dead workers."""
    bucket = scaler.bucket(BUCKET)
    await put_many(bucket, 1500)
    for n in range(10):
        await bucket.put(f"e2.w{n}", b"y")
        churn = asyncio.gather(*(bucket.put(f"e1.w{m}", b"z") for m in range(200)))
        async with router.view(BUCKET) as seen:
            await seen.wait_synced(5)
            assert len(seen.map) == 1500 + n + 1
        await churn


async def test_through_a_crash_it_is_never_empty_and_then_right(scaler, router, fresh_nats_server, eventually):
    bucket = scaler.bucket(BUCKET)
    await put_many(bucket, 50)
    gone: list[str] = []
    async with router.view(BUCKET, lambda key, data, _: gone.append(key) if data is None else None) as seen:
        await seen.wait_synced(5)
        fresh_nats_server.kill(signal.SIGKILL)
        await fresh_nats_server.stop()
        await eventually(lambda: not router.connected)
        assert len(seen.map) == 50
        assert seen.synced
        await fresh_nats_server.start()
        await eventually(lambda: scaler.connected)
        await bucket.put("e1.w0", b"after")
        await eventually(lambda: values(seen)["e1.w0"] == b"after")
        assert len(seen.map) == 50
        assert gone == []


async def test_what_changed_while_it_was_away_is_seen(scaler, router, eventually, monkeypatch):
    """A deletion that it slept through, and whose marker is gone too by the time it is back."""
    bucket = scaler.bucket(BUCKET)
    await put_many(bucket, 5)
    told: list[tuple[str, bytes | None]] = []
    async with router.view(BUCKET, lambda key, data, _: told.append((key, data))) as seen:
        await seen.wait_synced(5)
        told.clear()
        client = router._stored.client
        plugged = asyncio.Event()
        connect = client._select_next_server

        async def connect_when_plugged():
            await plugged.wait()
            await connect()

        monkeypatch.setattr(client, "_select_next_server", connect_when_plugged)
        await router._stored.reconnect()
        await eventually(lambda: not router.connected)
        await bucket.delete("e1.w1")
        await bucket.put("e1.w2", b"changed")
        await scaler._stored.client.jetstream().purge_stream(STREAM, subject=js_names.kv_subject(BUCKET, "e1.w1"))
        await asyncio.sleep(0.2)
        assert values(seen) == {f"e1.w{n}": b"x" for n in range(5)}
        plugged.set()
        await eventually(lambda: values(seen) == {"e1.w0": b"x", "e1.w2": b"changed", "e1.w3": b"x", "e1.w4": b"x"})
    assert sorted(told, key=str) == [("e1.w1", None), ("e1.w2", b"changed")]


async def test_a_key_that_vanishes_without_a_word_is_noticed(scaler, router, eventually, monkeypatch):
    """As when its marker expired while messages to us were lost: only the leader's count tells."""
    monkeypatch.setattr(view, "_AUDIT_S", 0.1)
    bucket = scaler.bucket(BUCKET)
    await put_many(bucket, 3)
    async with router.view(BUCKET) as seen:
        await seen.wait_synced(5)
        await scaler._stored.client.jetstream().purge_stream(STREAM, subject=js_names.kv_subject(BUCKET, "e1.w1"))
        await eventually(lambda: values(seen) == {"e1.w0": b"x", "e1.w2": b"x"})


async def test_a_bucket_that_is_made_anew_is_followed(scaler, router, fresh_nats_server, eventually, monkeypatch):
    """Its sequences begin again, far below what the view has read."""
    monkeypatch.setattr(view, "_AUDIT_S", 0.1)
    bucket = scaler.bucket(BUCKET)
    await put_many(bucket, 200)
    async with router.view(BUCKET) as seen:
        await seen.wait_synced(5)
        await scaler._stored.client.jetstream().delete_stream(STREAM)
        await asyncio.sleep(0.3)
        assert len(seen.map) == 200, "no bucket is no news"
        async with open_client(fresh_nats_server.settings(Role.MIGRATE, "m1")) as client:
            await topology.ensure(client)
        await bucket.put("e9.w9", b"first of the new")
        await eventually(lambda: values(seen) == {"e9.w9": b"first of the new"})


async def test_deletions_are_forgotten_by_the_server_without_harm(scaler, router, eventually, monkeypatch):
    monkeypatch.setattr(kv, "TOMBSTONE_TTL_S", 1)
    monkeypatch.setattr(view, "_AUDIT_S", 0.1)
    bucket = scaler.bucket(BUCKET)
    await put_many(bucket, 3)
    told: list[tuple[str, bytes | None]] = []
    async with router.view(BUCKET, lambda key, data, _: told.append((key, data))) as seen:
        await seen.wait_synced(5)
        told.clear()
        await bucket.delete("e1.w1")
        facts = await scaler._js.facts(STREAM)
        async with asyncio.timeout(10):
            while (await scaler._js.facts(STREAM)).num_subjects == facts.num_subjects:
                await asyncio.sleep(0.05)
        await bucket.put("e1.w7", b"y")
        await eventually(lambda: "e1.w7" in seen.map)
    assert told == [("e1.w1", None), ("e1.w7", b"y")]


async def test_keeps_up_with_bursts(scaler, router, eventually):
    bucket = scaler.bucket(BUCKET)
    revisions: list[int] = []
    async with router.view(BUCKET, lambda _key, _data, revision: revisions.append(revision)) as seen:
        await seen.wait_synced(5)
        await put_many(bucket, 1000)
        await put_many(bucket, 1000, b"again")
        await eventually(lambda: len(seen.map) == 1000 and set(values(seen).values()) == {b"again"})
        assert seen.snapshots == 1, "nothing gave reason to doubt"
    assert revisions == sorted(revisions)


async def test_a_listener_that_fails_does_not_stop_the_view(scaler, router, eventually):
    def fails(*_):
        raise RuntimeError("mine")

    async with router.view(BUCKET, fails) as seen:
        await seen.wait_synced(5)
        await scaler.bucket(BUCKET).put("e1.w1", b"1")
        await scaler.bucket(BUCKET).put("e1.w2", b"2")
        await eventually(lambda: values(seen) == {"e1.w1": b"1", "e1.w2": b"2"})


async def test_a_server_that_hangs_makes_it_old_but_not_wrong(scaler, router, fresh_nats_server, eventually):
    await put_many(scaler.bucket(BUCKET), 3)
    async with router.view(BUCKET) as seen:
        await seen.wait_synced(5)
        fresh_nats_server.kill(signal.SIGSTOP)
        try:
            await asyncio.sleep(0.4)
            old = seen.age_s
            assert old >= 0.3
            assert len(seen.map) == 3
        finally:
            fresh_nats_server.kill(signal.SIGCONT)
        await eventually(lambda: seen.age_s < old)
