"""A person's word over the engine's, for a while: how many hot workers there shall be at least or at most, said by whom, why, until when."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from schemas import events
from schemas.records import EndpointRecord, Override

from . import problems, wholeness
from .calls import Call, Table, reply
from .store import EndpointStore

DEFAULT_FOR_S = 3600.0
MAX_REASON_CHARS = 300


class OverrideFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PUT. It always ends: after `for_s` seconds or at `expires_at` (unix s), and else after an hour."""

    hot_min: int | None = None
    hot_max: int | None = None
    for_s: float | None = None
    expires_at: float | None = None
    reason: str = ""


class OverrideAdmin:
    """`now` is unix s."""

    def __init__(self, store: EndpointStore, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now

    def add_to(self, table: Table) -> None:
        table.add("PUT", "/api/v1/endpoints/{name}/override", self.put)
        table.add("DELETE", "/api/v1/endpoints/{name}/override", self.clear)

    async def put(self, call: Call) -> web.Response:
        """Replaces the one before."""
        by = await call.admin("override the scaler")
        fields = await call.json(OverrideFields)
        check(fields)
        endpoint = await self._store.named(call.params["name"])
        at = self._now()
        override = Override(
            owner=by.name or by.key_id,
            expires_at=fields.expires_at if fields.expires_at is not None else at + (fields.for_s or DEFAULT_FOR_S),
            hot_min=fields.hot_min,
            hot_max=fields.hot_max,
            reason=fields.reason.strip(),
            set_at=at,
        )

        def put(record: EndpointRecord) -> EndpointRecord:
            wrong = override.problems(record.settings, at, record.state)
            if wrong:
                raise problems.contradiction(wrong)
            return wholeness.checked(record, msgspec.structs.replace(record, override=override), at)

        text = f"{override.owner} asks for {override.says()} until {_moment(override.expires_at)}: {override.reason}"
        await self._store.change(endpoint.id, put, lambda _, after: self._told(after, by.key_id, text))
        return reply({"success": True, "result": msgspec.to_builtins(override)})

    async def clear(self, call: Call) -> web.Response:
        """Whoever set it. None there is fine."""
        by = await call.admin("clear overrides")
        endpoint = await self._store.named(call.params["name"])
        cleared: list[Override] = []

        def clear(record: EndpointRecord) -> EndpointRecord:
            cleared[:] = [record.override] if record.override is not None else []
            return msgspec.structs.replace(record, override=None)

        def tell(before: EndpointRecord, after: EndpointRecord) -> events.AnyEvent:
            said = f"{before.override.says()}, by {before.override.owner}" if before.override is not None else ""
            return self._told(after, by.key_id, f"{by.name or by.key_id} cleared the override ({said})")

        await self._store.change(endpoint.id, clear, tell)
        held = [override for override in cleared if override.expires_at > self._now()]
        return reply({"success": True, "result": msgspec.to_builtins(held[0]) if held else None})

    def _told(self, after: EndpointRecord, by: str, reason: str) -> events.AnyEvent:
        return events.EndpointChanged(
            id=f"endpoint_changed-e{after.id}-r{after.revision}",
            at=self._now(),
            endpoint_id=after.id,
            name=after.name,
            revision=after.revision,
            changed=("override",),
            by=by,
            reason=reason,
        )


def check(fields: OverrideFields) -> None:
    """Raises HttpProblem 422."""
    wrong = {}
    if not fields.reason.strip() or len(fields.reason) > MAX_REASON_CHARS or not fields.reason.isprintable():
        wrong["reason"] = f"is required: 1 to {MAX_REASON_CHARS} printable characters that tell others why"
    if fields.for_s is not None and not 0 < fields.for_s < math.inf:
        wrong["for_s"] = "must be a number of seconds above 0"
    if fields.for_s is not None and fields.expires_at is not None:
        wrong["expires_at"] = "or for_s, not both"
    if wrong:
        raise problems.bad_fields(wrong)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
