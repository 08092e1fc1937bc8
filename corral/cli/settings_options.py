"""The scaling parameters as command-line options, generated from the struct that is their one definition."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import msgspec
import typer

from corral.wire import records

#: What each parameter does, in one sentence for --help.
HELP = {
    "min_load": "Work units per second always kept hot.",
    "target_util": "Planned load / capacity of the hot pool, above 0 and at most 1.",
    "cold_mult": "Total capacity / active load. Unset: Corral decides by break-even.",
    "min_cold_load": "Work units per second always kept, hot or cold.",
    "cold_workers": "Workers always kept, hot or cold (also called min_workers).",
    "max_workers": "Ceiling over hot and cold workers.",
    "inactivity_timeout": "Seconds without requests before the hot pool goes to zero; 0: at once; below 0: never.",
    "max_queue_time": "Seconds of expected wait above which a worker gets no more tickets.",
    "target_queue_time": "Seconds of wait the scaler aims to stay under.",
}
_PANEL = "Scaling parameters"


def names() -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(records.ScalingSettings))


def parameters() -> list[inspect.Parameter]:
    """One option per parameter; None means: not given."""
    found = []
    for field in msgspec.structs.fields(records.ScalingSettings):
        kind = int if field.type is int or field.type == (int | None) else float
        default = "unset" if field.default is None else f"{field.default:g}"
        flags = [f"--{field.name.replace('_', '-')}"] + (["--min-workers"] if field.name == "cold_workers" else [])
        option = typer.Option(*flags, help=f"{HELP[field.name]} (default: {default})", show_default=False, rich_help_panel=_PANEL)
        found.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])
        )
    return found


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Those that were given."""
    return {name: values[name] for name in names() if values.get(name) is not None}
