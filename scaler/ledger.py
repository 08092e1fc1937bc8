"""Keeps KV corral_workers true: the routers' feed. One writer, on slow change only, and at once.

Level-triggered: what was noted is compared with what stands there when its turn comes, so many changes may become one write, and
what somebody else put there is put right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from runtime.bus import Bucket
from runtime.errors import BusError
from runtime.lease import Lease
from schemas import codec, subjects
from schemas.ids import EndpointId, WorkerId

from . import news, records
from .desk import Desk
from .metrics import Metrics
from .observations import DrainShown
from .outbox import Outbox

log = structlog.get_logger()

_AT_ONCE = 32
_RETRY_S = 0.2

Key = tuple[EndpointId, WorkerId]


class Ledger:
    """note() whoever may have changed; run() writes until cancelled, and only while the lease is held."""

    def __init__(
        self,
        *,
        bucket: Bucket,
        desks: dict[EndpointId, Desk],
        lease: Lease,
        outbox: Outbox,
        now: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._bucket = bucket
        self._desks = desks
        self._lease = lease
        self._outbox = outbox
        self._now = now
        self._metrics = metrics
        self._noted: dict[Key, None] = {}
        self._news = asyncio.Event()

    def note(self, desk: Desk, worker_id: WorkerId) -> None:
        self._noted[desk.id, worker_id] = None
        self._news.set()

    def stands(self, desk: Desk, worker_id: WorkerId, data: bytes | None, revision: int) -> None:
        """What the bucket was seen to hold. Another value than ours is written over."""
        if 0 < revision <= desk.written_revision.get(worker_id, 0):
            return  # our own write, or one before it
        ours = desk.written.get(worker_id)
        if data is None:
            if ours is not None:
                del desk.written[worker_id]
                self.note(desk, worker_id)
            return
        try:
            theirs = codec.worker_record(data)
        except msgspec.DecodeError:
            self.note(desk, worker_id)
            return
        if theirs != ours:
            desk.written[worker_id] = theirs
            self.note(desk, worker_id)

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._noted:
                batch = list(self._noted)[:_AT_ONCE]
                for key in batch:
                    del self._noted[key]
                results = await asyncio.gather(*(self._write(key) for key in batch))
                failed = [key for key, ok in zip(batch, results, strict=True) if not ok]
                if failed:
                    self._noted = dict.fromkeys(failed) | self._noted
                    await asyncio.sleep(_RETRY_S)

    async def _write(self, key: Key) -> bool:
        """False: not written, try again."""
        desk = self._desks.get(key[0])
        if desk is None:
            return True
        worker_id = key[1]
        worker = desk.state.workers.get(worker_id)
        before = desk.written.get(worker_id)
        name = subjects.worker_key(desk.id, worker_id)
        after = None
        if worker is not None:
            after = records.worker_record(desk.id, worker, desk.instances.get(worker_id), desk.beats.get(worker_id))
        if after == before:
            return True
        if not self._lease.held:
            return False
        try:
            if after is None:
                await self._bucket.delete(name)
            else:
                desk.written_revision[worker_id] = await self._bucket.put(name, codec.encode(after))
        except BusError as error:
            log.warning("record_not_written", worker=worker_id, endpoint=desk.id, error=error.message)
            return False
        self._metrics.record_writes.inc()
        if after is None:
            desk.written.pop(worker_id, None)
            desk.written_revision.pop(worker_id, None)
            desk.beats.pop(worker_id, None)
            return True
        desk.written[worker_id] = after
        assert worker is not None
        if after.drain_since_at is not None:
            desk.fold(DrainShown(at=self._now(), worker_id=worker_id))
        for event in news.of_change(before, after, worker, self._now()):
            self._outbox.tell(event)
        if before is None or before.state is not after.state:
            log.info("worker_changed", worker=worker_id, endpoint=desk.id, state=after.state, before=before and before.state)
        return True
