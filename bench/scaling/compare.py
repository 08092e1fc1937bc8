"""From single runs to comparisons: means over seeds, the cheapest peer that does as well, the frontier."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import msgspec

from bench.scaling.cases import COLD, FIXED, OURS, Case, Played
from sim.metrics import TARGETS_S
from sim.peers import PEERS
from sim.traces import SIZING

GOAL, WAIT_S = 0.95, 5.0
#: A setting's mean over all seeds differs from its run under the first by less than this much of attainment.
SEEDS_MOVE = 0.03
#: Settings that are cheaper than the best by less than this may turn out best under other seeds.
CLOSE = 0.01


class Spread(NamedTuple):
    """One figure over the seeds."""

    mean: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), min(values), max(values))


class Summary(NamedTuple):
    """One setting, averaged over its seeds."""

    setting: Case
    seeds: int
    within: Mapping[float, Spread]  #: seconds of wait -> share of requests
    p95_s: float
    p99_s: float
    rejected: int  #: over all seeds
    overdue: int  #: over all seeds, see `Result`; known of ours alone
    hot: Spread  #: GPU-hours
    stopped: Spread  #: GPU-hours
    creations: float
    cost: Spread  #: hot GPU-hours and storage
    flaps: Spread
    starts_per_hour: float
    utilisation: float

    @property
    def attained(self) -> Spread:
        return self.within[WAIT_S]

    @property
    def attainment(self) -> float:
        return self.attained.mean

    @property
    def hot_h(self) -> float:
        return self.hot.mean


def summary(runs: Sequence[Played]) -> Summary:
    results = [one.result for one in runs]
    return Summary(
        setting=runs[0].case.setting,
        seeds=len(runs),
        within={target_s: spread([result.within(target_s) for result in results]) for target_s in TARGETS_S},
        p95_s=fmean(result.wait_p95_s for result in results),
        p99_s=fmean(result.wait_p99_s for result in results),
        rejected=sum(result.rejected for result in results),
        overdue=sum(result.overdue for result in results),
        hot=spread([result.hot_h for result in results]),
        stopped=spread([result.stopped_h for result in results]),
        creations=fmean(result.creations for result in results),
        cost=spread([result.cost for result in results]),
        flaps=spread([result.flaps for result in results]),
        starts_per_hour=fmean(one.result.starts / one.hours for one in runs),
        utilisation=fmean(result.utilisation for result in results),
    )


class Table:
    """Every setting that was played, by its summary."""

    def __init__(self, played: Iterable[Played]) -> None:
        runs: dict[Case, list[Played]] = {}
        for one in sorted(played, key=lambda one: _place(one.case)):
            runs.setdefault(one.case.setting, []).append(one)
        self._of = {setting: summary(found) for setting, found in runs.items()}

    def get(self, trace: str, policy: str = OURS, knob: float | None = None, **more: str | float) -> Summary | None:
        return self._of.get(Case(trace=trace, policy=policy, knob=knob, seed=0, **more))

    def parts(self, tier: str = COLD, service: str = FIXED) -> list[tuple[str, float]]:
        """(trace, how many of its first hours; 0: all)."""
        settings = [setting for setting in self._of if (setting.tier, setting.service) == (tier, service)]
        return list(dict.fromkeys((setting.trace, setting.first_h) for setting in settings))

    def traces(self, tier: str = COLD, service: str = FIXED) -> list[str]:
        """Those that were played as a whole."""
        return [trace for trace, first_h in self.parts(tier, service) if not first_h]

    def peers(
        self, trace: str, *, tier: str = COLD, service: str = FIXED, first_h: float = 0.0, defaults_only: bool = False
    ) -> list[Summary]:
        """Every setting of every peer, or the defaults alone."""
        return [
            one
            for setting, one in self._of.items()
            if (setting.trace, setting.tier, setting.service, setting.first_h) == (trace, tier, service, first_h)
            and setting.policy != OURS
            and not (defaults_only and setting.knob is not None)
        ]


def _place(case: Case) -> tuple[float | str, ...]:
    """Where a case belongs in every table, whatever was played first."""
    names = [*SIZING]
    trace = names.index(case.trace) if case.trace in names else len(names)
    policy = 0 if case.policy == OURS else 1 + [peer.name for peer in PEERS].index(case.policy)
    knob = -1.0 if case.knob is None else case.knob
    return (trace, case.trace, case.first_h, case.tier, case.service, policy, case.pool, knob, case.seed)


def cheapest(peers: Iterable[Summary], attainment: float, seeds: int) -> Summary | None:
    """The peer with the fewest hot hours among those that attain so much on average of that many seeds."""
    able = [one for one in peers if one.seeds >= seeds and one.attainment >= attainment]
    return min(able, key=lambda one: one.hot_h, default=None)


def to_be_sure(peers: Collection[Summary], attainment: float, seeds: Sequence[int]) -> list[Case]:
    """What must still be played before `cheapest` is known to be right. Peers were played under the first seed; a few at a time, the
    cheapest first. Nothing, when it is known."""
    best = cheapest(peers, attainment, len(seeds))
    may_be = [
        one
        for one in peers
        if one.seeds < len(seeds)
        and one.attainment >= attainment - SEEDS_MOVE
        and (best is None or one.hot_h < best.hot_h * (1 + CLOSE))
    ]
    few = sorted(may_be, key=lambda one: one.hot_h)[:3]
    return [_with_seed(one.setting, seed) for one in few for seed in seeds]


def _with_seed(setting: Case, seed: int) -> Case:
    return msgspec.structs.replace(setting, seed=seed)


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """(cost, attainment) of those that nobody beats in both, by rising cost."""
    best: list[tuple[float, float]] = []
    for cost, attainment in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or attainment > best[-1][1]:
            best.append((cost, attainment))
    return best


def geometric_mean(ratios: Collection[float]) -> float:
    return math.exp(fmean(math.log(ratio) for ratio in ratios))


def agreement(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau: the share of pairs in the same order less the share in the opposite order."""
    pairs = [(i, j) for i in range(len(one)) for j in range(i)]
    signs = [(one[i] - one[j]) * (other[i] - other[j]) for i, j in pairs]
    return sum((sign > 0) - (sign < 0) for sign in signs) / len(pairs) if pairs else 1.0
