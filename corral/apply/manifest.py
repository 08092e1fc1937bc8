"""What a person writes for `corral apply`: documents of `kind: Template` and `kind: Endpoint`. Strict, pure.

kind: Template                      kind: Endpoint
name: smollm                        name: smollm
command: [python, worker.py]        min_load: 0            # every scaling parameter, under Vast's names
env: {MODEL: smollm2}               max_workers: 3
cwd: .                              state: active
                                    schedules:             # floors by the calendar
                                      - {cron: "0 8 * * 1-5", lasts_s: 36000, hot_min: 2, time_zone: Europe/Berlin}
                                    groups:
                                      - {name: cpu, template: smollm, provider: process, weight: 1, tier: 0}
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar

import msgspec

from corral.wire import ids, records, schedules, states, whole

from .lines import Document, Path, documents

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}")
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_WHICH = re.compile(r"schedules\[(\d+)\]")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+)\]|\[\.\.\.\]")
_NUMBER = re.compile(r"([-+]?[0-9]+)(\.[0-9]+)?[eE]([-+]?)([0-9]+)")
_SETTINGS = frozenset(field.name for field in msgspec.structs.fields(records.ScalingSettings))
_TEMPLATE = frozenset(field.name for field in msgspec.structs.fields(records.Template))


class GroupSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A worker group as it is written. `template` is the name of one in the files, or of one that exists."""

    name: str
    template: str
    provider: str = "process"
    weight: float | None = None
    tier: int = 0
    search_params: str = ""
    launch_args: str = ""
    gpu_ram: float | None = None
    price_cap_usd_per_hour: float | None = None
    usd_per_hour: float | None = None
    expected_perf: float | None = None
    max_workers: int | None = None
    overflow_util: float | None = None
    overflow_queue_s: float | None = None

    def record(self) -> records.WorkerGroup:
        """As the control plane would keep it, as far as its rules look at it."""
        fields = {field: value for field in _RULED if (value := getattr(self, field)) is not None}
        return records.WorkerGroup(id=ids.GroupId(0), template=records.Template(name=self.template), **fields)


