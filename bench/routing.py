"""Who should answer this request? Our routing against others on recorded traffic: `make bench-routing`.

One JSON object per line; exit status 1 when a bar is missed. A whole run also writes docs/benchmarks-routing.md. The arena is in
`sim.routers`; everything in it follows from the seeds. Without recorded traces (TRACES=folder) made-up traffic stands in, and every
line says so; it is played at 5 % less load, because its minutes differ more and the central queue itself would miss the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from sim import synthetic, traces
from sim.routers import central, ours
from sim.routers.arena import Arena, Make, Outcome
from sim.routers.policies import POLICIES
from sim.routers.pool import SPEEDS, sized
from sim.workload import Workload

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks-routing.md"
#: Bars are asked of the mean over these.
SEEDS = (1, 2, 3, 4, 5)
LIMIT_S = 5.0
SIGMA = 0.6
OURS, CENTRAL = "ours", "central queue (late binding)"
WITHIN, BEHIND = "routing_within_5s", "routing_behind_central_queue"
MEANS = {WITHIN: f"share within {LIMIT_S:g} s", BEHIND: "less than the central queue by"}
CONTESTANTS: dict[str, Make] = {**POLICIES, OURS: ours.make, CENTRAL: central.make}


@dataclass(frozen=True, slots=True)
class Case:
    trace: str
    load: float  #: of the pool, on average
    report_s: float
    routers: int
    bar: float | None = None  #: least share of requests within LIMIT_S
    near: float | None = None  #: and at most so much less than the central queue

    @property
    def title(self) -> str:
        several = f", {self.routers} routers" if self.routers > 1 else ""
        return f"{self.trace} {self.load:.0%}, {self.report_s:g}-s reports{several}"


@dataclass(frozen=True, slots=True)
class Bar:
    """What is asked of ours in one case, and what it reached."""

    bench: str
    case: str
    value: float
    bar: float
    ok: bool
    traffic: str

    @property
    def asked(self) -> str:
        return f"at least {self.bar:g}" if self.bench == WITHIN else f"at most {self.bar:g}"


CASES = (
    Case("azure_conv_2023", 0.63, 1, 1),
    Case("mooncake_conv", 0.85, 1, 1),
    Case("mooncake_conv", 0.85, 5, 1, bar=0.95, near=0.04),
    Case("mooncake_conv", 0.85, 1, 3, bar=0.94),
    Case("mooncake_conv", 0.85, 5, 3, bar=0.94),
)


def traffic_of(case: Case) -> tuple[Case, Workload, bool]:
    """The case as it can be played, its traffic, and whether that was recorded."""
    try:
        return case, traces.load(case.trace), True
    except traces.TracesMissing:
        return replace(case, trace="steady", load=round(case.load - 0.05, 2)), synthetic.make("steady"), False


def play(case: Case, workload: Workload, name: str, seeds: tuple[int, ...]) -> list[Outcome] | None:
    """One outcome per seed; None where the policy cannot take part."""
    if name == CENTRAL and case.routers > 1:
        return None
    return [
        Arena(
            workload,
            sized(workload, case.load, seed=seed),
            CONTESTANTS[name],
            routers=case.routers,
            report_s=case.report_s,
            sigma=SIGMA,
            seed=seed,
        ).run(LIMIT_S)
        for seed in seeds
    ]


def within(outcomes: list[Outcome]) -> float:
    return statistics.mean(outcome.within for outcome in outcomes)


def judge(case: Case, found: dict[str, list[Outcome]], recorded: bool) -> list[Bar]:
    """The bars of a case; it says them too."""
    traffic = "recorded" if recorded else "made up: no traces"
    bars = []
    if case.bar is not None:
        value = within(found[OURS])
        bars.append(Bar(WITHIN, case.title, value, case.bar, value >= case.bar, traffic))
    if case.near is not None:
        behind = within(found[CENTRAL]) - within(found[OURS])
        bars.append(Bar(BEHIND, case.title, behind, case.near, behind <= case.near, traffic))
    for bar in bars:
        report(bar.bench, bar.value, bar=bar.bar, ok=bar.ok, case=bar.case, traffic=bar.traffic)
    return bars


def report(bench: str, value: float, **more: object) -> None:
    print(msgspec.json.encode({"bench": bench, "value": round(value, 4), **more}).decode(), flush=True)


def page(results: list[tuple[Case, dict[str, list[Outcome]]]], bars: list[Bar], seeds: tuple[int, ...]) -> str:
    """The tables for people."""
    slowest, fastest = min(SPEEDS), max(SPEEDS)
    lines = [
        "# Routing, measured in simulation",
        "",
        "Written by `make bench-routing`; made again, it is the same to the last digit. Nothing here ran on a GPU.",
        "",
        f"{len(SPEEDS)} workers of {slowest} to {fastest} times the mean speed, 8 slots each, first come first served; what they really do is off",
        "their benchmarks by 10 %. Clients go straight to the worker, so a router sees completions only in the worker's next report,",
        f"50 ms old on arrival. What clients say about a request's cost is off log-normally, sigma {SIGMA}. The traffic is recorded",
        "(Azure's conversation trace of 2023, Mooncake's conversation trace); the pool is sized so that it is used to the part given.",
        "",
        "*ours* is the router's own code as it runs in production: its switchboard, hold queue, reservations and gossip between",
        "routers, imported and not copied. *own in-flight* policies see each completion of their own requests at once, which no router",
        "of this kind can; they and the *central queue*, which binds a request only when a slot is free and knows everything, are",
        "references. *Prequal-like* ranks by what reports tell instead of by probes. These are our models of published ideas.",
        "",
        f"{_headline(bars)} Of *ours*, mean of seeds {', '.join(map(str, seeds))}:",
        "",
        "|  | case | figure | value | asked |",
        "|---" * 5 + "|",
        *(
            f"| {'ok' if bar.ok else '**missed**'} | {bar.case} | {MEANS[bar.bench]} | {bar.value:.4f} | {bar.asked} |"
            for bar in bars
        ),
        "",
        f"Share of requests whose service begins within {LIMIT_S:g} s / 99th percentile of the wait. Mean of seeds {', '.join(map(str, seeds))}; in",
        "brackets the range of the share over them.",
        "",
        "| policy | " + " | ".join(case.title for case, _ in results) + " |",
        "|---" * (len(results) + 1) + "|",
    ]
    for name in CONTESTANTS:
        cells = [_cell(found.get(name)) for _, found in results]
        bold = "**" if name == OURS else ""
        lines.append(f"| {bold}{name}{bold} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "What keeps ours near the central queue with reports of five seconds ago: the estimate of a worker's backlog goes on between",
        "reports (`router/choose.py`: a fluid queue with slots), a router's own tickets count from the moment they are given out, what",
        "cannot be placed waits at the router bound to nobody, and a worker gets more than its slots hold only as far ahead as one of its",
        "report intervals. Knowing each request's cost does not help beyond that: rules that rank by work instead of by slots (JSEW) do",
        "worst, because a worker with a free slot makes nobody wait however much work it has.",
        "",
    ]
    return "\n".join(lines)


def _headline(bars: list[Bar]) -> str:
    missed = sum(not bar.ok for bar in bars)
    return f"**{missed} of {len(bars)} bars are missed.**" if missed else f"All {len(bars)} bars are met."


def _cell(outcomes: list[Outcome] | None) -> str:
    if not outcomes:
        return "–"
    low, high = min(one.within for one in outcomes), max(one.within for one in outcomes)
    p99_s = statistics.mean(one.p99_s for one in outcomes)
    return f"{within(outcomes):.3f} ({low:.3f}–{high:.3f}) / {p99_s:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="the cases with bars, ours and the central queue, one seed; writes no page"
    )
    args = parser.parse_args()
    seeds = SEEDS[:1] if args.quick else SEEDS
    results: list[tuple[Case, dict[str, list[Outcome]]]] = []
    bars: list[Bar] = []
    all_recorded = True
    for case in CASES:
        if args.quick and case.bar is None:
            continue
        case, workload, recorded = traffic_of(case)  # noqa: PLW2901 -- as it can be played
        all_recorded &= recorded
        found: dict[str, list[Outcome]] = {}
        for name in (OURS, CENTRAL) if args.quick else CONTESTANTS:
            outcomes = play(case, workload, name, seeds)
            if outcomes is None:
                continue
            found[name] = outcomes
            p99_s = statistics.mean(one.p99_s for one in outcomes)
            report("routing", within(outcomes), case=case.title, policy=name, p99_s=round(p99_s, 1), recorded=recorded)
        results.append((case, found))
        bars += judge(case, found, recorded)
    if not args.quick and all_recorded:
        PAGE.write_text(page(results, bars, seeds))
    sys.exit(0 if all(bar.ok for bar in bars) else 1)


if __name__ == "__main__":
    main()
