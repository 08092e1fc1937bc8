"""A local mirror of one bucket that is never silently wrong.

A view takes a snapshot and then follows the bucket's stream with a cursor.

    away --connected--> snapshot --complete--> following --any doubt--> snapshot
                           ^                       |
                           +-----connection lost---+        the old map serves all the while

Doubt is: a new connection, a bucket that was made anew, or another number of keys than the leader counts (keys that
expired without a word). The leader is asked every two seconds; that is also how late the expiry of a key is noticed at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from types import MappingProxyType

import structlog

from . import js_names
from .bus import Entry, OnChange
from .connection import Link
from .cursor import Cursor
from .errors import BusError, BusUnavailable
from .jetstream import JetStream, Stored

log = structlog.get_logger()

_AUDIT_S = 2.0
_RETRY_S = (0.05, 1.0)


class KVView:
    """See runtime.bus.View. start(), then stop()."""

    def __init__(self, link: Link, jetstream: JetStream, bucket: str, on_change: OnChange | None = None) -> None:
        self._link = link
        self._js = jetstream
        self._bucket = bucket
        self._stream = js_names.kv_stream(bucket)
        self._prefix = js_names.kv_subject(bucket, "")
        self._on_change = on_change
        self._map: dict[str, Entry] = {}
        self._subjects: set[str] = set()  # every subject the stream has, markers of deletion too
        self._cursor = Cursor(link, jetstream, self._stream, [js_names.kv_all(bucket)])
        self._created = ""
        self._proved_at = time.monotonic()
        self._synced = asyncio.Event()
        self._doubt = True
        self._tasks = contextlib.AsyncExitStack()
        self.snapshots = 0  #: how often a snapshot was taken

    @property
    def map(self) -> Mapping[str, Entry]:
        return MappingProxyType(self._map)

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._proved_at

    async def wait_synced(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self._synced.wait()

    async def start(self) -> None:
        await self._cursor.open()
        self._tasks.push_async_callback(self._cursor.close)
        self._link.on_up.append(self._on_up)
        self._tasks.callback(self._link.on_up.remove, self._on_up)
        task = asyncio.create_task(self._run(), name=f"view {self._bucket}")
        self._tasks.push_async_callback(_cancel, task)

    async def stop(self) -> None:
        await self._tasks.aclose()

    def _on_up(self) -> None:
        self._doubt = True
        self._cursor.wake()

    async def _run(self) -> None:
        wait_s = _RETRY_S[0]
        while True:
            try:
                await self._follow_until_doubt()
                wait_s = _RETRY_S[0]
            except (BusError, TimeoutError) as error:
                if self._link.connected:
                    log.warning("view_failed", bucket=self._bucket, error=str(error) or type(error).__name__)
                self._doubt = True
                await self._cursor.rest(wait_s)
                wait_s = min(wait_s * 2, _RETRY_S[1])

    async def _follow_until_doubt(self) -> None:
        if self._doubt:
            await self._take_snapshot()
        audit_at = time.monotonic() + _AUDIT_S
        while not self._doubt:
            await self._cursor.wait(audit_at - time.monotonic())
            if not self._link.connected:
                raise BusUnavailable("not connected")
            await self._cursor.read(self._apply)
            self._proved_at = time.monotonic()
            if time.monotonic() >= audit_at:
                await self._audit()
                audit_at = time.monotonic() + _AUDIT_S

    async def _take_snapshot(self) -> None:
        self._doubt = False  # what raises doubt from here on is seen after the snapshot
        snapshot = await self._js.snapshot(self._stream, f"{self._prefix}>")
        self._proved_at = time.monotonic()
        self.snapshots += 1
        old, new = self._map, {}
        for stored in snapshot.messages:
            if not stored.gone:
                key = stored.subject[len(self._prefix) :]
                new[key] = Entry(key, stored.data, stored.seq)
        self._map = new
        self._subjects = {stored.subject for stored in snapshot.messages}
        self._created = snapshot.created
        self._cursor.seek(snapshot.seq)
        for key in old.keys() - new.keys():
            self._tell(key, None, 0)
        for key, entry in new.items():
            if old.get(key) != entry:
                self._tell(key, entry.data, entry.revision)
        if not self.synced:
            log.info("view_synced", bucket=self._bucket, keys=len(new))
        self._synced.set()

    async def _audit(self) -> None:
        """Compare with the leader. The server's subjects are a subset of ours once we have read all, so equal counts mean equal sets."""
        facts = await self._js.facts(self._stream)
        self._proved_at = time.monotonic()
        if facts.created != self._created or facts.last_seq < self._cursor.seq:
            log.warning("view_bucket_made_anew", bucket=self._bucket)
            self._doubt = True
        elif facts.last_seq == self._cursor.seq and facts.num_subjects != len(self._subjects):
            self._doubt = True

    def _apply(self, stored: Stored) -> None:
        key = stored.subject[len(self._prefix) :]
        self._subjects.add(stored.subject)
        if stored.gone:
            if self._map.pop(key, None) is not None:
                self._tell(key, None, stored.seq)
        else:
            self._map[key] = Entry(key, stored.data, stored.seq)
            self._tell(key, stored.data, stored.seq)

    def _tell(self, key: str, data: bytes | None, revision: int) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(key, data, revision)
        except Exception:
            log.exception("view_listener_failed", bucket=self._bucket, key=key)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
