"""Settings: one frozen struct per room, read once from a mapping that is passed in.

A field `port` of a room with the prefix ROUTER is read from ROUTER_PORT and, failing that, from CORRAL_PORT, where what all rooms
share is set once. A field that is a struct itself joins its name: `nats: NatsSettings` has CORRAL_NATS_URLS. Lists are
separated by commas. A variable that is missing, wrong or misspelt stops the start and is named.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .errors import SettingsError

SHARED_PREFIX = "CORRAL"
_LISTS = (tuple, list, set, frozenset)
#: Kubernetes puts these into every pod for a service of the same name: ROUTER_SERVICE_HOST, ROUTER_PORT_80_TCP_ADDR.
_NOT_OURS = re.compile(r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP)(_\w+)?)$")

S = TypeVar("S", bound=msgspec.Struct)


class Secret(str):
    """A text that masks itself wherever it is shown: repr, str, f-strings, logs. Use reveal() to hand it on."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')" if self else "Secret('')"

    def __str__(self) -> str:
        return "***" if self else ""

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def reveal(self) -> str:
        """The text itself."""
        return str.__str__(self)


def load(kind: type[S], environ: Mapping[str, str], prefix: str) -> S:
    """The settings of a room. Raises SettingsError that names the variable and says what was expected."""
    prefix = prefix.rstrip("_")
    fields = dict(_fields(kind, ()))
    _refuse_misspelt(environ, prefix, {_name(prefix, path) for path in fields})
    given: dict[str, Any] = {}
    for path, field_type in fields.items():
        names = [_name(prefix, path), _name(SHARED_PREFIX, path)]
        source = next((name for name in names if name in environ), None)
        if source is not None:
            _put(given, path, _parse(environ[source], field_type, source))
    try:
        return msgspec.convert(given, kind, strict=True, dec_hook=_keep)
    except msgspec.ValidationError as error:
        raise _missing(error, prefix, kind) from error


def _fields(kind: type[msgspec.Struct], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for field in msgspec.structs.fields(kind):
        here = (*path, field.name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _fields(field.type, here)
        else:
            yield here, field.type


def _name(prefix: str, path: tuple[str, ...]) -> str:
    return "_".join((prefix, *path)).upper()


def _put(into: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        into = into.setdefault(part, {})
    into[path[-1]] = value


def _parse(text: str, kind: Any, source: str) -> Any:
    origin = getattr(kind, "__origin__", kind)
    value: Any = [part.strip() for part in text.split(",") if part.strip()] if origin in _LISTS else text.strip()
    try:
        return msgspec.convert(value, kind, strict=False, dec_hook=_build)
    except (msgspec.ValidationError, ValueError) as error:
        shown = "its value" if _is_secret(kind) else repr(text)
        reason = str(error).split(" - at ", maxsplit=1)[0]
        raise SettingsError(f"{source}: {shown} will not do: {reason}", f"set {source} to {_describe(kind)}") from error


def _build(kind: type[Any], value: Any) -> Any:
    """Types that msgspec does not know, from text."""
    if issubclass(kind, Secret | Path):
        return kind(value)
    raise NotImplementedError(f"a setting cannot be of type {kind.__name__}")


def _keep(_: type[Any], value: Any) -> Any:
    """They were built already."""
    return value


def _is_secret(kind: Any) -> bool:
    return kind is Secret or Secret in getattr(kind, "__args__", ())


def _describe(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(kind) or f"a value of type {getattr(kind, '__name__', kind)}"


def _refuse_misspelt(environ: Mapping[str, str], prefix: str, known: set[str]) -> None:
    if prefix == SHARED_PREFIX:
        return  # other rooms' variables carry it too
    for name in sorted(environ):
        if name.startswith(f"{prefix}_") and name not in known and not _NOT_OURS.search(name):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(known))}"
            raise SettingsError(f"{name} is no setting", hint)


def _missing(error: msgspec.ValidationError, prefix: str, kind: type[msgspec.Struct]) -> SettingsError:
    match = re.search(r"missing required field `(\w+)`(?: - at `\$\.?([\w.]*)`)?", str(error))
    if match is None:
        return SettingsError(f"{kind.__name__}: {error}")
    path = (*(part for part in (match[2] or "").split(".") if part), match[1])
    return SettingsError(
        f"{_name(prefix, path)} is missing", f"set {_name(prefix, path)} or, for all rooms, {_name(SHARED_PREFIX, path)}"
    )
