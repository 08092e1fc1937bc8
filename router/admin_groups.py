"""Worker groups over HTTP: Vast's paths in both its spellings, and ours beside them (weight, tier, thresholds, provider, price cap).

A weight that is not given is shown as null and kept as `by_cost`: readers that do not know that see equal weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from runtime.bus import Bus
from schemas import codec, events, subjects
from schemas.ids import EndpointId, GroupId
from schemas.records import EndpointRecord, Template, WorkerGroup

from . import problems, wholeness
from .admin_endpoints import refuse_unknown
from .admin_templates import Templates, hash_of, number_of, read_template
from .calls import Call, Table, reply
from .halts import Halt
from .store import EndpointStore, no_group

MAX_GROUPS = 64
PATHS = ("/api/v0/workergroups/", "/api/v0/autojobs/", "/api/v1/groups/")
#: Changing one of these means other workers, not just other traffic: the group's revision rises.
REVISES = ("template", "provider", "launch_args")
MAX_REASON_CHARS = 300


class GroupFields(msgspec.Struct, frozen=True, kw_only=True):
    """Body of create and change. One of template, template_hash, template_id names the template; `template` may be one
    in full.
    """

    endpoint_id: int | None = None
    endpoint_name: str | None = None
    template: str | dict[str, msgspec.Raw] | None = None
    template_hash: str | None = None
    template_id: int | str | None = None
    name: str | None = None
    provider: str | None = None
    search_params: str | dict[str, Any] | None = None
    launch_args: str | None = None
    weight: float | None = None
    tier: int | None = None
    gpu_ram: float | None = None
    price_cap_usd_per_hour: float | None = None
    usd_per_hour: float | None = None
    expected_perf: float | None = None
    max_workers: int | None = None
    overflow_util: float | None = None
    overflow_queue_s: float | None = None
    unset: tuple[str, ...] = ()  #: on change: fields that shall be "not given" again, which null cannot say
    rest_follows: bool = False  #: one step of several; see `wholeness`

    def given(self) -> dict[str, Any]:
        """What was given, under the names of WorkerGroup; without the template."""
        found: dict[str, Any] = dict.fromkeys(name for name in self.unset if name in OPTIONAL and name != "weight")
        if "weight" in self.unset:
            found |= NO_WEIGHT
        if self.weight is not None:
            found["by_cost"] = False
        found |= {name: value for name in GIVEN if (value := getattr(self, name)) is not None}
        if isinstance(self.search_params, dict):
            found["search_params"] = msgspec.json.encode(self.search_params).decode()
        return found


class ResumeFields(msgspec.Struct, frozen=True, kw_only=True):
    reason: str = ""


#: May be absent in a group.
OPTIONAL = (
    "weight",
    "gpu_ram",
    "price_cap_usd_per_hour",
    "usd_per_hour",
    "expected_perf",
    "max_workers",
    "overflow_util",
    "overflow_queue_s",
)
NO_WEIGHT = {"weight": 1.0, "by_cost": True}
GIVEN = (
    "name",
    "provider",
    "search_params",
    "launch_args",
    "weight",
    "tier",
    "gpu_ram",
    "price_cap_usd_per_hour",
    "usd_per_hour",
    "expected_perf",
    "max_workers",
    "overflow_util",
    "overflow_queue_s",
)


class GroupAdmin:
    """`halts` is kept up to date by others; `now` is unix s."""

    def __init__(
        self, bus: Bus, store: EndpointStore, templates: Templates, halts: Mapping[GroupId, Halt], now: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._store = store
        self._templates = templates
        self._halts = halts
        self._now = now

    def add_to(self, table: Table) -> None:
        for path in PATHS:
            table.add("GET", path, self.list_all)
            table.add("POST", path, self.create)
            table.add("GET", path + "{id}/", self.get)
            table.add("PUT", path + "{id}/", self.change)
            table.add("DELETE", path + "{id}/", self.delete)
            table.add("POST", path + "{id}/resume/", self.resume)

    async def list_all(self, call: Call) -> web.Response:
        await call.admin("list worker groups")
        found = [self._shown(group, record) for record in await self._store.all() for group in record.groups]
        return reply({"success": True, "results": found})

    async def get(self, call: Call) -> web.Response:
        await call.admin("read worker groups")
        group_id = GroupId(call.number("id"))
        record = await self._store.of_group(group_id)
        return reply({"success": True, "result": self._shown(_group(record, group_id), record)})

    async def create(self, call: Call) -> web.Response:
        by = (await call.admin("create worker groups")).key_id
        fields = await call.json(GroupFields)
        endpoint_id = await self._endpoint_of(fields)
        template = await self._template_of(fields)
        if template is None:
            raise problems.bad_fields({"template": "is required: a template's name, or a template"})
        given = NO_WEIGHT | fields.given()
        check(WorkerGroup(id=GroupId(0), template=template, **given))
        await self._store.get(endpoint_id)  # an id is not spent on an endpoint that is not there
        group = WorkerGroup(id=await self._store.next_group_id(), template=template, created_at=self._now(), **given)

        def add(record: EndpointRecord) -> EndpointRecord:
            if len(record.groups) >= MAX_GROUPS:
                raise problems.contradiction((f"an endpoint has at most {MAX_GROUPS} worker groups",))
            after = msgspec.structs.replace(record, groups=(*record.groups, group))
            return after if fields.rest_follows else wholeness.checked(record, after, self._now())

        def tell(_: EndpointRecord, after: EndpointRecord) -> events.AnyEvent:
            return events.GroupCreated(
                id=f"group_created-g{group.id}",
                at=self._now(),
                endpoint_id=after.id,
                group_id=group.id,
                template=template.name,
                by=by,
            )

        record = await self._store.change(endpoint_id, add, tell)
        return reply({"success": True, "id": group.id, "result": self._shown(group, record)})

    async def change(self, call: Call) -> web.Response:
        by = (await call.admin("change worker groups")).key_id
        fields = await call.json(GroupFields)
        refuse_unknown(fields.unset, OPTIONAL)
        group_id = GroupId(call.number("id"))
        endpoint_id = (await self._store.of_group(group_id)).id
        if fields.endpoint_id is not None and fields.endpoint_id != endpoint_id:
            raise problems.bad_fields({"endpoint_id": "cannot be changed; create a group in the other endpoint"})
        template = await self._template_of(fields)
        given = fields.given() if template is None else {**fields.given(), "template": template}

        def change(record: EndpointRecord) -> EndpointRecord:
            before = _group(record, group_id)
            after = msgspec.structs.replace(before, **given)
            check(after)
            if any(getattr(before, name) != getattr(after, name) for name in REVISES):
                after = msgspec.structs.replace(after, revision=before.revision + 1, oldest_revision=0)
            groups = tuple(after if group.id == group_id else group for group in record.groups)
            whole = msgspec.structs.replace(record, groups=groups)
            return whole if fields.rest_follows else wholeness.checked(record, whole, self._now())

        def tell(before: EndpointRecord, after: EndpointRecord) -> events.AnyEvent:
            was, now = _group(before, group_id), _group(after, group_id)
            return events.GroupChanged(
                id=f"group_changed-g{group_id}-r{after.revision}",
                at=self._now(),
                endpoint_id=after.id,
                group_id=group_id,
                revision=now.revision,
                changed=tuple(name for name in ("template", *GIVEN) if shown_as(was, name) != shown_as(now, name)),
                by=by,
            )

        record = await self._store.change(endpoint_id, change, tell)
        return reply({"success": True, "id": group_id, "result": self._shown(_group(record, group_id), record)})

    async def delete(self, call: Call) -> web.Response:
        by = (await call.admin("delete worker groups")).key_id
        group_id = GroupId(call.number("id"))
        endpoint_id = (await self._store.of_group(group_id)).id

        def remove(record: EndpointRecord) -> EndpointRecord:
            _group(record, group_id)
            return msgspec.structs.replace(record, groups=tuple(g for g in record.groups if g.id != group_id))

        def tell(_: EndpointRecord, after: EndpointRecord) -> events.AnyEvent:
            return events.GroupDeleted(
                id=f"group_deleted-g{group_id}", at=self._now(), endpoint_id=after.id, group_id=group_id, by=by
            )

        await self._store.change(endpoint_id, remove, tell)
        return reply({"success": True, "id": group_id, "msg": "The group is deleted; its workers will be destroyed."})

    async def resume(self, call: Call) -> web.Response:
        """Close the breaker: failed starts are forgotten, and the group is tried again. Harmless where none is open."""
        by = await call.admin("resume worker groups")
        fields = await call.json(ResumeFields)
        group_id = GroupId(call.number("id"))
        record = await self._store.of_group(group_id)
        halt, at = self._halts.get(group_id), self._now()
        event = events.GroupResumed(
            id=f"group_resumed-g{group_id}-{at:.3f}",
            at=at,
            endpoint_id=record.id,
            group_id=group_id,
            by=by.key_id,
            reason=fields.reason[:MAX_REASON_CHARS],
        )
        # The event is the order: it must be stored, and the scaler hears it, also when it starts later.
        await self._bus.append(subjects.event(events.kind_of(event), record.id), codec.encode(event), msg_id=event.id)
        return reply({"success": True, "id": group_id, "was_halted": None if halt is None else msgspec.to_builtins(halt)})

    def _shown(self, group: WorkerGroup, record: EndpointRecord) -> dict[str, Any]:
        halt = self._halts.get(group.id)
        return shown(group, record) | ({} if halt is None else {"halted": msgspec.to_builtins(halt)})

    async def _endpoint_of(self, fields: GroupFields) -> EndpointId:
        if fields.endpoint_id is not None:
            return EndpointId(fields.endpoint_id)
        if fields.endpoint_name is None:
            raise problems.bad_fields({"endpoint_id": "or endpoint_name is required"})
        for record in await self._store.all():
            if record.name == fields.endpoint_name:
                return record.id
        raise problems.no_endpoint(fields.endpoint_name)

    async def _template_of(self, fields: GroupFields) -> Template | None:
        if isinstance(fields.template, dict):
            return read_template(fields.template)
        for reference in (fields.template, fields.template_hash, fields.template_id):
            if reference is not None and reference != "":
                return await self._templates.find(str(reference))
        return None


def check(group: WorkerGroup) -> None:
    """Raises HttpProblem 422."""
    wrong = group.problems()
    if wrong:
        raise problems.bad_fields(wrong)


def shown_as(group: WorkerGroup, name: str) -> Any:
    """The field as people gave it."""
    return None if name == "weight" and group.by_cost else getattr(group, name)


def shown(group: WorkerGroup, record: EndpointRecord) -> dict[str, Any]:
    """As Vast's clients read it, and more."""
    return {
        "id": group.id,
        "endpoint_id": record.id,
        "endpoint_name": record.name,
        "template_hash": hash_of(group.template),
        "template_id": number_of(group.template),
        "search_params": group.search_params,
        "search_query": group.search_params,
        "launch_args": group.launch_args,
        "gpu_ram": group.gpu_ram or 0.0,
        "created_at": group.created_at,
        "name": group.name,
        "template": msgspec.to_builtins(group.template),
        "provider": group.provider,
        "weight": shown_as(group, "weight"),
        "tier": group.tier,
        "price_cap_usd_per_hour": group.price_cap_usd_per_hour,
        "usd_per_hour": group.usd_per_hour,
        "expected_perf": group.expected_perf,
        "max_workers": group.max_workers,
        "overflow_util": group.overflow_util,
        "overflow_queue_s": group.overflow_queue_s,
        "revision": group.revision,
        "oldest_revision": group.oldest_revision or group.revision,
    }


def _group(record: EndpointRecord, group_id: GroupId) -> WorkerGroup:
    group = record.group(group_id)
    if group is None:
        raise no_group(group_id)
    return group
