"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.table import Table as RichTable

from bench.scaling import cases
from bench.scaling.bar import Bar
from bench.scaling.cases import COLD, FIXED, NEW, SHARING, TRI
from bench.scaling.compare import GOAL, Summary, agreement, geometric_mean
from bench.scaling.measured import Measured
from bench.scaling.rivals import oracle

TITLES = {
    COLD: "Stopped pool: everything exists, scaling up is resuming (seconds)",
    NEW: "New workers only: scaling up is creating (minutes)",
    TRI: "Three tiers: the policy also says how many are kept stopped",
}
COLUMNS = (
    "policy", "seeds", "2 s", "5 s", "(range)", "15 s", "p99 s", "rejected", "hot h", "(range)", "stopped h", "cost", "x bound", "flaps", "starts/h",
)  # fmt: skip


def tables(measured: Measured) -> Iterator[RichTable]:
    for tier in (COLD, NEW, TRI):
        parts = measured.table.parts(tier)
        if parts:
            yield _of_tier(measured, tier, parts)
    if measured.table.parts(service=SHARING):
        yield _of_services(measured)


def _of_tier(measured: Measured, tier: str, parts: Sequence[tuple[str, float]]) -> RichTable:
    table = RichTable(title=TITLES[tier], box=box.SIMPLE_HEAD, title_justify="left")
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for trace, first_h in parts:
        table.add_section()
        bound_h = bound_of(measured, tier, trace, first_h)
        of = f", first {first_h:g} h" if first_h else ""
        table.add_row(f"[bold]{trace}{of}" + (f"  (bound {bound_h:.2f} h)" if bound_h else ""))
        for label, one in rows(measured, tier, trace, first_h):
            style = "green" if one.setting.policy == cases.OURS else "" if one.attainment >= GOAL else "dim"
            table.add_row(label, *figures(one, bound_h), style=style)
    return table


def bound_of(measured: Measured, tier: str, trace: str, first_h: float) -> float | None:
    """Hot hours of the offline bound; it is for a whole trace and a pool that exists."""
    return None if first_h or tier != COLD else measured.bounds.get(trace)


def rows(measured: Measured, tier: str, trace: str, first_h: float) -> Iterator[tuple[str, Summary]]:
    """Ours, the peers at their defaults, the best of all knobs."""
    table = measured.table
    if tier == TRI:
        ours = [table.get(trace, tier=tier, pool=pool) for pool in (cases.DOCUMENTED, cases.ALL, cases.DAY, cases.LEARNED)]
        for one in [*ours, *table.peers(trace, tier=tier)]:
            if one is not None:
                yield f"{one.setting.policy}, pool: {one.setting.pool}", one
        return
    ours = table.get(trace, tier=tier, first_h=first_h)
    if ours is not None:
        yield cases.OURS, ours
    for one in table.peers(trace, tier=tier, first_h=first_h, defaults_only=True):
        yield one.setting.policy, one
    best = None if first_h else oracle(measured, trace, tier)
    if best is not None:
        yield f"oracle: {best.setting.policy} {'default' if best.setting.knob is None else f'{best.setting.knob:g}'}", best


def figures(one: Summary, bound_h: float | None) -> list[str]:
    many = one.seeds > 1
    return [
        f"{one.seeds}",
        f"{one.within[2.0].mean:.4f}",
        f"{one.attainment:.4f}",
        f"{one.attained.low:.4f}-{one.attained.high:.4f}" if many else "",
        f"{one.within[15.0].mean:.4f}",
        f"{one.p99_s:.1f}",
        f"{one.rejected}",
        f"{one.hot_h:.2f}",
        f"{one.hot.low:.2f}-{one.hot.high:.2f}" if many else "",
        f"{one.stopped.mean:.0f}",
        f"{one.cost.mean:.1f}",
        f"{one.hot_h / bound_h:.2f}" if bound_h else "",
        f"{one.flaps.mean:.0f}",
        f"{one.starts_per_hour:.1f}",
    ]


