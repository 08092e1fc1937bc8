"""API keys over HTTP. A key is shown once, when it is made; only its hash is kept."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from runtime.bus import Bus, Entry
from schemas import codec, subjects
from schemas.ids import EndpointId
from schemas.records import ApiKeyRecord

from . import api_keys, problems
from .calls import Call, Table, reply
from .legible import legible

MAX_NAME_CHARS = 128
Applied = Callable[[str, "bytes | None", int], None]


class KeyFields(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    role: str = api_keys.CLIENT
    endpoints: tuple[int, ...] = ()  #: empty: all
    expires_in_s: float | None = None  #: null: never


class KeyAdmin:
    """`applied` hears of each write as a view would; `now` is unix s."""

    def __init__(self, bus: Bus, applied: Applied, now: Callable[[], float]) -> None:
        self._bucket = bus.bucket(subjects.BUCKET_KEYS)
        self._applied = applied
        self._now = now

    def add_to(self, table: Table) -> None:
        table.add("GET", "/api/v1/keys/", self.list_all)
        table.add("POST", "/api/v1/keys/", self.create)
        table.add("DELETE", "/api/v1/keys/{id}", self.revoke)

    async def list_all(self, call: Call) -> web.Response:
        await call.admin("list API keys")
        return reply({"success": True, "results": [msgspec.to_builtins(record) for record, _ in await self._all()]})

    async def create(self, call: Call) -> web.Response:
        await call.admin("create API keys")
        fields = await call.json(KeyFields)
        check(fields)
        key, at = api_keys.new_key(), self._now()
        record = ApiKeyRecord(
            id=f"k{secrets.token_hex(6)}",
            name=fields.name,
            role=fields.role,
            endpoints=tuple(map(EndpointId, fields.endpoints)),
            created_at=at,
            expires_at=None if fields.expires_in_s is None else at + fields.expires_in_s,
        )
        digest, data = api_keys.sha256_hex(key), codec.encode(record)
        self._applied(digest, data, await self._bucket.create(digest, data))
        shown: dict[str, Any] = msgspec.to_builtins(record)
        return reply({"success": True, "key": key, "result": shown, "msg": "This key is shown only now."})

    async def revoke(self, call: Call) -> web.Response:
        await call.admin("revoke API keys")
        for record, entry in await self._all():
            if record.id == call.params["id"]:
                await self._bucket.delete(entry.key)
                self._applied(entry.key, None, entry.revision)
                return reply({"success": True, "result": call.params["id"]})
        raise problems.not_found(f"API key {call.params['id'][:80]!r}", "GET /api/v1/keys lists them.")

    async def _all(self) -> list[tuple[ApiKeyRecord, Entry]]:
        return legible(subjects.BUCKET_KEYS, await self._bucket.all(), lambda data: codec.decode(data, ApiKeyRecord))


def check(fields: KeyFields) -> None:
    """Raises HttpProblem 422."""
    wrong = {}
    if len(fields.name) > MAX_NAME_CHARS:
        wrong["name"] = f"must be at most {MAX_NAME_CHARS} characters"
    if fields.role not in api_keys.ROLES:
        wrong["role"] = f"must be one of {', '.join(api_keys.ROLES)}"
    if fields.expires_in_s is not None and not 0 < fields.expires_in_s < float("inf"):
        wrong["expires_in_s"] = "must be a number of seconds above 0, or null"
    if wrong:
        raise problems.bad_fields(wrong)
