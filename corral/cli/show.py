"""How the command line speaks: tables for people, one JSON document for programs, errors with what, why and what next."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from corral.errors import ApiError, BudgetExceeded, CorralError, GaveUp

#: Colours of states, the same everywhere.
STATE_STYLE = {
    "ready": "green",
    "idle": "green",
    "active": "green",
    "stopped": "blue",
    "suspended": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "starting": "cyan",
    "loading": "cyan",
    "model_loading": "cyan",
    "benchmarking": "cyan",
    "creating": "cyan",
    "pending": "cyan",
    "rebooting": "cyan",
    "updating": "cyan",
    "error": "bold red",
    "destroying": "dim",
    "gone": "dim",
}


def state(name: str) -> Text:
    return Text(name, style=STATE_STYLE.get(name, ""))


def seconds(value: float | None) -> str:
    """A duration as a person says it."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def ago(at: float | None) -> str:
    return "-" if not at else f"{seconds(max(time.time() - at, 0))} ago"


def until(at: float) -> str:
    left = at - time.time()
    return f"in {seconds(left)}" if left > 0 else "expired"


def number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


_PIPE_COLUMNS = 400


class Show:
    """stdout carries the answer and nothing else; everything about the way there goes to stderr."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        # Into a pipe nothing is wrapped: a line is a row, for grep and awk.
        self.out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
        self.err = Console(stderr=True, highlight=False)

    def json(self, value: Any) -> None:
        text = msgspec.json.encode(value, enc_hook=str)
        self.out.file.write(msgspec.json.format(text, indent=2).decode() + "\n")

    def json_line(self, value: Any) -> None:
        """One line of a stream of them, at once."""
        self.out.file.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")
        self.out.file.flush()

    def table(
        self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, raw: Any = None, empty: str = "none"
    ) -> None:
        """`columns` maps a heading to a key of the rows. With --json the whole `raw` (or the rows) is printed instead."""
        if self.as_json:
            self.json(rows if raw is None else raw)
            return
        if not rows:
            self.err.print(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in columns:
            table.add_column(heading, overflow="ellipsis", no_wrap=True)
        for row in rows:
            table.add_row(*(_cell(row.get(key)) for key in columns.values()))
        self.out.print(table)

    def record(self, fields: Mapping[str, Any], *, raw: Any = None) -> None:
        if self.as_json:
            self.json(fields if raw is None else raw)
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in fields.items():
            table.add_row(name, _cell(value))
        self.out.print(table)

    def done(self, sentence: str, **facts: Any) -> None:
        """A change was made."""
        if self.as_json:
            self.json({"ok": True, "message": sentence, **facts})
        else:
            self.out.print(Text.assemble(("✓ ", "green"), sentence), soft_wrap=True)

    def note(self, sentence: str) -> None:
        if not self.as_json:
            self.err.print(sentence, style="dim", markup=False, soft_wrap=True)

    def error(self, error: CorralError) -> None:
        """What and why in red, what to do next below."""
        if self.as_json:
            self.err.file.write(msgspec.json.encode(_facts(error)).decode() + "\n")
            return
        self.err.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
        if isinstance(error, GaveUp):
            for attempt in error.attempts:
                self.err.print(Text(f"  {attempt.worker_id}: {attempt.outcome}: {attempt.message}"), soft_wrap=True)
        if error.hint:
            self.err.print(Text.assemble(("  next: ", "bold"), error.hint), soft_wrap=True)


def _facts(error: CorralError) -> dict[str, Any]:
    facts: dict[str, Any] = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    if isinstance(error, ApiError):
        facts |= {"code": error.code, "status": error.status, "fields": error.fields}
    if isinstance(error, BudgetExceeded):
        facts |= {"budget": error.budget, "spent_s": error.spent_s}
    return facts


def _cell(value: Any) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(number(value))
