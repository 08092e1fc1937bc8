import asyncio

import pytest

from runtime import jetstream, js_names, kv, topology
from runtime.bus import Entry
from runtime.errors import BusRefused, Conflict, StreamMissing
from schemas import subjects
from schemas.ids import EndpointId, worker_id


@pytest.fixture
def bucket(bus):
    return bus.bucket(subjects.BUCKET_INSTANCES)


@pytest.fixture
def key(endpoint_id):
    return subjects.worker_key(endpoint_id, worker_id("w1"))


async def test_reads_what_it_wrote(bucket, key):
    assert await bucket.get(key) is None
    revision = await bucket.put(key, b"1")
    assert await bucket.get(key) == Entry(key, b"1", revision)
    newer = await bucket.put(key, b"")
    assert await bucket.get(key) == Entry(key, b"", newer)


async def test_only_one_of_many_creates(bucket, key):
    results = await asyncio.gather(*(bucket.create(key, b"%d" % n) for n in range(10)), return_exceptions=True)
    won = [n for n, result in enumerate(results) if isinstance(result, int)]
    assert len(won) == 1
    assert all(isinstance(result, Conflict) for n, result in enumerate(results) if n not in won)
    entry = await bucket.get(key)
    assert entry is not None
    assert entry.data == b"%d" % won[0]


async def test_only_one_of_many_updates(bucket, key):
    revision = await bucket.create(key, b"")
    results = await asyncio.gather(*(bucket.update(key, b"%d" % n, revision) for n in range(10)), return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1
    conflicts = [result for result in results if isinstance(result, Conflict)]
    assert len(conflicts) == 9
    assert {conflict.revision for conflict in conflicts} == {(await bucket.get(key)).revision}


async def test_deleted_means_absent_and_may_be_created_again(bucket, key):
    revision = await bucket.create(key, b"1")
    with pytest.raises(Conflict):
        await bucket.delete(key, revision=revision + 1000)
    await bucket.delete(key, revision=revision)
    assert await bucket.get(key) is None
    await bucket.delete(key)
    assert await bucket.all(key) == []
    assert await bucket.create(key, b"2") > revision


async def test_history_does_not_come_back_when_the_marker_is_gone(bus, monkeypatch):
    """A bucket that keeps five values of a key. None of them may reappear after the deletion itself is forgotten."""
    monkeypatch.setattr(kv, "TOMBSTONE_TTL_S", 1)
    spec = topology.BucketSpec(name="with_history", about="", history=5, marker_ttl_s=1)
    await bus._stored.client.jetstream().add_stream(topology._bucket_stream(spec, 1))
    bucket, stream = bus.bucket(spec.name), js_names.kv_stream(spec.name)
    for n in range(3):
        await bucket.put("e1", b"%d" % n)
    await bucket.delete("e1")
    async with asyncio.timeout(10):
        while await bus._js.last(stream, js_names.kv_subject(spec.name, "e1")) is not None:
            assert await bucket.get("e1") is None
            await asyncio.sleep(0.02)
    assert await bucket.all() == []


async def test_a_key_with_a_ttl_expires_and_its_marker_counts_as_absent(bucket, key):
    revision = await bucket.create(key, b"short", ttl_s=1)
    async with asyncio.timeout(10):
        while await bucket.get(key) is not None:
            await asyncio.sleep(0.05)
    assert await bucket.all(key) == []
    assert await bucket.create(key, b"again", ttl_s=60) > revision


async def test_update_keeps_or_renews_the_ttl(bucket, key):
    revision = await bucket.create(key, b"1", ttl_s=1)
    revision = await bucket.update(key, b"2", revision, ttl_s=1)
    await asyncio.sleep(0.5)
    await bucket.update(key, b"3", revision)  # without one it stays
    await asyncio.sleep(1.2)
    entry = await bucket.get(key)
    assert entry is not None
    assert entry.data == b"3"


async def test_all_by_prefix(bucket, endpoint_id):
    token = subjects.endpoint_key(endpoint_id)
    for name in ("w1", "w2", "w10"):
        await bucket.put(f"{token}.{name}", name.encode())
    await bucket.put(f"{subjects.endpoint_key(EndpointId(endpoint_id + 10**9))}.w1", b"foreign")
    found = {entry.key: entry.data for entry in await bucket.all(f"{token}.")}
    assert found == {f"{token}.w1": b"w1", f"{token}.w2": b"w2", f"{token}.w10": b"w10"}
    assert {e.key for e in await bucket.all(f"{token}.w1")} == {f"{token}.w1", f"{token}.w10"}
    assert await bucket.all("nothing.") == []
    assert found.keys() <= {e.key for e in await bucket.all()}


async def test_all_of_a_large_bucket(fresh_nats_server, bus_for):
    """The server refuses to answer a question that matches more than 1024 keys."""
    bus = await bus_for("scaler", server=fresh_nats_server)
    bucket = bus.bucket(subjects.BUCKET_WORKERS)
    for start in range(0, 1300, 130):
        await asyncio.gather(*(bucket.put(f"e{n % 7}.w{n}", b"%d" % n) for n in range(start, start + 130)))
    await bucket.delete("e0.w0")
    entries = await bucket.all()
    assert {entry.key: entry.data for entry in entries} == {f"e{n % 7}.w{n}": b"%d" % n for n in range(1, 1300)}
    assert len(await bucket.all("e3.")) == len(range(3, 1300, 7))


async def test_all_when_the_server_cuts_its_answer_short(bus, endpoint_id, monkeypatch):
    """As it does with more than 64 MB; here with fewer messages than there are."""
    monkeypatch.setattr(jetstream, "_MAX_SUBJECTS", 10)
    spec = topology.BucketSpec(name=f"cut_{endpoint_id}", about="")
    await bus._stored.client.jetstream().add_stream(topology._bucket_stream(spec, 1))
    bucket = bus.bucket(spec.name)
    for n in range(25):
        await bucket.put(f"e{n}", b"%d" % n)
    assert {entry.key: entry.data for entry in await bucket.all()} == {f"e{n}": b"%d" % n for n in range(25)}


async def test_an_empty_bucket_has_no_entries(fresh_nats_server, bus_for):
    bus = await bus_for("scaler", server=fresh_nats_server)
    assert await bus.bucket(subjects.BUCKET_DEMAND).all() == []


@pytest.mark.parametrize("key", ["", "*", "a.>", "a..b", ".a", "a b", "a\r\nPUB x 0\r\n"])
async def test_what_is_no_key_is_refused(bucket, key):
    for call in (bucket.get(key), bucket.put(key, b""), bucket.create(key, b""), bucket.delete(key)):
        with pytest.raises(BusRefused, match="not a key"):
            await call


async def test_a_value_that_is_too_large_is_refused(bus, endpoint_id):
    with pytest.raises(BusRefused, match="maximum"):
        await bus.bucket(subjects.BUCKET_WORKERS).put(f"e{endpoint_id}.w1", b"x" * 20_000)


async def test_a_missing_bucket_is_named(bus):
    with pytest.raises(StreamMissing, match="KV_nowhere") as error:
        await bus.bucket("nowhere").get("x")
    assert "migrate" in error.value.hint
