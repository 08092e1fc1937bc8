"""Who leads. In memory and in small times for the laws, on a real server for the promises of the server."""

import asyncio
import itertools
import random
import signal

import msgspec
import pytest

from runtime.bus import Entry
from runtime.errors import BusUnavailable, Conflict
from runtime.lease import Lease, LeaseTimes
from schemas import subjects
from schemas.records import LeaseRecord

KEY = subjects.lease_key(0)
QUICK = LeaseTimes(ttl_s=2, renew_s=0.1, margin_s=0.5, request_s=0.3)


class MemoryBucket:
    """A bucket with a clock of its own, that can be unreachable and can lose answers."""

    name = "memory"

    def __init__(self) -> None:
        self.at = 0.0
        self.reachable = True
        self.lose_answers = False
        self._entry: Entry | None = None
        self._expires_at = float("inf")
        self._revisions = itertools.count(1)

    def _now(self) -> Entry | None:
        if self.at >= self._expires_at:
            self._entry = None
        return self._entry

    def _answer(self):
        if not self.reachable:
            raise BusUnavailable("away")

    async def get(self, key):
        self._answer()
        return self._now()

    async def create(self, key, data, *, ttl_s=None):
        return await self._write(key, data, None, ttl_s)

    async def update(self, key, data, revision, *, ttl_s=None):
        return await self._write(key, data, revision, ttl_s)

    async def _write(self, key, data, revision, ttl_s):
        self._answer()
        current = self._now()
        if (current.revision if current else None) != revision:
            raise Conflict("other", current.revision if current else None)
        self._entry = Entry(key, data, next(self._revisions))
        self._expires_at = self.at + ttl_s
        if self.lose_answers:
            raise BusUnavailable("the answer was lost")
        return self._entry.revision

    async def delete(self, key, *, revision=None):
        self._answer()
        current = self._now()
        if current is not None and current.revision != revision:
            raise Conflict("other", current.revision)
        self._entry = None


@pytest.fixture
def bucket():
    return MemoryBucket()


@pytest.fixture
def lease_of(bucket):
    def make(owner: str, times: LeaseTimes = LeaseTimes()) -> Lease:  # noqa: B008
        return Lease(bucket, KEY, owner, times=times, monotonic=lambda: bucket.at)

    return make


async def test_one_of_two(lease_of):
    one, two = lease_of("one"), lease_of("two")
    assert await one.try_acquire()
    assert not await two.try_acquire()
    assert one.held
    assert not two.held
    assert (one.epoch, two.epoch) == (1, 0)


async def test_the_leader_stops_before_the_server_forgets_it(lease_of, bucket):
    one, two = lease_of("one"), lease_of("two")
    await one.try_acquire()
    bucket.at = 14.0
    assert not one.held
    assert not await two.try_acquire()
    bucket.at = 15.0
    assert await two.try_acquire()
    assert two.epoch > one.epoch


async def test_released_is_free_at_once(lease_of):
    one, two = lease_of("one"), lease_of("two")
    await one.try_acquire()
    await one.release()
    assert not one.held
    assert await two.try_acquire()
    assert two.epoch > one.epoch
    await one.release()
    assert two.held
    assert not await one.try_acquire()


async def test_the_value_says_who_and_since_when(lease_of, bucket):
    one = lease_of("one")
    await one.try_acquire()
    renewing = asyncio.create_task(one.keep())
    await asyncio.sleep(0)
    bucket.at = 13.9  # its timers see a virtual clock that does not move by itself: renew at once
    renewing.cancel()
    await one._write(await bucket.get(KEY))
    assert msgspec.json.decode((await bucket.get(KEY)).data, type=LeaseRecord) == LeaseRecord(owner="one", epoch=1)


async def test_its_own_lost_answer_does_not_lock_it_out(lease_of, bucket):
    one = lease_of("one")
    bucket.lose_answers = True
    assert not await one.try_acquire()
    bucket.lose_answers = False
    assert await one.try_acquire()
    assert one.held


async def test_unreachable_is_not_acquired(lease_of, bucket):
    bucket.reachable = False
    assert not await lease_of("one").try_acquire()


