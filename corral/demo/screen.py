"""The demo as a person sees it: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from corral.cli.show import seconds, state

from .record import Decision, Seen


class Screen(Protocol):
    """What the story tells."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def phase(self, name: str) -> None: ...

    def note(self, text: str) -> None: ...

    def token(self, text: str) -> None:
        """A piece of the answer that is streamed to the screen; "" ends it."""
        ...

    def workers(self, moment: Seen, shown: list[dict[str, Any]]) -> None: ...

    def decision(self, decision: Decision) -> None: ...

    def traffic(self, asked: int, answered: int, tokens: int) -> None: ...


def words(decision: Decision) -> str:
    acts = ", ".join(decision.actions) or "hold"
    return f"{acts}: {decision.reason} [{decision.why}]"


class PlainScreen:
    """One line per event, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._states: dict[str, str] = {}
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()

    def phase(self, name: str) -> None:
        self._line(f"== {name}")

    def note(self, text: str) -> None:
        self._line(text)

    def token(self, text: str) -> None:
        if text:
            self._text += text
        else:
            self._flush()

    def workers(self, moment: Seen, shown: list[dict[str, Any]]) -> None:
        del shown
        for worker, now in moment.states.items():
            if self._states.get(worker) != now:
                self._line(f"worker {worker}: {self._states.get(worker, 'new')} -> {now}")
        self._states = dict(moment.states)

    def decision(self, decision: Decision) -> None:
        self._line(f"decision: {words(decision)}")

    def traffic(self, asked: int, answered: int, tokens: int) -> None:
        if answered and answered % 10 == 0:
            self._line(f"{answered} of {asked} requests answered, {tokens} tokens")

    def _flush(self) -> None:
        if self._text:
            self._line(f"answer: {' '.join(self._text.split())}")
            self._text = ""

    def _line(self, text: str) -> None:
        self._console.print(Text(f"{time.monotonic() - self._began:6.1f} s  {text}"), soft_wrap=True)


class LiveScreen:
    """Workers, decisions and one streamed answer, redrawn four times a second."""

    def __init__(self, console: Console) -> None:
        self._began = time.monotonic()
        self._phase = "starting"
        self._note = ""
        self._answer = ""
        self._answer_ended = False
        self._shown: list[dict[str, Any]] = []
        self._decisions: deque[tuple[float, Decision]] = deque(maxlen=8)
        self._traffic = (0, 0, 0)
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def phase(self, name: str) -> None:
        self._phase, self._note = name, ""
        self._live.console.print(Text.assemble((f"{time.monotonic() - self._began:6.1f} s  ", "dim"), (name, "bold")))

    def note(self, text: str) -> None:
        self._note = text

    def token(self, text: str) -> None:
        if self._answer_ended and text:
            self._answer = ""
        self._answer_ended = not text
        self._answer += text

    def workers(self, moment: Seen, shown: list[dict[str, Any]]) -> None:
        del moment
        self._shown = shown

    def decision(self, decision: Decision) -> None:
        self._decisions.append((time.monotonic() - self._began, decision))

    def traffic(self, asked: int, answered: int, tokens: int) -> None:
        self._traffic = (asked, answered, tokens)

    def _draw(self) -> Group:
        asked, answered, tokens = self._traffic
        head = Text.assemble(
            (f"{time.monotonic() - self._began:5.0f} s  ", "dim"),
            (self._phase, "bold cyan"),
            f"   {answered}/{asked} requests, {tokens} tokens   ",
            (self._note, "dim"),
        )
        workers = Table(box=None, expand=True, header_style="bold")
        for heading in ("worker", "state", "since", "in flight", "queued", "load", "perf"):
            workers.add_column(heading)
        for worker in self._shown:
            workers.add_row(
                worker["id"],
                state(worker["state"]),
                seconds(max(time.time() - (worker.get("state_at") or time.time()), 0)),
                *(("-" if worker.get(key) is None else f"{worker[key]:.0f}") for key in ("inflight", "queued", "load", "perf")),
            )
        decisions = Table(box=None, expand=True, show_header=False)
        decisions.add_column(width=7, style="dim")
        decisions.add_column(overflow="fold")
        for at_s, decision in self._decisions:
            decisions.add_row(f"{at_s:5.0f} s", Text(words(decision), style="cyan" if decision.actions else "dim"))
        return Group(
            head,
            Panel(workers, title="workers", border_style="dim"),
            Panel(decisions, title="decisions and why", border_style="dim"),
            Panel(Text(self._answer or "..."), title="one answer, as it is made", border_style="dim", height=6),
        )
