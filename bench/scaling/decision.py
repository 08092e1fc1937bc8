"""How long one decision of ours takes, with a hundred workers: CPU time of this thread, so that a busy machine counts little.

The whole decision is the one of production, as `make bench-decide` measures it. The engine's step is what the simulator calls at a tick:
no workers to choose, no records to keep.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from bench import decide_cost
from scaler.engine import constants, rules
from scaler.types import Policy
from sim import synthetic
from sim.corral_policy import CorralEngine
from sim.observation import Observation
from sim.run import run

WORKERS = 100
SHAPE = synthetic.Shape(
    "hundred workers",
    hours=0.6,
    rate=42.0,
    units_median=7255,
    units_sigma=1.06,
    mean_workers=WORKERS,
    max_workers=150,
    fast_sigma=0.08,
)


class Times(NamedTuple):
    of: str  #: what was measured, and how
    p99_s: float


class _Clocked:
    """A policy, and how long each of its decisions took."""

    def __init__(self, policy: CorralEngine) -> None:
        self.name, self.interval_s = policy.name, policy.interval_s
        self._policy = policy
        self.took_ns: list[int] = []

    def decide(self, seen: Observation) -> int:
        begun_ns = time.thread_time_ns()
        hot = self._policy.decide(seen)
        self.took_ns.append(time.thread_time_ns() - begun_ns)
        return hot


#: Neighbours on the same core can only slow a round down: the best one counts.
ROUNDS = 3
DECISIONS = 600


def whole() -> Times:
    found = decide_cost.measure(Policy(), DECISIONS)
    tries = decide_cost.PASSES * decide_cost.TIMES
    of = (
        f"{DECISIONS} whole decisions, {found.workers} workers in {decide_cost.GROUPS} groups, "
        f"{len(rules.table(constants.DEFAULT))} rules; of each the quickest of {tries} tries"
    )
    return Times(of, decide_cost.quantile(found.whole_s, 0.99))


def engine_step() -> Times:
    workload = synthetic.make(SHAPE)
    rounds = []
    for _ in range(ROUNDS):
        clocked = _Clocked(CorralEngine(workload))
        run(workload, clocked)
        rounds.append(clocked.took_ns)
    p99_s = min(float(np.quantile(took_ns, 0.99)) for took_ns in rounds) / 1e9
    return Times(f"{len(rounds[0])} steps in the simulator, {WORKERS} workers; the quickest of {ROUNDS} runs", p99_s)
