"""The provisioner's memory: intents, instance records and epochs in KV, each write guarded by the revision it read."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from runtime.bus import Bus, Conflict
from schemas import codec, subjects
from schemas.commands import AnyCommand, op_of
from schemas.ids import CommandId, EndpointId, GroupId, WorkerId
from schemas.records import EndpointRecord, Failure, InstanceRecord, Intent

from . import instances, plan

log = structlog.get_logger()


class Known(msgspec.Struct, frozen=True):
    """A record with the revision to compare with; revision 0: there is none yet."""

    record: InstanceRecord | None
    revision: int


class Store:
    """Raises BusUnavailable from every method, and Conflict where a write lost against another provisioner."""

    def __init__(self, bus: Bus, *, owner: str, now: Callable[[], float]) -> None:
        self._idem = bus.bucket(subjects.BUCKET_IDEM)
        self._instances = bus.bucket(subjects.BUCKET_INSTANCES)
        self._endpoints = bus.bucket(subjects.BUCKET_ENDPOINTS)
        self._owner = owner
        self._now = now

    # --- intents ---------------------------------------------------------------------------------------------

    async def intent(self, command_id: CommandId) -> Intent | None:
        entry = await self._idem.get(subjects.intent_key(command_id))
        return None if entry is None else codec.intent(entry.data)

    async def claim(self, command: AnyCommand, body: bytes) -> Intent:
        """Ours alone from here on. Raises Conflict when another provisioner was first."""
        intent = Intent(
            command_id=command.command_id,
            op=op_of(command),
            worker_id=command.worker_id,
            status=plan.CLAIMED,
            owner=self._owner,
            at=self._now(),
            epoch=command.epoch,
            body=body.decode(),
        )
        await self._idem.create(subjects.intent_key(command.command_id), codec.encode(intent))
        return intent

    async def settle(self, intent: Intent, status: str, failure: Failure | None = None) -> None:
        """The last word about a command. Its body is not needed any more."""
        ended = msgspec.structs.replace(intent, status=status, failure=failure, at=self._now(), body="")
        await self._idem.put(subjects.intent_key(intent.command_id), codec.encode(ended))

    async def claimed(self) -> list[Intent]:
        """All claims without an end."""
        intents = []
        for entry in await self._idem.all():
            try:
                intent = codec.intent(entry.data)
            except codec.DecodeError:
                continue  # an epoch
            if intent.status == plan.CLAIMED:
                intents.append(intent)
        return intents

    # --- epochs ----------------------------------------------------------------------------------------------

    async def highest_epoch(self, command: AnyCommand) -> int:
        """The highest epoch seen for the command's shard, the command's own included."""
        key = subjects.epoch_key(command.shard)
        while True:
            entry = await self._idem.get(key)
            highest = 0 if entry is None else codec.decode(entry.data, int)
            if command.epoch <= highest:
                return highest
            try:
                if entry is None:
                    await self._idem.create(key, codec.encode(command.epoch))
                else:
                    await self._idem.update(key, codec.encode(command.epoch), entry.revision)
            except Conflict:
                continue  # another provisioner saw one too: look again
            return command.epoch

    # --- instances -------------------------------------------------------------------------------------------

    async def known(self, endpoint_id: EndpointId, worker_id: WorkerId) -> Known:
        entry = await self._instances.get(subjects.worker_key(endpoint_id, worker_id))
        return Known(None, 0) if entry is None else Known(codec.instance_record(entry.data), entry.revision)

    async def all_known(self) -> dict[WorkerId, InstanceRecord]:
        """Of all workers. A value that is no record is left to a person."""
        records: dict[WorkerId, InstanceRecord] = {}
        for entry in await self._instances.all():
            try:
                record = codec.instance_record(entry.data)
            except codec.DecodeError as error:
                log.error("instance_record_unreadable", key=entry.key, error=str(error))  # noqa: TRY400 - the trace says no more
                continue
            records[record.worker_id] = record
        return records

    async def save(self, record: InstanceRecord, revision: int, *, expires: bool = False) -> int:
        """Write over exactly that revision (0: none); returns the new one. Tombstones expire, and what is told to: records of
        workers without a machine.
        """
        key = subjects.worker_key(record.endpoint_id, record.worker_id)
        ttl_s = instances.TOMBSTONE_S if expires or instances.is_gone(record) else None
        if revision == 0:
            return await self._instances.create(key, codec.encode(record), ttl_s=ttl_s)
        return await self._instances.update(key, codec.encode(record), revision, ttl_s=ttl_s)

    # --- endpoints, which others write -------------------------------------------------------------------------

    async def endpoint(self, endpoint_id: EndpointId) -> EndpointRecord | None:
        entry = await self._endpoints.get(subjects.endpoint_key(endpoint_id))
        return None if entry is None else codec.endpoint_record(entry.data)

    async def is_wanted(self, endpoint_id: EndpointId, group_id: GroupId) -> bool:
        """Whether that endpoint still has that group."""
        endpoint = await self.endpoint(endpoint_id)
        return endpoint is not None and endpoint.group(group_id) is not None
