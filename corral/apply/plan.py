"""What must change so that the installation is what the files say. Pure.

The files are the whole truth about the endpoints that they name: a scaling parameter that is not written has its default, a group
that is not written goes. Endpoints and templates that the files do not name are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from corral.wire import records, states

from .manifest import EndpointSpec, GroupSpec, Manifest

Verb = Literal["create", "update", "delete", "keep"]
Kind = Literal["template", "endpoint", "group"]


class CurrentGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group as it is, with the template that was frozen into it."""

    id: int
    spec: GroupSpec
    template: records.Template | None = None


class CurrentEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    settings: records.ScalingSettings
    state: states.EndpointState
    groups: tuple[CurrentGroup, ...] = ()
    schedules: tuple[records.Schedule, ...] = ()


class Current(msgspec.Struct, frozen=True, kw_only=True):
    """What is, as far as the files name it."""

    templates: Mapping[str, records.Template] = {}
    endpoints: Mapping[str, CurrentEndpoint] = {}


class Change(msgspec.Struct, frozen=True):
    field: str
    before: Any
    after: Any


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do, or to leave. For groups `endpoint` is where it belongs."""

    verb: Verb
    kind: Kind
    name: str
    endpoint: str = ""
    id: int | None = None
    changes: tuple[Change, ...] = ()
    note: str = ""  #: a consequence worth knowing before saying yes


def plan(wanted: Manifest, current: Current) -> tuple[Step, ...]:
    """In the order in which it must be done: templates, endpoints, groups, and what goes last."""
    steps = [_template(template, current.templates.get(template.name)) for template in wanted.templates]
    templates = {**current.templates, **{template.name: template for template in wanted.templates}}
    for endpoint in wanted.endpoints:
        now = current.endpoints.get(endpoint.name)
        steps.append(_endpoint(endpoint, now))
        steps += _groups(endpoint, now, templates)
    return tuple(sorted(steps, key=lambda step: step.verb == "delete"))


def missing_templates(wanted: Manifest, current: Current) -> tuple[str, ...]:
    """Templates that a group names and nobody describes."""
    known = set(current.templates) | {template.name for template in wanted.templates}
    named = {group.template for endpoint in wanted.endpoints for group in endpoint.groups}
    return tuple(sorted(named - known))


def changes_anything(steps: tuple[Step, ...]) -> bool:
    return any(step.verb != "keep" for step in steps)


def _template(wanted: records.Template, now: records.Template | None) -> Step:
    changes = differences(now, wanted)
    verb: Verb = "create" if now is None else "update" if changes else "keep"
    return Step(verb=verb, kind="template", name=wanted.name, changes=changes)


def _endpoint(wanted: EndpointSpec, now: CurrentEndpoint | None) -> Step:
    changes = differences(now.settings if now else None, wanted.settings, defaults=records.ScalingSettings())
    if wanted.schedules != (now.schedules if now else ()):
        changes += (Change("schedules", now.schedules if now else None, wanted.schedules),)
    if now is None:
        if wanted.state is not states.EndpointState.ACTIVE:
            changes += (Change("state", None, str(wanted.state)),)
        return Step(verb="create", kind="endpoint", name=wanted.name, changes=changes)
    if now.state != wanted.state:
        changes += (Change("state", str(now.state), str(wanted.state)),)
    note = "its workers will be stopped" if wanted.state is states.EndpointState.STOPPED != now.state else ""
    verb: Verb = "update" if changes else "keep"
    return Step(verb=verb, kind="endpoint", name=wanted.name, id=now.id, changes=changes, note=note)


def _groups(endpoint: EndpointSpec, now: CurrentEndpoint | None, templates: Mapping[str, records.Template]) -> list[Step]:
    there = {group.spec.name: group for group in (now.groups if now else ())}
    steps = []
    for spec in endpoint.groups:
        group = there.pop(spec.name, None)
        if group is None:
            steps.append(
                Step(verb="create", kind="group", name=spec.name, endpoint=endpoint.name, changes=differences(None, spec))
            )
            continue
        changes = differences(group.spec, spec)
        template = templates.get(spec.template)
        stale = template is not None and group.template is not None and differences(group.template, template) != ()
        if stale and spec.template == group.spec.template:
            changes += (Change("template", f"{spec.template} as it was", f"{spec.template} as it is now"),)
        steps.append(
            Step(
                verb="update" if changes else "keep",
                kind="group",
                name=spec.name,
                endpoint=endpoint.name,
                id=group.id,
                changes=changes,
                note="a new revision: its workers are replaced one by one" if stale else "",
            )
        )
    steps += [
        Step(
            verb="delete",
            kind="group",
            name=name or f"#{group.id}",
            endpoint=endpoint.name,
            id=group.id,
            note="its workers are drained and destroyed",
        )
        for name, group in there.items()
    ]
    return steps


def differences(
    now: msgspec.Struct | None, wanted: msgspec.Struct, *, defaults: msgspec.Struct | None = None
) -> tuple[Change, ...]:
    """Fields in which they differ; against nothing, the fields that are not what `defaults` (or the struct) has anyway."""
    found = []
    for field in msgspec.structs.fields(wanted):
        after = getattr(wanted, field.name)
        if now is not None:
            before = getattr(now, field.name)
        elif defaults is not None:
            before = getattr(defaults, field.name)
        else:
            before = None if field.required else field.default if field.default is not msgspec.NODEFAULT else _made(field)
        if before == after or field.name == "name":
            continue
        if field.name == "env":  # its values may be secrets, and plans end up in logs
            found.append(Change("env", None, _names_that_differ(before or {}, after)))
        else:
            found.append(Change(field.name, before if now is not None else None, after))
    return tuple(found)


def _names_that_differ(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    changed = [name for name in sorted(after) if before.get(name) != after[name]]
    gone = [f"without {name}" for name in sorted(before.keys() - after.keys())]
    return ", ".join(changed + gone)


def _made(field: msgspec.structs.FieldInfo) -> Any:
    factory = field.default_factory
    return None if factory is msgspec.NODEFAULT else factory()
