"""Rolling updates, as Vast's clients ask for them: all workers of a group make way for new ones, or those that have not yet may stay.

An update is nothing but a new revision of the group: the scaler replaces what is older, the new one first, and drains the old. So it needs
no memory of its own, and a router that dies forgets none.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from schemas import events
from schemas.http import ErrorCode
from schemas.ids import GroupId
from schemas.records import EndpointRecord, Template, WorkerGroup
from schemas.states import HOT, WorkerState

from .admin_templates import Templates
from .calls import Call, Table, reply
from .problems import HttpProblem
from .store import EndpointStore, no_group
from .switchboard import Switchboard

_EXISTING = HOT | {WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.STOPPED}
#: No worker is older than its group's first revision.
_ALL_MAY_STAY = 1


class UpdateFields(msgspec.Struct, frozen=True, kw_only=True):
    workergroup_id: int
    cancel_update: bool | None = None


class UpdateAdmin:
    """`now` is unix s."""

    def __init__(self, store: EndpointStore, templates: Templates, board: Switchboard, now: Callable[[], float]) -> None:
        self._store = store
        self._templates = templates
        self._board = board
        self._now = now

    def add_to(self, table: Table) -> None:
        table.add("POST", "/update_workers/", self.update)

    async def update(self, call: Call) -> web.Response:
        by = (await call.admin("update workers")).key_id
        fields = await call.json(UpdateFields)
        group_id = GroupId(fields.workergroup_id)
        endpoint = await self._store.of_group(group_id)
        if fields.cancel_update:
            before = _group(endpoint, group_id)
            kept = self._older_than(endpoint, group_id, before.revision)
            if before.oldest_revision == _ALL_MAY_STAY or not kept:
                raise HttpProblem(
                    409, ErrorCode.CONFLICT, f"No update of worker group {group_id} is under way; there is nothing to cancel."
                )
            await self._write(endpoint, group_id, _cancelled, by)
            return reply({"success": True, "cancelled": True, "workers_kept": kept})
        template = await self._newest_template(_group(endpoint, group_id))
        after = await self._write(endpoint, group_id, lambda group: _updated(group, template), by)
        revision = _group(after, group_id).revision
        return reply({"success": True, "workers_to_update": self._older_than(after, group_id, revision), "revision": revision})

    async def _newest_template(self, group: WorkerGroup) -> Template:
        """The one of that name as it is now; the group's own copy when it is stored no more."""
        try:
            return await self._templates.find(group.template.name)
        except HttpProblem:
            return group.template

    async def _write(
        self, endpoint: EndpointRecord, group_id: GroupId, change: Callable[[WorkerGroup], WorkerGroup], by: str
    ) -> EndpointRecord:
        def changed(record: EndpointRecord) -> EndpointRecord:
            after = change(_group(record, group_id))
            return msgspec.structs.replace(record, groups=tuple(after if g.id == group_id else g for g in record.groups))

        def tell(before: EndpointRecord, after: EndpointRecord) -> events.AnyEvent:
            was, now = _group(before, group_id), _group(after, group_id)
            return events.GroupChanged(
                id=f"group_changed-g{group_id}-r{after.revision}",
                at=self._now(),
                endpoint_id=after.id,
                group_id=group_id,
                revision=now.revision,
                changed=tuple(
                    name for name in ("template", "revision", "oldest_revision") if getattr(was, name) != getattr(now, name)
                ),
                by=by,
            )

        return await self._store.change(endpoint.id, changed, tell)

    def _older_than(self, endpoint: EndpointRecord, group_id: GroupId, revision: int) -> int:
        """Workers of the group that exist and are older, as far as this router knows."""
        desk = self._board.desks.get(endpoint.id)
        workers = desk.fleet.workers.values() if desk is not None else ()
        return sum(
            worker.group_id == group_id and worker.record.revision < revision and worker.record.state in _EXISTING
            for worker in workers
        )


def _updated(group: WorkerGroup, template: Template) -> WorkerGroup:
    return msgspec.structs.replace(group, template=template, revision=group.revision + 1, oldest_revision=0)


def _cancelled(group: WorkerGroup) -> WorkerGroup:
    return msgspec.structs.replace(group, oldest_revision=_ALL_MAY_STAY)


def _group(record: EndpointRecord, group_id: GroupId) -> WorkerGroup:
    group = record.group(group_id)
    if group is None:
        raise no_group(group_id)
    return group
