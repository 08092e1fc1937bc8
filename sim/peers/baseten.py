"""Baseten: our model of its documented policy (docs.baseten.co/deploy/autoscaling). The implementation is closed.

Assumed: evaluated every 10 s; once the delay is over, half of the excess goes each minute.
"""

from __future__ import annotations

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import MeanOver

from .rounding import round_up

WINDOW_S = 60.0
DOWN_DELAY_S = 900.0
STEP_S = 60.0


class Baseten:
    """Average concurrency of 60 s over concurrency target x target utilisation; down slowly, after 15 minutes."""

    name = "Baseten-like"
    interval_s = 10.0

    def __init__(self, pool: PoolFacts, utilisation: float = 0.7) -> None:
        self._target = utilisation * pool.slots
        self._concurrency = MeanOver(WINDOW_S)
        self._below_since_s: float | None = None

    def decide(self, seen: Observation) -> int:
        wanted = round_up(self._concurrency.add(seen.now_s, seen.present_s) / self._target)
        if seen.hot == 0 and seen.waiting:
            return 1
        if wanted >= seen.hot:
            self._below_since_s = None
            return wanted
        if self._below_since_s is None:
            self._below_since_s = seen.now_s
        if seen.now_s - self._below_since_s < DOWN_DELAY_S:
            return seen.hot
        self._below_since_s = seen.now_s - DOWN_DELAY_S + STEP_S
        return seen.hot - max(1, (seen.hot - wanted) // 2)
