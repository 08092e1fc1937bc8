"""The last page of the demo: what happened, in one table, and `demo: ok` or why not."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from corral.cli.show import seconds

from .record import Seen, Summary
from .screen import words

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 48


def show(console: Console, summary: Summary) -> None:
    if summary.first_answer:
        console.print(Text.assemble(("first answer  ", "bold"), " ".join(summary.first_answer.split())))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("requests", f"{summary.requests}, answered by {summary.served_by} workers")
    table.add_row("errors", Text(str(summary.errors), style="green" if not summary.errors else "bold red"))
    table.add_row("tokens", str(summary.tokens))
    cold = " (a cold start)" if summary.first_cold_start else ""
    table.add_row("first wait", f"{seconds(summary.first_wait_s)}{cold}")
    table.add_row("wait p50, p95", f"{seconds(summary.wait_p50_s)}, {seconds(summary.wait_p95_s)} to the first token")
    table.add_row("phases", ", ".join(f"{phase.name} {phase.ended_s - phase.began_s:.0f} s" for phase in summary.phases))
    table.add_row("workers ready", f"|{sparkline(summary.workers, summary.took_s)}| at most {summary.most_ready}")
    table.add_row("took", seconds(summary.took_s))
    console.print(table)
    decisions = Table(box=None, pad_edge=False, header_style="bold")
    decisions.add_column("at", justify="right")
    decisions.add_column("hot", justify="right")
    decisions.add_column("decision and why", overflow="fold")
    for decision in summary.decisions:
        decisions.add_row(
            f"{decision.at_s:.0f} s",
            f"{decision.hot_before}→{decision.hot_wanted}",
            Text(words(decision), style="" if decision.actions else "dim"),
        )
    console.print(decisions)
    if summary.ok:
        console.print(Text("demo: ok", style="bold green"))
    else:
        console.print(Text(f"demo: failed: {'; '.join(summary.failures)}", style="bold red"), soft_wrap=True)


def sparkline(workers: tuple[Seen, ...], took_s: float) -> str:
    """Ready workers over the whole time, one character per slice."""
    if not workers or took_s <= 0:
        return ""
    line = []
    for slot in range(_WIDTH):
        at_s = (slot + 1) * took_s / _WIDTH
        ready = 0
        for moment in workers:
            if moment.at_s > at_s:
                break
            ready = moment.ready
        line.append(_BARS[min(ready * 2, len(_BARS) - 1)])
    return "".join(line)
