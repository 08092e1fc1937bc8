"""SageMaker with Application Auto Scaling target tracking: our model of AWS's documented policy (endpoint-auto-scaling-*).

On the 10-second metric ConcurrentRequestsPerModelHighResolution. Assumed: AWS's usual alarms, 3 points above the target to scale
out, 15 minutes below 0.9 of it to scale in.
"""

from __future__ import annotations

from math import ceil

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import MeanOver

from .rounding import round_up

POINT_S = 10.0
OUT_POINTS, IN_POINTS = 3, 90
IN_SHARE = 0.9
COOLDOWN_S = 300.0


class SageMaker:
    """Target tracking. Never below one instance: it cannot scale from zero."""

    name = "SageMaker TT (hi-res)"
    interval_s = POINT_S

    def __init__(self, pool: PoolFacts, utilisation: float = 0.7) -> None:
        self._target = utilisation * pool.slots
        self._concurrency = MeanOver(POINT_S)
        self._above = self._below = 0
        self._out_at_s = self._in_at_s = float("-inf")

    def decide(self, seen: Observation) -> int:
        instances = max(1, seen.hot)
        concurrency = self._concurrency.add(seen.now_s, seen.present_s)
        self._above = self._above + 1 if concurrency / instances > self._target else 0
        self._below = self._below + 1 if concurrency / instances < IN_SHARE * self._target else 0
        since_out_s, since_in_s = seen.now_s - self._out_at_s, seen.now_s - self._in_at_s
        if self._above >= OUT_POINTS and since_out_s >= COOLDOWN_S:
            self._out_at_s, self._above = seen.now_s, 0
            return ceil(concurrency / self._target)
        if self._below >= IN_POINTS and min(since_in_s, since_out_s) >= COOLDOWN_S:
            self._in_at_s = seen.now_s
            return max(1, round_up(concurrency / self._target))
        return instances
