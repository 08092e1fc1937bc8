"""Read what is, and do what the plan says, over the admin API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from corral.admin import Admin, Json
from corral.errors import ManifestError, NotFound
from corral.wire import records, states

from .manifest import EndpointSpec, GroupSpec, Manifest
from .plan import Current, CurrentEndpoint, CurrentGroup, Step, missing_templates

_SETTINGS = tuple(field.name for field in msgspec.structs.fields(records.ScalingSettings))
_STEP = {"rest_follows": True}
_GROUP = tuple(field.name for field in msgspec.structs.fields(GroupSpec))


async def current(admin: Admin, wanted: Manifest) -> Current:
    """As much of what is as the files name. Raises ManifestError when a group names a template that nobody has; ApiError."""
    names = {group.template for endpoint in wanted.endpoints for group in endpoint.groups}
    names |= {template.name for template in wanted.templates}
    templates = {}
    for name in sorted(names):
        try:
            templates[name] = template_of(await admin.template(name))
        except NotFound:
            continue  # to be created, or missing: the check below tells them apart
    endpoints = {}
    groups = await admin.groups() if wanted.endpoints else []
    for spec in wanted.endpoints:
        try:
            shown = await admin.endpoint(spec.name)
        except NotFound:
            continue
        own = tuple(group_of(group) for group in groups if group["endpoint_id"] == shown["id"])
        endpoints[spec.name] = CurrentEndpoint(
            id=shown["id"],
            name=spec.name,
            settings=msgspec.convert({name: shown[name] for name in _SETTINGS if name in shown}, records.ScalingSettings),
            state=states.EndpointState(shown["endpoint_state"]),
            groups=own,
            schedules=msgspec.convert(shown.get("schedules", ()), tuple[records.Schedule, ...]),
        )
    found = Current(templates=templates, endpoints=endpoints)
    missing = missing_templates(wanted, found)
    if missing:
        raise ManifestError("the files", f"no template {missing[0]!r}, which a group wants", "describe it with `kind: Template`")
    return found


def template_of(shown: Json) -> records.Template:
    return msgspec.convert(shown, records.Template)


def group_of(shown: Json) -> CurrentGroup:
    """A group that nobody named is known by its number."""
    fields = {name: shown[name] for name in _GROUP if shown.get(name) is not None}
    fields["name"] = shown.get("name") or f"#{shown['id']}"
    fields["template"] = shown["template"]["name"]
    fields["gpu_ram"] = shown.get("gpu_ram") or None  # 0.0 stands for "not given" in Vast's answers
    return CurrentGroup(id=shown["id"], spec=msgspec.convert(fields, GroupSpec), template=template_of(shown["template"]))


async def carry_out(admin: Admin, wanted: Manifest, steps: tuple[Step, ...], done: Callable[[Step], None]) -> None:
    """Each step in turn; `done` hears of each that changed something. Raises ApiError, and what was done stays done:
    the same file can be applied again. The files make sense as a whole; what is between two steps need not (`rest_follows`).
    """
    templates = {template.name: template for template in wanted.templates}
    endpoints = {endpoint.name: endpoint for endpoint in wanted.endpoints}
    for step in steps:
        if step.verb == "keep":
            continue
        if step.kind == "template":
            await admin.put_template(msgspec.to_builtins(templates[step.name]))
        elif step.kind == "endpoint":
            await _endpoint(admin, endpoints[step.name], step)
        else:
            await _group(admin, endpoints[step.endpoint], step)
        done(step)


async def _endpoint(admin: Admin, spec: EndpointSpec, step: Step) -> None:
    planned = msgspec.to_builtins(spec.schedules)
    values = {**msgspec.to_builtins(spec.settings), "endpoint_state": str(spec.state), "schedules": planned}
    if step.verb == "create":
        await admin.create_endpoint(spec.name, _given(values))
    else:
        await admin.update_endpoint(spec.name, _changed(values, step) | _STEP)


async def _group(admin: Admin, endpoint: EndpointSpec, step: Step) -> None:
    if step.verb == "delete":
        assert step.id is not None
        await admin.delete_group(step.id)
        return
    spec = next(group for group in endpoint.groups if group.name == step.name)
    values = msgspec.to_builtins(spec)
    if step.verb == "create":
        await admin.create_group(endpoint.name, _given(values) | _STEP)
    else:
        assert step.id is not None
        await admin.update_group(step.id, _changed(values, step) | _STEP)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _changed(values: Mapping[str, Any], step: Step) -> dict[str, Any]:
    """Only what differs. Null means "as it was" in Vast's protocol, so what shall be empty again is listed in `unset`."""
    names = ["endpoint_state" if change.field == "state" else change.field for change in step.changes]
    body = {name: values[name] for name in names if values[name] is not None}
    unset = [name for name in names if values[name] is None]
    return {**body, "unset": unset} if unset else body
