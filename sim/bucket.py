"""Buckets of a simulated broker, and the live mirror of one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from runtime.bus import Entry, OnChange
from runtime.errors import BusRefused

from .broker import Value
from .link import Link, Pipe


class MemoryBucket:
    """See runtime.bus.Bucket."""

    def __init__(self, link: Link, name: str) -> None:
        """Raises StreamMissing."""
        self.name = name
        self._link = link
        self._table = link.broker.table(name)

    async def get(self, key: str) -> Entry | None:
        await self._link.travel()
        value = self._table.values.get(_checked(key))
        return None if value is None else Entry(key, value.data, value.revision)

    async def put(self, key: str, data: bytes, *, ttl_s: int | None = None) -> int:
        return await self._write(key, data, None, ttl_s)

    async def create(self, key: str, data: bytes, *, ttl_s: int | None = None) -> int:
        return await self._write(key, data, 0, ttl_s)

    async def update(self, key: str, data: bytes, revision: int, *, ttl_s: int | None = None) -> int:
        return await self._write(key, data, revision, ttl_s)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        await self._link.travel()
        self._table.delete(_checked(key), revision)
        self._link.confirm(f"{self.name}/{key}")

    async def all(self, prefix: str = "") -> list[Entry]:
        await self._link.travel()
        return [Entry(key, value.data, value.revision) for key, value in self._table.values.items() if key.startswith(prefix)]

    async def _write(self, key: str, data: bytes, expected: int | None, ttl_s: int | None) -> int:
        await self._link.travel()
        revision = self._table.write(_checked(key), data, expected, None if ttl_s is None else max(1, ttl_s))
        self._link.confirm(f"{self.name}/{key}")
        return revision


def _checked(key: str) -> str:
    """Raises BusRefused when it is not a key that a real bucket would take."""
    if not key or any(not part or part in {"*", ">"} or " " in part for part in key.split(".")):
        raise BusRefused(f"not a key: {key!r}", "keys are tokens joined by dots")
    return key


class MemoryView:
    """See runtime.bus.View. open(), then close()."""

    def __init__(self, link: Link, name: str, on_change: OnChange | None) -> None:
        """Raises StreamMissing."""
        self._link = link
        self._table = link.broker.table(name)
        self._on_change = on_change
        self._map: dict[str, Entry] = {}
        self._synced = asyncio.Event()
        self._pipe = Pipe(link)
        self._proved_s = asyncio.get_running_loop().time()
        self._behind = True  # something may have changed that the feed did not bring: only a snapshot helps

    @property
    def map(self) -> Mapping[str, Entry]:
        return MappingProxyType(self._map)

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    @property
    def age_s(self) -> float:
        return 0.0 if self._link.connected else asyncio.get_running_loop().time() - self._proved_s

    async def wait_synced(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self._synced.wait()

    def open(self) -> None:
        self._table.listeners.append(self._changed)
        self._link.on_change.append(self._link_changed)
        self._link_changed()

    def close(self) -> None:
        self._on_change = None
        self._table.listeners.remove(self._changed)
        self._link.on_change.remove(self._link_changed)

    def _link_changed(self) -> None:
        if self._link.connected:
            self._pipe.send(self._take_snapshot)
        else:
            self._proved_s = asyncio.get_running_loop().time()
            self._behind = True

    def _changed(self, key: str, value: Value | None, revision: int) -> None:
        if self._link.connected:
            self._pipe.send(lambda: self._apply(key, value, revision))
        else:
            self._behind = True

    def _take_snapshot(self) -> None:
        if not self._behind or not self._link.connected:
            return
        self._behind = False
        now = {key: Entry(key, value.data, value.revision) for key, value in self._table.values.items()}
        old, self._map = self._map, now
        for key in old.keys() - now.keys():
            self._tell(key, None, self._table.revision)
        for key, entry in now.items():
            if old.get(key) != entry:
                self._tell(key, entry.data, entry.revision)
        self._synced.set()

    def _apply(self, key: str, value: Value | None, revision: int) -> None:
        if not self._link.connected:
            self._behind = True
            return
        known = self._map.get(key)
        if self._behind or (known is not None and known.revision >= revision):
            return  # a snapshot follows, or has brought it already
        if value is not None:
            self._map[key] = Entry(key, value.data, value.revision)
            self._tell(key, value.data, revision)
        elif self._map.pop(key, None) is not None:
            self._tell(key, None, revision)

    def _tell(self, key: str, data: bytes | None, revision: int) -> None:
        if self._on_change is not None:
            self._on_change(key, data, revision)