def _of_services(measured: Measured) -> RichTable:
    table = RichTable(
        title="Does the order depend on how a worker serves? (defaults; sharing under the first seed)",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    for column in (
        "trace",
        "service",
        "seeds",
        "ours 5 s",
        "ours hot h",
        "place of ours among those >= .95",
        "order of hours",
        "order of attainment",
    ):
        table.add_column(column, justify="left" if column in {"trace", "service"} else "right")
    for ranking in rankings(measured):
        table.add_row(*ranking)
    return table


def rankings(measured: Measured) -> Iterator[tuple[str, ...]]:
    """(trace, service model, seeds, our attainment, our hours, our place, agreement of hours, of attainment with the fixed rate's)."""
    for trace, first_h in measured.table.parts(service=SHARING):
        by_service: dict[str, dict[str, Summary]] = {}
        for service in (FIXED, SHARING):
            found = measured.table.peers(trace, service=service, first_h=first_h, defaults_only=True)
            ours = measured.table.get(trace, service=service, first_h=first_h)
            by_service[service] = {one.setting.policy: one for one in [*found, *([ours] if ours else [])]}
        names = sorted(set(by_service[FIXED]) & set(by_service[SHARING]))
        for service, of in by_service.items():
            if cases.OURS not in names:
                continue
            ours = of[cases.OURS]
            able = sorted((one for one in of.values() if one.attainment >= GOAL), key=lambda one: one.hot_h)
            place = f"{able.index(ours) + 1} of {len(able)}" if ours in able else f"misses it, {len(able)} do not"
            same = ("", "")
            if service == SHARING:
                pairs = [(by_service[FIXED][name], of[name]) for name in names]
                hours = agreement([one.hot_h for one, _ in pairs], [other.hot_h for _, other in pairs])
                attained = agreement([one.attainment for one, _ in pairs], [other.attainment for _, other in pairs])
                same = (f"{hours:.2f}", f"{attained:.2f}")
            yield (trace, service, f"{ours.seeds}", f"{ours.attainment:.4f}", f"{ours.hot_h:.2f}", place, *same)


def one_knob_for_all(measured: Measured) -> list[tuple[str, float | None, list[Summary], float]]:
    """Each peer at the one knob that is best in hindsight over all traces: (name, knob, its summaries, geometric mean of its hot hours
    over ours). Best: most traces at the goal, then cheapest, by the mean of the seeds that were played: at least the first."""
    traces = measured.table.traces()
    settings: dict[tuple[str, float | None], list[Summary]] = {}
    for trace in traces:
        for one in measured.table.peers(trace):
            settings.setdefault((one.setting.policy, one.setting.knob), []).append(one)
    ours = {trace: measured.table.get(trace) for trace in traces}
    best: dict[str, tuple[tuple[int, float], float | None, list[Summary], float]] = {}
    for (policy, knob), found in settings.items():
        if len(found) < len(traces) or any(ours[trace] is None for trace in traces):
            continue
        ratio = geometric_mean([one.hot_h / ours[one.setting.trace].hot_h for one in found])
        rank = (-sum(one.attainment >= GOAL for one in found), ratio)
        if policy not in best or rank < best[policy][0]:
            best[policy] = (rank, knob, found, ratio)
    return [(policy, knob, found, ratio) for policy, (_, knob, found, ratio) in best.items()]


def of_bars(bars: Iterable[Bar]) -> RichTable:
    table = RichTable(title="Bars", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("", "bar", "value", "asked", "unit", "against"):
        table.add_column(column, justify="right" if column in {"value", "asked"} else "left")
    for bar in bars:
        mark = "[yellow]not judged" if bar.not_judged else {True: "[green]ok", False: "[red]missed", None: ""}[bar.ok]
        value = "" if bar.value is None else f"{bar.value:g}"
        table.add_row(mark, bar.bench, value, "" if bar.bar is None else f"{bar.bar:g}", bar.unit, bar.vs)
    return table
