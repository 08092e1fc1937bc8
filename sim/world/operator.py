"""Who creates, changes and deletes endpoints: the admin API's own store, on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from router.store import EndpointStore
from runtime.errors import BusError
from schemas import codec, events, subjects
from schemas.ids import EndpointId, GroupId
from schemas.records import EndpointRecord, ScalingSettings, WorkerGroup
from schemas.states import EndpointState
from sim.broker import Broker
from sim.bus import MemoryBus

BY = "operator"
_replace = msgspec.structs.replace


class Operator:
    """Every call is repeated until the bus has taken it: a person tries again."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._bus = MemoryBus(broker, BY)
        self._store = EndpointStore(self._bus, lambda *_: None, broker.now)
        self._resumed = 0

    async def create(self, name: str, *groups: WorkerGroup, **settings: Any) -> EndpointRecord:
        """An endpoint with these groups; `settings` are those of ScalingSettings. Raises HttpProblem."""
        at = self._broker.now()

        def make(endpoint_id: EndpointId) -> EndpointRecord:
            return EndpointRecord(
                id=endpoint_id, name=name, settings=ScalingSettings(**settings), groups=groups, created_at=at, changed_at=at
            )

        while True:
            try:
                return await self._store.create(name, make, BY)
            except BusError:
                await asyncio.sleep(1.0)
                known = [record for record in await self._store.all() if record.name == name]
                if known:
                    return known[0]

    async def sets(self, endpoint: EndpointRecord, **settings: Any) -> EndpointRecord:
        return await self._change(endpoint, lambda record: _replace(record, settings=_replace(record.settings, **settings)))

    async def turns(self, endpoint: EndpointRecord, state: EndpointState) -> EndpointRecord:
        """Active, suspended or stopped."""
        return await self._change(endpoint, lambda record: _replace(record, state=state))

    async def changes_group(self, endpoint: EndpointRecord, group_id: GroupId, **fields: Any) -> EndpointRecord:
        """A changed template is a new revision, as in the admin API."""

        def change(record: EndpointRecord) -> EndpointRecord:
            groups = []
            for group in record.groups:
                if group.id == group_id:
                    revises = "template" in fields and fields["template"] != group.template
                    group = _replace(group, **fields, revision=group.revision + revises)  # noqa: PLW2901 -- the changed one
                groups.append(group)
            return _replace(record, groups=tuple(groups))

        return await self._change(endpoint, change)

    async def deletes(self, endpoint: EndpointRecord) -> None:
        await self._insist(lambda: self._store.delete(endpoint.id, BY))

    async def resumes(self, endpoint: EndpointRecord, group_id: GroupId) -> None:
        """Closes a group's breaker."""
        self._resumed += 1
        event = events.GroupResumed(
            id=f"group_resumed-g{group_id}-{self._resumed}",
            at=self._broker.now(),
            endpoint_id=endpoint.id,
            group_id=group_id,
            by=BY,
        )
        subject = subjects.event(events.kind_of(event), endpoint.id)
        await self._insist(lambda: self._bus.append(subject, codec.encode(event), msg_id=event.id))

    async def _change(self, endpoint: EndpointRecord, change: Callable[[EndpointRecord], EndpointRecord]) -> EndpointRecord:
        def tell(_: EndpointRecord, after: EndpointRecord) -> events.AnyEvent:
            return events.EndpointChanged(
                id=f"endpoint_changed-e{after.id}-r{after.revision}",
                at=self._broker.now(),
                endpoint_id=after.id,
                name=after.name,
                revision=after.revision,
                by=BY,
            )

        changed: EndpointRecord = await self._insist(lambda: self._store.change(endpoint.id, change, tell))
        return changed

    @staticmethod
    async def _insist(do: Callable[[], Any]) -> Any:
        while True:
            try:
                return await do()
            except BusError:
                await asyncio.sleep(1.0)
