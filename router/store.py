"""Endpoints as the admin API reads and writes them: KV corral_endpoints by compare-and-set, and the event that tells it.

A record is read from the stream's leader, changed by a pure function and written if nobody was faster; then the change is
applied here at once, so that a caller sees his own write, and the event goes out under a name that makes a repeat harmless.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from runtime.bus import Bus, Entry
from runtime.errors import BusError, Conflict
from schemas import codec, events, subjects
from schemas.http import ErrorCode
from schemas.ids import EndpointId, GroupId
from schemas.records import EndpointRecord

from . import problems
from .legible import legible, the_one
from .problems import HttpProblem

log = structlog.get_logger()

#: Writers of one record who collide more often than this are doing something wrong.
ATTEMPTS = 16
Applied = Callable[[str, "bytes | None", int], None]


class EndpointStore:
    """`applied` hears of each write as a view would; `now` is unix s. Methods raise HttpProblem, and BusUnavailable."""

    def __init__(self, bus: Bus, applied: Applied, now: Callable[[], float]) -> None:
        self._bus = bus
        self._bucket = bus.bucket(subjects.BUCKET_ENDPOINTS)
        self._applied = applied
        self._now = now

    async def get(self, endpoint_id: EndpointId) -> EndpointRecord:
        """Raises HttpProblem 404."""
        record, _ = await self._read(endpoint_id)
        return record

    async def all(self) -> list[EndpointRecord]:
        """In the order of their ids."""
        return sorted((record for record, _ in await self._all()), key=lambda record: record.id)

    async def named(self, name: str) -> EndpointRecord:
        """By name, or by id in digits. Raises HttpProblem 404."""
        for record in await self.all():
            if record.name == name or str(record.id) == name:
                return record
        raise problems.no_endpoint(name)

    async def create(self, name: str, make: Callable[[EndpointId], EndpointRecord], by: str) -> EndpointRecord:
        """Raises HttpProblem 409 when the name is taken."""
        await self._name_is_free(name)
        record = make(EndpointId(await self._next_id()))
        key, data = subjects.endpoint_key(record.id), codec.encode(record)
        revision = await self._bucket.create(key, data)
        # Two who create the same name at once both see it free. The one who wrote later withdraws.
        for other, entry in await self._all():
            if other.name == record.name and other.id != record.id and (entry.revision < revision or other.revision > 1):
                await self._bucket.delete(key, revision=revision)
                raise name_taken(record.name)
        self._applied(key, data, revision)
        await self._tell(
            events.EndpointCreated(
                id=f"endpoint_created-e{record.id}", at=self._now(), endpoint_id=record.id, name=record.name, by=by
            )
        )
        return record

    async def change(
        self,
        endpoint_id: EndpointId,
        change: Callable[[EndpointRecord], EndpointRecord],
        tell: Callable[[EndpointRecord, EndpointRecord], events.AnyEvent],
    ) -> EndpointRecord:
        """Write what `change` makes of the newest record, if it differs. `change` must be pure: it runs again after a collision.
        `tell(before, after)` makes the event.
        """
        for _ in range(ATTEMPTS):
            before, entry = await self._read(endpoint_id)
            wanted = change(before)
            if wanted == before:
                return before
            after = msgspec.structs.replace(wanted, revision=before.revision + 1, changed_at=self._now())
            if after.name != before.name:
                await self._name_is_free(after.name)
            data = codec.encode(after)
            try:
                revision = await self._bucket.update(entry.key, data, entry.revision)
            except Conflict:
                continue
            self._applied(entry.key, data, revision)
            await self._tell(tell(before, after))
            return after
        raise HttpProblem(409, ErrorCode.CONFLICT, "Others keep changing this endpoint at the same time. Try again.")

    async def delete(self, endpoint_id: EndpointId, by: str) -> EndpointRecord:
        """Its workers are destroyed by the scaler, which sees that it is gone."""
        for _ in range(ATTEMPTS):
            record, entry = await self._read(endpoint_id)
            try:
                await self._bucket.delete(entry.key, revision=entry.revision)
            except Conflict:
                continue
            self._applied(entry.key, None, entry.revision)
            await self._tell(
                events.EndpointDeleted(
                    id=f"endpoint_deleted-e{record.id}", at=self._now(), endpoint_id=record.id, name=record.name, by=by
                )
            )
            return record
        raise HttpProblem(409, ErrorCode.CONFLICT, "Others keep changing this endpoint at the same time. Try again.")

    async def of_group(self, group_id: GroupId) -> EndpointRecord:
        """The endpoint that holds this group. Raises HttpProblem 404."""
        for record in await self.all():
            if record.group(group_id) is not None:
                return record
        raise no_group(group_id)

    async def next_group_id(self) -> GroupId:
        return GroupId(await self._next_id())

    async def _next_id(self) -> int:
        """One more than the last; a number once given out is never given out again."""
        for _ in range(ATTEMPTS):
            entry = await self._bucket.get(subjects.SEQUENCE_KEY)
            try:
                if entry is None:
                    await self._bucket.create(subjects.SEQUENCE_KEY, b"1")
                    return 1
                number = int(entry.data) + 1
                await self._bucket.update(subjects.SEQUENCE_KEY, str(number).encode(), entry.revision)
                return number
            except Conflict:
                continue
        raise HttpProblem(409, ErrorCode.CONFLICT, "Too many others are creating things at the same time. Try again.")

    async def _name_is_free(self, name: str) -> None:
        if any(other.name == name for other, _ in await self._all()):
            raise name_taken(name)

    async def _read(self, endpoint_id: EndpointId) -> tuple[EndpointRecord, Entry]:
        entry = await self._bucket.get(subjects.endpoint_key(endpoint_id))
        if entry is None:
            raise problems.no_endpoint(endpoint_id)
        return the_one(subjects.BUCKET_ENDPOINTS, entry, codec.endpoint_record), entry

    async def _all(self) -> list[tuple[EndpointRecord, Entry]]:
        entries = [entry for entry in await self._bucket.all() if entry.key != subjects.SEQUENCE_KEY]
        return legible(subjects.BUCKET_ENDPOINTS, entries, codec.endpoint_record)

    async def _tell(self, event: events.AnyEvent) -> None:
        """The change is made; that nobody could be told is no reason to call it failed."""
        try:
            await self._bus.append(subjects.event(events.kind_of(event), event.endpoint_id), codec.encode(event), msg_id=event.id)
        except BusError as error:
            log.warning("event_not_told", event_id=event.id, error=str(error))


def name_taken(name: str) -> HttpProblem:
    return HttpProblem(
        409, ErrorCode.NAME_TAKEN, f"There is already an endpoint named {name!r}. Choose another name, or change that one."
    )


def no_group(group_id: int) -> HttpProblem:
    return HttpProblem(404, ErrorCode.NO_GROUP, f"There is no worker group {group_id}. GET /api/v0/workergroups/ lists them.")
