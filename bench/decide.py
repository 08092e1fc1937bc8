"""What a decision costs: `make bench-decide`. One JSON object per line; exit status 1 when a bar is missed.

decide_*      one endpoint of 100 workers in three groups, under a load that goes up and down, so that some decisions act
endpoints_*   1,000 small endpoints in one process: fold the tick, decide, fold the decision, every two seconds
state_bytes   what a leader stores of the large endpoint for the next one

Times are CPU seconds of this thread: on a machine that others use too, the wall clock tells more about them. Even so a neighbour in
the caches can make a minute twice as slow as the next. So each moment is decided anew in several passes over the whole run, a few
times in a row, and of each decision the quickest counts: it was disturbed least. Quantiles are over decisions.

decide_once_p99  over all first tries as they came: with cold caches and whatever else went on
noise            how much slower a fixed loop beside them was on average than at its quickest; a run that was slow all through
                 does not show

ARGS="--engine NAME" takes another engine than the default (`scaler.decide.ENGINES`).
"""

from __future__ import annotations

import argparse
import math
import sys

import msgspec

from bench.decide_cost import GROUPS, cpu_s, measure, quantile
from bench.decide_world import TICK_S, World
from scaler import decide, memory
from scaler.types import Policy

BAR_DECIDE_P99_MS = 1.0
BAR_PLAN_P50_MS = 0.5  #: all but the engine
BAR_CORE = 0.5  #: share of a core for the endpoints
BAR_STATE_BYTES = memory.USUAL_BYTES


def large(policy: Policy, ticks: int) -> bool:
    found = measure(policy, ticks)
    about = {"workers": found.workers, "groups": GROUPS, "decisions": ticks, "with_actions": found.acting}
    loop = found.loop_s
    good = report("noise", sum(loop) / len(loop) / min(loop), "x", what="a fixed loop, its mean over its quickest")
    good &= report("decide_p50", quantile(found.whole_s, 0.5) * 1e3, "ms", **about)
    good &= report("decide_p99", quantile(found.whole_s, 0.99) * 1e3, "ms", bar=BAR_DECIDE_P99_MS, **about)
    good &= report("decide_once_p99", quantile(found.once_s, 0.99) * 1e3, "ms", what="first tries, cold and disturbed")
    good &= report(
        "decide_engine_p50", quantile(found.engine_s, 0.5) * 1e3, "ms", engine=policy.name, what="the engine and what it reads"
    )
    good &= report("decide_rest_p50", quantile(found.rest_s, 0.5) * 1e3, "ms", bar=BAR_PLAN_P50_MS, what="all but the engine")
    good &= report("decide_rest_p99", quantile(found.rest_s, 0.99) * 1e3, "ms", what="all but the engine")
    good &= report("state_bytes", found.state_bytes, "bytes", bar=BAR_STATE_BYTES, workers=found.workers)
    return good


def many(policy: Policy, endpoints: int, ticks: int) -> bool:
    worlds = [World(n, groups=2, max_workers=6, policy=policy) for n in range(endpoints)]
    took = []
    for tick in range(ticks + 20):
        for nth, world in enumerate(worlds):
            world.passes(120.0 + 80.0 * math.sin(tick / 30 + nth))
        if tick < 20:
            for world in worlds:
                world.obeys(world.decides().actions)
            continue
        used_s, decisions = cpu_s(lambda: [world.decides() for world in worlds])
        took.append(used_s)
        assert isinstance(decisions, list)
        for world, decision in zip(worlds, decisions, strict=True):
            world.obeys(decision.actions)
    workers = sum(len(world.state.workers) for world in worlds)
    share = sum(took) / len(took) / TICK_S
    return report("endpoints_core_share", share, "cores", bar=BAR_CORE, endpoints=endpoints, workers=workers)


def report(bench: str, value: float, unit: str, *, bar: float | None = None, **more: float | str) -> bool:
    """Print one figure; whether it is within its bar."""
    line: dict[str, float | str] = {"bench": bench, "value": round(value, 4), "unit": unit}
    if bar is not None:
        line |= {"bar": bar, "ok": value <= bar}
    print(msgspec.json.encode(line | more).decode(), flush=True)
    return bar is None or value <= bar


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default=Policy().name, choices=sorted(decide.ENGINES))
    parser.add_argument("--ticks", type=int, default=600, help="decisions about the large endpoint")
    parser.add_argument("--endpoints", type=int, default=1000)
    args = parser.parse_args()
    policy = Policy(name=args.engine)
    good = large(policy, args.ticks)
    good &= many(policy, args.endpoints, max(5, args.ticks // 60))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