_RULED = (
    "name",
    "provider",
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
_GROUP = frozenset(field.name for field in msgspec.structs.fields(GroupSpec))
_SCHEDULE = frozenset(field.name for field in msgspec.structs.fields(records.Schedule))


class EndpointSpec(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    settings: records.ScalingSettings
    state: states.EndpointState
    groups: tuple[GroupSpec, ...]
    schedules: tuple[records.Schedule, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """All that the files say. Names are unique in each kind."""

    templates: tuple[records.Template, ...] = ()
    endpoints: tuple[EndpointSpec, ...] = ()


def read(sources: Iterable[tuple[str, str, str]], environ: Mapping[str, str]) -> Manifest:
    """From (file name for messages, its folder, its text). A bare name under `env` is taken from `environ`.
    Raises ManifestError for the first thing that is wrong.
    """
    templates: dict[str, records.Template] = {}
    endpoints: dict[str, EndpointSpec] = {}
    for file, folder, text in sources:
        for document in documents(text, file):
            if not isinstance(document.value, dict):
                raise document.error("a document must be fields with values", hint="begin with `kind: Endpoint`")
            fields = dict(document.value)
            kind = fields.pop("kind", None)
            if kind == "Template":
                template = _template(document, fields, folder, environ)
                _once(document, templates, template.name)
                templates[template.name] = template
            elif kind == "Endpoint":
                endpoint = _endpoint(document, fields)
                _once(document, endpoints, endpoint.name)
                endpoints[endpoint.name] = endpoint
            else:
                said = "no `kind`" if kind is None else f"unknown kind {kind!r}"
                raise document.error(said, ("kind",), "it is Template or Endpoint")
    return Manifest(tuple(templates.values()), tuple(endpoints.values()))


def _template(document: Document, fields: dict[str, Any], folder: str, environ: Mapping[str, str]) -> records.Template:
    _known(document, fields, _TEMPLATE, ())
    name = _name(document, fields)
    if not ids.is_token(name):
        raise document.error(f"not a name for a template: {name!r}", ("name",), "letters, digits, '_', '-'; at most 128")
    if isinstance(fields.get("command"), str):
        try:
            fields["command"] = shlex.split(fields["command"])
        except ValueError as error:
            raise document.error(f"command: {error}", ("command",), "write it as a list of words") from error
    if "env" in fields:
        fields["env"] = _env(document, fields["env"], environ)
    if isinstance(fields.get("cwd", ""), str) and ("cwd" in fields or not fields.get("image")):
        fields["cwd"] = os.path.normpath(os.path.join(folder, fields.get("cwd", "")))  # noqa: PTH118 - pure text, no disk
    template = _convert(document, fields, records.Template)
    if not template.command and not template.image:
        raise document.error(f"template {template.name!r} has no command", hint="say what to run: `command: [python, worker.py]`")
    for field, problem in template.problems().items():
        raise document.error(f"{field} {problem}", (field,))
    return template


def _env(document: Document, env: Any, environ: Mapping[str, str]) -> dict[str, str]:
    """A mapping, or a list of NAME=value. A name without a value must be set where `corral apply` runs."""
    if isinstance(env, list):
        pairs = [str(item).partition("=") for item in env]
        items: list[tuple[str, Any]] = [(name, value if sign else None) for name, sign, value in pairs]
    elif isinstance(env, dict):
        items = list(env.items())
    else:
        raise document.error("env must be fields with values, or a list of NAME=value", ("env",))
    found = {}
    for index, (name, value) in enumerate(items):
        path: Path = ("env", index) if isinstance(env, list) else ("env", name)
        if isinstance(value, dict | list):
            raise document.error(f"env {name} must be text", path)
        if value is not None:
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
        elif name in environ:
            found[name] = environ[name]
        else:
            raise document.error(f"env {name} has no value here", path, f"set it: `{name}=... corral apply ...`")
    return found


def _endpoint(document: Document, fields: dict[str, Any]) -> EndpointSpec:
    _known(document, fields, _SETTINGS | {"name", "state", "groups", "schedules", "min_workers"}, ())
    name = _name(document, fields)
    if "min_workers" in fields:
        if "cold_workers" in fields:
            raise document.error("min_workers and cold_workers are the same parameter", ("min_workers",), "keep one of them")
        fields["cold_workers"] = fields.pop("min_workers")
        document.renamed(("min_workers",), ("cold_workers",))
    settings = _convert(document, {key: fields[key] for key in _SETTINGS & fields.keys()}, records.ScalingSettings)
    for problem in settings.problems():
        raise document.error(f"endpoint {name!r}: {problem}", _place(problem, fields))
    state = _convert(document, fields.get("state", "active"), states.EndpointState, ("state",))
    groups = fields.get("groups") or []
    if not isinstance(groups, list):
        raise document.error("groups must be a list", ("groups",), "begin each group with `- name: ...`")
    specs: dict[str, GroupSpec] = {}
    for index, group in enumerate(groups):
        path: Path = ("groups", index)
        if not isinstance(group, dict):
            raise document.error("a group must be fields with values", path)
        _known(document, group, _GROUP, path)
        spec = _convert(document, group, GroupSpec, path)
        if spec.name in specs:
            raise document.error(f"two groups are called {spec.name!r}", path, "give each its own name")
        for field, problem in spec.record().problems().items():
            raise document.error(f"{field} {problem}", (*path, field))
        specs[spec.name] = spec
    planned = _schedules(document, fields.get("schedules") or [], settings)
    for problem in whole.problems(settings, [spec.record() for spec in specs.values()], planned):
        raise document.error(f"endpoint {name!r}: {problem}", _place(problem, fields))
    return EndpointSpec(
        name=name,
        settings=settings,
        state=state,
        groups=tuple(specs.values()),
        schedules=planned,
    )


def _schedules(document: Document, given: Any, settings: records.ScalingSettings) -> tuple[records.Schedule, ...]:
    if not isinstance(given, list):
        raise document.error("schedules must be a list", ("schedules",), "begin each schedule with `- cron: ...`")
    found = []
    for index, schedule in enumerate(given):
        path: Path = ("schedules", index)
        if not isinstance(schedule, dict):
            raise document.error("a schedule must be fields with values", path)
        _known(document, schedule, _SCHEDULE, path)
        found.append(_convert(document, schedule, records.Schedule, path))
    for problem in schedules.problems(found, settings):
        raise document.error(problem, _place(problem, ("schedules",)))
    return tuple(found)


def _place(problem: str, fields: Iterable[str]) -> Path:
    """Where that is written which a sentence begins with: one of the schedules, or one of these fields."""
    match = _WHICH.match(problem)
    if match is not None:
        return ("schedules", int(match[1]))
    return next(((field,) for field in fields if problem.startswith(field)), ())


def _name(document: Document, fields: Mapping[str, Any]) -> str:
    name = fields.get("name")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise document.error(
            "no name" if name is None else f"not a name: {name!r}",
            ("name",),
            "letters, digits, space, '.', '_', '-'; at most 128",
        )
    return name


def _once(document: Document, seen: Mapping[str, Any], name: str) -> None:
    if name in seen:
        raise document.error(f"{name!r} is described twice", ("name",), "keep one of the documents")


def _known(document: Document, fields: Mapping[str, Any], known: Iterable[str], path: Path) -> None:
    for field in fields:
        if field not in known:
            close = difflib.get_close_matches(field, list(known), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(sorted(known))}"
            raise document.error(f"unknown field {field!r}", (*path, field), hint)


def _convert(document: Document, value: Any, kind: type[T], base: Path = ()) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        match = _AT.match(str(error))
        assert match is not None  # the pattern matches anything
        steps: Path = tuple(int(index) if index else key for key, index in _STEP.findall(match["path"] or ""))
        path = (*base, *steps)
        named = ".".join(str(step) for step in path)
        what, hint = match["what"], _hint(value, steps)
        if isinstance(kind, type) and issubclass(kind, Enum):
            choices = ", ".join([str(choice.value) for choice in kind])
            what, hint = f"{value!r} is no {base[-1]}", f"it is one of {choices}"
        raise document.error(f"{named}: {what}" if named else what, path, hint) from error


def _hint(value: Any, steps: Path) -> str:
    """What to write instead of a number that YAML takes for text, such as 1e300."""
    for step in steps:
        try:
            value = value[step]
        except (TypeError, LookupError):
            return ""
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return ""
    whole, part, sign, power = match.groups()
    return f"YAML takes {value} for text: write {whole}{part or '.0'}e{sign or '+'}{power}"
