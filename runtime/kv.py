"""A key-value bucket on a JetStream stream: reads by the leader, writes by compare-and-set, per-key TTL.

Spelt out on the stream's own protocol, because nats-py's KeyValue has no TTL on put and update, and trips over the
markers that an expired key leaves behind (its get returns an empty entry, its create fails until the marker is gone).
"""

from __future__ import annotations

from . import js_names
from .bus import Entry
from .errors import BusRefused, Conflict
from .jetstream import H_EXPECTED_REVISION, H_KV_OPERATION, H_ROLLUP, H_TTL, JetStream, Stored

#: How long the marker of a deleted key stays, so that views hear of the deletion. After it nothing of the key is left.
TOMBSTONE_TTL_S = 3600


class NatsBucket:
    """See runtime.bus.Bucket."""

    def __init__(self, jetstream: JetStream, name: str) -> None:
        self.name = name
        self._js = jetstream
        self._stream = js_names.kv_stream(name)

    async def get(self, key: str) -> Entry | None:
        stored = await self._last(key)
        return None if stored is None or stored.gone else Entry(key, stored.data, stored.seq)

    async def put(self, key: str, data: bytes, *, ttl_s: int | None = None) -> int:
        return await self._write(key, data, None, ttl_s)

    async def create(self, key: str, data: bytes, *, ttl_s: int | None = None) -> int:
        try:
            return await self._write(key, data, 0, ttl_s)
        except Conflict:
            # A marker of deletion or expiry counts as absent, yet the server compares with its sequence.
            stored = await self._last(key)
            if stored is not None and not stored.gone:
                raise Conflict(f"{self.name}/{key} exists", stored.seq) from None
            return await self._write(key, data, stored.seq if stored is not None else 0, ttl_s)

    async def update(self, key: str, data: bytes, revision: int, *, ttl_s: int | None = None) -> int:
        return await self._write(key, data, revision, ttl_s)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        if revision is None:
            stored = await self._last(key)
            if stored is None or stored.gone:
                return
        # The whole history goes with it: an older value must not reappear when the marker's own time is up.
        marker = {H_KV_OPERATION: "PURGE", H_ROLLUP: "sub"}
        await self._write(key, b"", revision, TOMBSTONE_TTL_S, marker)

    async def all(self, prefix: str = "") -> list[Entry]:
        # Whole tokens can be asked for; the rest of the prefix is compared here.
        head = prefix[: prefix.rfind(".") + 1]
        pattern = js_names.kv_subject(self.name, f"{head}>")
        snapshot = await self._js.snapshot(self._stream, pattern)
        skip = len(js_names.kv_subject(self.name, ""))
        entries = [Entry(stored.subject[skip:], stored.data, stored.seq) for stored in snapshot.messages if not stored.gone]
        return [entry for entry in entries if entry.key.startswith(prefix)]

    async def _last(self, key: str) -> Stored | None:
        return await self._js.last(self._stream, js_names.kv_subject(self.name, _checked(key)))

    async def _write(
        self, key: str, data: bytes, revision: int | None, ttl_s: int | None, headers: dict[str, str] | None = None
    ) -> int:
        headers = dict(headers or {})
        if revision is not None:
            headers[H_EXPECTED_REVISION] = str(revision)
        if ttl_s is not None:
            headers[H_TTL] = f"{max(1, ttl_s)}s"
        seq, _ = await self._js.append(js_names.kv_subject(self.name, _checked(key)), data, headers)
        return seq


def _checked(key: str) -> str:
    """A wildcard or an empty token in a key would read or write somebody else's."""
    if not key or any(not token or token in {"*", ">"} or not token.isprintable() or " " in token for token in key.split(".")):
        raise BusRefused(f"not a key: {key!r}", "keys are tokens joined by dots")
    return key
