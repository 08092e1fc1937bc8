"""One thing at a time per worker: commands and reconciliation take turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.ids import WorkerId


class Locks:
    """A lock per worker that exists while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[WorkerId, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def holding(self, worker_id: WorkerId) -> AsyncIterator[None]:
        lock, users = self._locks.get(worker_id, (asyncio.Lock(), 0))
        self._locks[worker_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[worker_id]
            if users == 1:
                del self._locks[worker_id]
            else:
                self._locks[worker_id] = (lock, users - 1)

    def is_held(self, worker_id: WorkerId) -> bool:
        return worker_id in self._locks
