"""Endpoints over HTTP, in Vast's paths and shapes. On a change, null or absent means: as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

from schemas import events, schedules
from schemas.ids import EndpointId
from schemas.records import EndpointRecord, ScalingSettings, Schedule
from schemas.states import EndpointState

from . import problems, wholeness
from .api_keys import KeyRing
from .calls import Call, Table, reply
from .store import EndpointStore

MAX_NAME_CHARS = 255
DEFAULTS = msgspec.structs.asdict(ScalingSettings())
SETTINGS = tuple(DEFAULTS)
#: What can have its default again.
UNSETTABLE = (*SETTINGS, "schedules")


class ScheduleFields(Schedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schedule as it is given: a misspelt time_zone must not become UTC."""

    def plain(self) -> Schedule:
        return Schedule(**msgspec.structs.asdict(self))


class EndpointFields(msgspec.Struct, frozen=True, kw_only=True):
    """Body of create and change: Vast's names. `min_workers` is another name for cold_workers, `name` for endpoint_name."""

    endpoint_name: str | None = None
    name: str | None = None
    endpoint_state: str | None = None
    min_load: float | None = None
    target_util: float | None = None
    cold_mult: float | None = None
    min_cold_load: float | None = None
    cold_workers: int | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    inactivity_timeout: float | None = None
    max_queue_time: float | None = None
    target_queue_time: float | None = None
    schedules: tuple[ScheduleFields, ...] | None = None  #: all of them; a change replaces all
    unset: tuple[str, ...] = ()  #: on change: settings that shall have their default again, which null cannot say
    rotate_key: bool = False  #: on change: give the endpoint a new API key of its own
    rest_follows: bool = False  #: on change: one step of several; see `wholeness`

    def given(self) -> dict[str, Any]:
        """The scaling settings that were given."""
        found = {name: DEFAULTS[name] for name in self.unset if name in DEFAULTS}
        found |= {name: getattr(self, name) for name in SETTINGS if getattr(self, name) is not None}
        if self.min_workers is not None and self.cold_workers is None:
            found["cold_workers"] = self.min_workers
        return found

    def given_schedules(self) -> tuple[Schedule, ...] | None:
        """None: as they were."""
        if self.schedules is None:
            return () if "schedules" in self.unset else None
        return tuple(schedule.plain() for schedule in self.schedules)