async def test_a_stranger_in_the_key_is_waited_for(lease_of, bucket):
    await bucket.create(KEY, b"not a lease", ttl_s=15)
    assert not await lease_of("one").try_acquire()
    bucket.at = 16
    assert await lease_of("one").try_acquire()


@pytest.mark.parametrize("seed", range(30))
async def test_never_two_at_once_and_epochs_grow(bucket, seed):
    """Three contenders with chance outages, lost answers, pauses and releases. The clock moves by hand."""
    rng = random.Random(seed)
    leases = [Lease(bucket, KEY, name, times=LeaseTimes(), monotonic=lambda: bucket.at) for name in "abc"]
    epochs: list[int] = []
    for _ in range(400):
        bucket.at += rng.choice((0.0, 0.1, 1.0, 3.0, 8.0))
        bucket.reachable = rng.random() > 0.2
        bucket.lose_answers = rng.random() < 0.2
        lease = rng.choice(leases)
        if rng.random() < 0.05:
            await lease.release()
        elif not lease.held:
            if await lease.try_acquire():
                epochs.append(lease.epoch)
        else:
            try:
                await lease._write(Entry(KEY, b"", lease._revision))
            except Conflict:
                if not await lease._is_still_ours():
                    lease._until = float("-inf")
            except BusUnavailable:
                pass
        assert sum(lease.held for lease in leases) <= 1
    assert epochs == sorted(set(epochs))
    assert len(epochs) > 5


# --- on a real server ------------------------------------------------------------------------------------------------


@pytest.fixture
async def contender(fresh_nats_server, bus_for):
    async def make(owner: str, times: LeaseTimes = QUICK) -> Lease:
        bus = await bus_for("scaler", server=fresh_nats_server)
        return Lease(bus.bucket(subjects.BUCKET_LEASE), KEY, owner, times=times)

    return make


async def test_keeps_it_as_long_as_it_renews(contender):
    one, two = await contender("one"), await contender("two")
    epoch = await one.acquire()
    keeping = asyncio.create_task(one.keep())
    await asyncio.sleep(2.5)
    assert one.held
    assert one.epoch == epoch
    assert not await two.try_acquire()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_vanished_leader_is_followed_by_the_next(contender):
    one, two = await contender("one"), await contender("two")
    await one.acquire()
    taking_over = asyncio.create_task(two.acquire())
    async with asyncio.timeout(10):
        while not taking_over.done():
            await asyncio.sleep(0.01)
            assert not (one.held and two.held)
    assert two.epoch > one.epoch


async def test_a_crash_of_the_server_does_not_cost_the_lease(contender, fresh_nats_server):
    one = await contender("one", LeaseTimes(ttl_s=15, renew_s=0.1))
    epoch = await one.acquire()
    keeping = asyncio.create_task(one.keep())
    fresh_nats_server.kill(signal.SIGKILL)
    await fresh_nats_server.stop()
    await asyncio.sleep(0.3)
    await fresh_nats_server.start()
    until = one._until
    async with asyncio.timeout(10):
        while one._until == until:  # renewed after the restart
            await asyncio.sleep(0.02)
    assert one.held
    assert one.epoch == epoch
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_cut_off_for_too_long_it_stops_by_itself(contender, fresh_nats_server):
    one = await contender("one")
    await one.acquire()
    await fresh_nats_server.stop()
    async with asyncio.timeout(5):
        await one.keep()
    assert not one.held


async def test_when_it_is_taken_away_it_notices_at_the_next_renewal(contender, fresh_nats_server, bus_for):
    one = await contender("one", LeaseTimes(ttl_s=15, renew_s=0.1))
    await one.acquire()
    admin = await bus_for("scaler", server=fresh_nats_server)
    await admin.bucket(subjects.BUCKET_LEASE).put(KEY, msgspec.json.encode(LeaseRecord(owner="operator")))
    async with asyncio.timeout(5):
        await one.keep()
    assert not one.held


async def test_release_frees_it_for_the_one_who_waits(contender):
    one, two = await contender("one"), await contender("two", LeaseTimes(ttl_s=15, renew_s=0.05))
    await one.acquire()
    waiting = asyncio.create_task(two.acquire())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await one.release()
    async with asyncio.timeout(1.0):
        assert await waiting > one.epoch
