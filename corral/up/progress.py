"""What `corral up` says while it starts and runs: a live line on a terminal, plain lines elsewhere, JSON lines with --json."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any, Self

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.status import Status


class Progress:
    """Enter it for the time of the start; `say` and `loud` work at any time."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, console: Console | None = None) -> None:
        self._json = as_json
        self._quiet = quiet
        self._console = console or Console(stderr=as_json, highlight=False)
        self._status: Status | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal and not (self._json or self._quiet):
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def step(self, what: str) -> None:
        """What is being waited for."""
        if self._status is not None:
            self._status.update(escape(what))
        elif not (self._json or self._quiet):
            self._print(f"[dim]{time.monotonic() - self._began:6.1f} s[/]  {escape(what)}")

    def say(self, what: str) -> None:
        if not (self._json or self._quiet):
            self._print(what)

    def loud(self, what: str, **facts: Any) -> None:
        """Something an operator must not miss; said even when quiet."""
        if self._json:
            self.fact("warning", message=what, **facts)
        else:
            self._print(f"[bold red]![/] {escape(what)}")

    def fact(self, event: str, **facts: Any) -> None:
        """One JSON line on stdout, only with --json."""
        if self._json:
            with contextlib.suppress(OSError):
                print(msgspec.json.encode({"event": event, **facts}).decode(), flush=True)

    def _print(self, what: str) -> None:
        # A terminal that was closed, a pipe whose reader is gone: no reason to stop serving.
        with contextlib.suppress(OSError, SystemExit):  # rich turns a broken pipe into the second
            self._console.print(what, soft_wrap=True)