class EndpointAdmin:
    """`now` is unix s."""

    def __init__(self, store: EndpointStore, keys: KeyRing, now: Callable[[], float]) -> None:
        self._store = store
        self._keys = keys
        self._now = now

    def add_to(self, table: Table) -> None:
        table.add("GET", "/api/v0/endptjobs/", self.list_all)
        table.add("POST", "/api/v0/endptjobs/", self.create)
        table.add("GET", "/api/v0/endptjobs/{id}/", self.get)
        table.add("PUT", "/api/v0/endptjobs/{id}/", self.change)
        table.add("DELETE", "/api/v0/endptjobs/{id}/", self.delete)
        table.add("GET", "/api/v1/endpoints/", self.list_all)
        table.add("POST", "/api/v1/endpoints/", self.create)
        table.add("GET", "/api/v1/endpoints/{name}", self.get_by_name)

    async def list_all(self, call: Call) -> web.Response:
        await call.admin("list endpoints")
        return reply({"success": True, "results": [self.shown(record) for record in await self._store.all()]})

    async def get(self, call: Call) -> web.Response:
        await call.admin("read endpoints")
        record = await self._store.get(EndpointId(call.number("id")))
        return reply({"success": True, "result": self.shown(record)})

    async def get_by_name(self, call: Call) -> web.Response:
        await call.admin("read endpoints")
        record = await self._store.named(call.params["name"])
        return reply({"success": True, "result": self.shown(record)})

    async def create(self, call: Call) -> web.Response:
        by = (await call.admin("create endpoints")).key_id
        fields = await call.json(EndpointFields)
        name = name_of(fields)
        if name is None:
            raise problems.bad_fields({"endpoint_name": "is required"})
        state = state_of(fields.endpoint_state) or EndpointState.ACTIVE
        settings, planned = ScalingSettings(**fields.given()), fields.given_schedules() or ()

        def make(endpoint_id: EndpointId) -> EndpointRecord:
            at = self._now()
            return EndpointRecord(
                id=endpoint_id, name=name, settings=settings, state=state, schedules=planned, created_at=at, changed_at=at
            )

        checked(make(EndpointId(0)), self._now())

        record = await self._store.create(name, make, by)
        return reply({"success": True, "result": record.id, "endpoint": self.shown(record)})

    async def change(self, call: Call) -> web.Response:
        by = (await call.admin("change endpoints")).key_id
        fields = await call.json(EndpointFields)
        refuse_unknown(fields.unset, UNSETTABLE)
        name, state, given, planned = name_of(fields), state_of(fields.endpoint_state), fields.given(), fields.given_schedules()

        def change(record: EndpointRecord) -> EndpointRecord:
            after = msgspec.structs.replace(
                record,
                name=name or record.name,
                state=state or record.state,
                settings=msgspec.structs.replace(record.settings, **given),
                schedules=record.schedules if planned is None else planned,
                key_version=record.key_version + fields.rotate_key,
            )
            checked(after, self._now())
            return after if fields.rest_follows else wholeness.checked(record, after, self._now())

        record = await self._store.change(EndpointId(call.number("id")), change, lambda b, a: self._changed(b, a, by))
        return reply({"success": True, "result": record.id, "endpoint": self.shown(record)})

    async def delete(self, call: Call) -> web.Response:
        by = (await call.admin("delete endpoints")).key_id
        record = await self._store.delete(EndpointId(call.number("id")), by)
        return reply(
            {"success": True, "result": record.id, "msg": f"Endpoint {record.name} is deleted; its workers will be destroyed."}
        )

    def shown(self, record: EndpointRecord) -> dict[str, Any]:
        """As Vast's clients read it, and more. A setting that is not set is left out: they choke on null numbers."""
        settings = {name: value for name in SETTINGS if (value := getattr(record.settings, name)) is not None}
        return {
            "id": record.id,
            "endpoint_name": record.name,
            "api_key": self._keys.endpoint_key(record),
            "user_id": 0,
            "created_at": record.created_at,
            "endpoint_state": str(record.state),
            **settings,
            "name": record.name,
            "revision": record.revision,
            "changed_at": record.changed_at,
            "groups": [group.id for group in record.groups],
            **people_said(record, self._now()),
        }

    def _changed(self, before: EndpointRecord, after: EndpointRecord, by: str) -> events.AnyEvent:
        changed = [
            name for name in ("name", "state", "schedules", "key_version") if getattr(before, name) != getattr(after, name)
        ]
        changed += [name for name in SETTINGS if getattr(before.settings, name) != getattr(after.settings, name)]
        return events.EndpointChanged(
            id=f"endpoint_changed-e{after.id}-r{after.revision}",
            at=self._now(),
            endpoint_id=after.id,
            name=after.name,
            revision=after.revision,
            changed=tuple(changed),
            by=by,
        )


def refuse_unknown(unset: tuple[str, ...], known: Iterable[str]) -> None:
    """Raises HttpProblem 422 when something that cannot be unset is to be."""
    wrong = sorted(set(unset) - set(known))
    if wrong:
        raise problems.bad_fields({"unset": f"{', '.join(wrong)[:200]} cannot be unset; {', '.join(known)} can"})


def name_of(fields: EndpointFields) -> str | None:
    """The name given, checked. Raises HttpProblem 422."""
    name = fields.endpoint_name if fields.endpoint_name is not None else fields.name
    if name is None:
        return None
    if not name or len(name) > MAX_NAME_CHARS or name != name.strip() or not name.isprintable() or "/" in name:
        raise problems.bad_fields(
            {"endpoint_name": f"must be 1 to {MAX_NAME_CHARS} printable characters without '/' and without spaces at its ends"}
        )
    return name


def state_of(text: str | None) -> EndpointState | None:
    """Raises HttpProblem 422."""
    if text is None:
        return None
    try:
        return EndpointState(text)
    except ValueError:
        known = ", ".join(state.value for state in EndpointState)
        raise problems.bad_fields({"endpoint_state": f"must be one of {known}"}) from None


def people_said(record: EndpointRecord, now: float) -> dict[str, Any]:
    """Schedules, and the override as long as it holds; left out where there are none."""
    found: dict[str, Any] = {}
    if record.schedules:
        found["schedules"] = msgspec.to_builtins(record.schedules)
    if record.override is not None and record.override.expires_at > now:
        found["override"] = msgspec.to_builtins(record.override)
    return found


def checked(record: EndpointRecord, now: float) -> EndpointRecord:
    """Raises HttpProblem 422 with every contradiction; `now` unix s."""
    wrong = (*record.settings.problems(), *schedules.problems(record.schedules, record.settings))
    override, most = record.override, record.settings.max_workers
    if override is not None and override.expires_at > now and (override.hot_min or 0) > most:
        asked = f"hot_min ({override.hot_min}) of the override of {override.owner}"
        wrong += (f"max_workers ({most}) is less than {asked}: raise it, or clear the override first",)
    if wrong:
        raise problems.contradiction(wrong)
    return record
