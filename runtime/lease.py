"""Who leads: a lease on one key of a bucket, with a fencing epoch.

    waiting --the key is free--> held --renewed every 3 s--> held
                                  |  |
                                  |  +--release()--> waiting       (the key is deleted: the next one leads at once)
                                  +--not renewed in time, or somebody else wrote--> lost

The key has a TTL, so a leader that vanishes is forgotten by the server after 15 s. The leader itself stops earlier: it counts
its time from *before* each write and ends a second short, so two never lead at once, whatever the clocks of machines say. What
a paused process sends after that is refused by its epoch: the revision at which the lease was taken, which only grows.

Fifteen seconds, because a cluster that loses a node cannot be written to for up to 6.5 s while it elects, and that must not cost
the leader its lease.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from schemas.records import LeaseRecord

from .bus import Bucket, Entry
from .errors import BusError, Conflict

log = structlog.get_logger()


class LeaseTimes(msgspec.Struct, frozen=True, kw_only=True):
    ttl_s: int = 15
    renew_s: float = 3.0
    margin_s: float = 1.0  #: how much earlier than the server we think it over
    request_s: float = 1.0  #: how long one write may take


class Lease:
    """acquire(), then keep() for as long as it returns not, then acquire() again; release() at a graceful stop.

    `owner` must be unique among all that ever compete at the same time: a name and something drawn at the start of the process.
    `held` is to be asked before every side effect, and `epoch` goes with it.
    """

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        owner: str,
        *,
        times: LeaseTimes = LeaseTimes(),  # noqa: B008  (frozen)
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._owner = owner
        self._times = times
        self._monotonic = monotonic
        self._revision = 0
        self._until = float("-inf")
        self.epoch = 0  #: of the newest acquisition; 0 before the first

    @property
    def held(self) -> bool:
        return self._monotonic() < self._until

    async def acquire(self) -> int:
        """Wait until it is ours; returns the epoch."""
        while not await self.try_acquire():  # noqa: ASYNC110  (the bus has no event for it)
            await asyncio.sleep(min(1.0, self._times.renew_s))
        return self.epoch

    async def try_acquire(self) -> bool:
        """One attempt. False when somebody else has it, or the bus does not answer."""
        try:
            async with asyncio.timeout(self._times.request_s):
                current = await self._bucket.get(self._key)
            if current is not None and _owner_of(current) != self._owner:
                return False
            # Our own value from an attempt whose answer was lost counts as free for us.
            await self._write(current)
        except (BusError, TimeoutError):
            return False
        self.epoch = self._revision
        log.info("lease_acquired", key=self._key, owner=self._owner, epoch=self.epoch)
        return True

    async def keep(self) -> None:
        """Renew until it is lost; then return. `held` is False by then."""
        while True:
            await asyncio.sleep(min(self._times.renew_s, max(0.0, self._until - self._monotonic())))
            if not self.held:
                break
            try:
                await self._write(Entry(self._key, b"", self._revision))
            except Conflict:
                if not await self._is_still_ours():
                    break
            except (BusError, TimeoutError) as error:
                left_s = self._until - self._monotonic()
                log.warning("lease_not_renewed", key=self._key, left_s=round(left_s, 1), error=str(error) or "timeout")
                await asyncio.sleep(max(0.0, min(self._times.renew_s / 10, left_s)))
        self._until = float("-inf")
        log.warning("lease_lost", key=self._key, owner=self._owner, epoch=self.epoch)

    async def release(self) -> None:
        """Give it back, so that the next one need not wait. When the bus does not answer, it runs out by itself."""
        was_held, self._until = self.held, float("-inf")
        if not was_held:
            return
        try:
            async with asyncio.timeout(self._times.request_s):
                await self._bucket.delete(self._key, revision=self._revision)
        except (BusError, TimeoutError) as error:
            log.warning("lease_not_released", key=self._key, error=str(error) or "timeout")
        else:
            log.info("lease_released", key=self._key, owner=self._owner, epoch=self.epoch)

    async def _write(self, current: Entry | None) -> None:
        data = msgspec.json.encode(LeaseRecord(owner=self._owner, epoch=self.epoch))
        started = self._monotonic()  # the server's TTL starts no earlier
        async with asyncio.timeout(self._times.request_s):
            if current is None:
                revision = await self._bucket.create(self._key, data, ttl_s=self._times.ttl_s)
            else:
                revision = await self._bucket.update(self._key, data, current.revision, ttl_s=self._times.ttl_s)
        self._revision = revision
        self._until = started + self._times.ttl_s - self._times.margin_s

    async def _is_still_ours(self) -> bool:
        """After a conflict: a renewal of our own whose answer was lost has the newer revision."""
        try:
            async with asyncio.timeout(self._times.request_s):
                current = await self._bucket.get(self._key)
        except (BusError, TimeoutError):
            return True  # unknown; the deadline decides
        if current is None or _owner_of(current) != self._owner:
            return False
        self._revision = current.revision
        return True


def _owner_of(entry: Entry) -> str:
    try:
        return msgspec.json.decode(entry.data, type=LeaseRecord).owner
    except msgspec.DecodeError:
        return ""  # not written by us: nobody we know, so not ours
