"""The scaling parameters as command-line options, generated from the struct that is their one definition."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, get_args

import msgspec
import typer

from corral.wire import records

_PANEL = "Scaling parameters"


def names() -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(records.ScalingSettings))


def parameters() -> list[inspect.Parameter]:
    """One option per parameter; None means: not given."""
    found = []
    for field in msgspec.structs.fields(records.ScalingSettings):
        type_, meaning = get_args(field.type)
        kind = int if type_ is int or type_ == (int | None) else float
        default = "unset" if field.default is None else f"{field.default:g}"
        flags = [f"--{field.name.replace('_', '-')}"] + (["--min-workers"] if field.name == "cold_workers" else [])
        help_text = f"{meaning.description} (default: {default})"
        option = typer.Option(*flags, help=help_text, show_default=False, rich_help_panel=_PANEL)
        found.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])
        )
    return found


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Those that were given."""
    return {name: values[name] for name in names() if values.get(name) is not None}
