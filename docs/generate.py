"""Write docs/parameters.md: every parameter and its default, read from the structs that are their one definition.

`make schemas` runs it; a test fails when the page is stale. A field's meaning is its `Meta` description, or the comment `#:` behind it; a plain
comment line above a field begins a section.
"""

from __future__ import annotations

import ast
import inspect
import math
from pathlib import Path
from typing import Any, get_args

import msgspec

from scaler.engine.constants import Constants
from scaler.settings import ScalerSettings
from scaler.types import Policy
from schemas.records import Override, ScalingSettings, Schedule, Template, WorkerGroup

PAGE = Path(__file__).with_name("parameters.md")
_HEAD = """# Parameters and their defaults

Written by `make schemas` from the structs in the code; do not edit. Units are in the names: `_s` seconds, `_bytes`, `_usd_per_hour`; work is
in the endpoint's own unit (for language models: tokens).
"""


def page() -> str:
    """The whole page."""
    parts = [
        _HEAD,
        "## Of an endpoint",
        "Set by `corral endpoint create` and `update` (`--min-load`, or Vast's `--min_load`), in `corral.yaml`, and over HTTP.",
        _table(ScalingSettings, skip=()),
        "### A schedule",
        "One entry of `schedules`. See [operating.md](operating.md).",
        _table(Schedule),
        "### An override",
        "Set by `corral endpoint override`.",
        _table(Override, skip=("owner", "set_at"), required=("reason",)),
        "## Of a worker group",
        "One entry of `groups` in `corral.yaml`.",
        _table(WorkerGroup, skip=("id", "template", "revision", "created_at")),
        "## Of a template",
        _table(Template),
        "## Of the scaler",
        "Environment variables of the scaler's process. How many workers an endpoint has is set per endpoint, not here.",
        _table(ScalerSettings, skip=("nats", "health"), name=lambda field: f"SCALER_{field.upper()}"),
        "### Its constants",
        "The same for all endpoints. They are part of every recorded decision; those that have a variable above are set by it.",
        _table(Policy, skip=("name", "version", "installation")),
        "### Of the engine that tunes itself",
        _table(Constants),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _table(kind: type[msgspec.Struct], *, skip: tuple[str, ...] = (), required: tuple[str, ...] = (), name: Any = str) -> str:
    """`required`: fields that whoever sets them must give, although what is stored has a default."""
    meanings, sections = _comments(kind)
    lines = ["| name | default | meaning |", "|---|---|---|"]
    for field in msgspec.structs.fields(kind):
        if field.name in sections:
            lines.append(f"| *{sections[field.name]}* | | |")
        if field.name in skip:
            continue
        meaning = _described(field.type) or meanings.get(field.name, "")
        default = "required" if field.name in required else _default(field)
        lines.append(f"| `{name(field.name)}` | {default} | {meaning.replace('|', '&#124;')} |")
    return "\n".join(lines)


def _described(type_: Any) -> str:
    return next((meta.description or "" for meta in get_args(type_) if isinstance(meta, msgspec.Meta)), "")


def _comments(kind: type[msgspec.Struct]) -> tuple[dict[str, str], dict[str, str]]:
    """(field -> its comment, field -> the section that begins with it)."""
    source = inspect.getsource(kind)
    lines = source.splitlines()
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    meanings, sections = {}, {}
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        last = lines[(node.end_lineno or node.lineno) - 1]
        _, mark, comment = last.partition("#: ")
        if mark:
            meanings[node.target.id] = comment.strip()
        above = lines[node.lineno - 2].strip() if node.lineno >= 2 else ""
        if above.startswith("# "):
            sections[node.target.id] = above.removeprefix("# ")
    return meanings, sections


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[misc]
    return _shown(field.name, value)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "unset"
    if value in ("", (), {}):
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`" + ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value) + "`"
    if isinstance(value, float):
        return f"`{_number(value)}`{_in_words(value) if name.endswith('_s') else ''}"
    return f"`{value}`"


def _number(value: float) -> str:
    return f"{value:.0f}" if value == math.floor(value) and abs(value) < 1e15 else f"{value:g}"


def _in_words(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size or seconds == size:
            return f" ({seconds / size:g} {unit})"
    return ""


def main() -> None:
    text = page()
    PAGE.write_text(text)
    print(f"docs/{PAGE.name}  {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
