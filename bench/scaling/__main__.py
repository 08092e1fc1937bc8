"""Every scaling policy on every trace, in one deterministic simulator: `make bench-scaling`. Exit status 1 when a bar is missed.

Prints tables, then one JSON object per line for each policy on each trace and for each bar. A complete run writes docs/benchmarks.md and
its plots.

    cold      everything exists, stopped: scaling up is resuming           ours and defaults under all seeds, every knob under the first
    new       scaling up is creating: minutes                              the same, on traces of a day or more; knobs worth it
    tri       the policy also chooses how many are kept stopped            one trace, total cost
    sharing   as cold, but workers share their speed among requests        ours and defaults, first seed
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from bench.scaling import bars, bounds, cases, decision, lines, page, table
from bench.scaling.bar import Bar, verdict
from bench.scaling.cache import Cache
from bench.scaling.cases import COLD, NEW, SHARING, TRI
from bench.scaling.compare import GOAL, SEEDS_MOVE, Table, to_be_sure
from bench.scaling.measured import Measured
from bench.scaling.play import workload
from bench.scaling.runner import Runner
from sim import traces
from sim.workload import SECOND_US

PARTS = (COLD, NEW, TRI, SHARING)
SEEDS = 5
#: With --quick, of traces longer than that: the first hours.
QUICK_H = {"alibaba_r1_day": 6.0}
QUICK_OTHERS_H = 36.0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", nargs="+", metavar="NAME", help="only these; default: all in the folder that TRACES names")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"seeds 1 to N (default {SEEDS})")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--quick", action="store_true", help="first hours of long traces, defaults only, one seed: minutes")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="processes; default: one per core")
    parser.add_argument("--fresh", action="store_true", help="do not use results of earlier runs (out/scaling)")
    args = parser.parse_args()
    there = [*traces.available(), *traces.others()]
    names = args.traces or there
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        sys.exit(
            f"no trace {', '.join(unknown) or 'at all'}; there are: {', '.join(there) or 'none'}. TRACES=folder names another folder"
        )
    if args.seeds < 1:
        sys.exit("--seeds: at least 1")
    begun_s = time.monotonic()
    runner = Runner(args.jobs, None if args.fresh else Cache())
    seeds = range(1, 2 if args.quick else args.seeds + 1)
    play(runner, names, seeds, args.parts, quick=args.quick)
    measured = Measured(
        table=Table(runner.played.values()),
        bounds={name: hours for name in names if (hours := bounds.hours(name)) is not None},
        seeds=seeds,
        decision=decision.whole(),
        engine_step=decision.engine_step(),
    )
    took_min = (time.monotonic() - begun_s) / 60
    found = tell(measured, runner, took_min)
    complete = set(bars.USUAL) <= set(names) and set(args.parts) == set(PARTS) and len(seeds) >= SEEDS and not runner.failed
    if complete:
        page.write(measured, found)
        print(f"written: {page.PAGE.relative_to(page.ROOT)} and its plots", file=sys.stderr)
    print(verdict(found), file=sys.stderr)
    sys.exit(1 if runner.failed or any(bar.ok is False for bar in found) else 0)


def play(runner: Runner, names: Sequence[str], seeds: Sequence[int], parts: Sequence[str], *, quick: bool) -> None:
    if quick:
        short = {name: quick_h(name) for name in names}
        wanted = [case for name in names for case in cases.of_policies(name, seeds, first_h=short[name])]
        runner.add(wanted, "defaults")
        return
    long = [name for name in names if workload(name).end_us / SECOND_US / 3600 >= cases.LONG_H]
    wanted = []
    if COLD in parts:
        wanted += [case for name in names for case in [*cases.of_policies(name, seeds), *cases.of_knobs(name, COLD)]]
    if NEW in parts:
        wanted += [case for name in long for case in cases.of_new_workers(name, seeds)]
    if TRI in parts and cases.POOL_TRACE in names:
        wanted += cases.of_stopped_pools(cases.POOL_TRACE, seeds)
    if SHARING in parts:
        wanted += [case for name in names for case in cases.of_policies(name, seeds[:1], service=cases.SHARING)]
    runner.add(wanted, "runs")
    if NEW in parts:
        runner.add([case for name in long for case in _worth_playing(runner, name)], "new workers, knobs")
    for tier, of_tier in ((COLD, names), (NEW, long)):
        while tier in parts and (more := _to_be_sure(runner, of_tier, tier, seeds)):
            runner.add(more, "oracles")


def _worth_playing(runner: Runner, name: str) -> list[cases.Case]:
    """Knobs that may attain as much as ours with new workers only. Who attained less with a stopped pool need not be played: when scaling
    up takes minutes instead of seconds everybody attains less, or more by no more than seeds do (of those played, .0003)."""
    known = Table(runner.played.values())
    ours = known.get(name, tier=NEW)
    if ours is None:
        return []
    hopeless = {
        (one.setting.policy, one.setting.knob) for one in known.peers(name) if one.attainment < ours.attainment - SEEDS_MOVE
    }
    return [case for case in cases.of_knobs(name, NEW) if (case.policy, case.knob) not in hopeless]


def _to_be_sure(runner: Runner, names: Sequence[str], tier: str, seeds: Sequence[int]) -> list[cases.Case]:
    """What must still be played to know the best peer of each trace."""
    known, more = Table(runner.played.values()), []
    for name in names:
        ours = known.get(name, tier=tier)
        if ours is not None:
            for attainment in (ours.attainment, min(ours.attainment, GOAL)):
                more += to_be_sure(known.peers(name, tier=tier), attainment, seeds)
    return [case for case in more if case not in runner.played and case not in runner.failed]


def quick_h(name: str) -> float:
    """How many of a trace's first hours --quick plays; 0: all."""
    first_h = QUICK_H.get(name, QUICK_OTHERS_H)
    return first_h if workload(name).end_us / SECOND_US / 3600 > first_h else 0.0


def tell(measured: Measured, runner: Runner, took_min: float) -> list[Bar]:
    console = Console(width=None if sys.stdout.isatty() else 190)
    for one in table.tables(measured):
        console.print(one)
    found = bars.every(measured)
    console.print(table.of_bars(found))
    for line in lines.every(measured):
        print(line)
    for bar in found:
        print(bar.line())
    for case, why in runner.failed.items():
        print(f"failed: {case}: {why}", file=sys.stderr)
    count = len(runner.played)
    print(
        f"{count} runs, {runner.from_cache} of them known from before; {took_min:.1f} min, {runner.core_s / 60:.1f} of cores, "
        f"{runner.jobs} processes",
        file=sys.stderr,
    )
    return found


if __name__ == "__main__":
    main()
