"""Knative's pod autoscaler. knative/serving pkg/autoscaler/scaling/autoscaler.go, config/core/configmaps/autoscaler.yaml."""

from __future__ import annotations

from math import ceil, floor

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import MeanOver

from .rounding import round_up

STABLE_S, PANIC_S = 60.0, 6.0
PANIC_THRESHOLD = 2.0
MAX_UP_RATE, MAX_DOWN_RATE = 1000.0, 2.0
ZERO_GRACE_S = 30.0


class KnativeAutoscaler:
    """Average concurrency of 60 s over a target per pod; a burst within 6 s means panic, in which nothing goes down."""

    name = "Knative KPA"
    interval_s = 2.0

    def __init__(self, pool: PoolFacts, utilisation: float = 0.7) -> None:
        self._target = max(0.01, utilisation * pool.slots)
        self._stable, self._panic = MeanOver(STABLE_S), MeanOver(PANIC_S)
        self._panic_since_s: float | None = None
        self._panic_pods = 0
        self._zero_since_s: float | None = None

    def decide(self, seen: Observation) -> int:
        ready = max(1, seen.ready)
        most, least = ceil(MAX_UP_RATE * ready), floor(ready / MAX_DOWN_RATE)
        by_stable = round_up(self._stable.add(seen.now_s, seen.present_s) / self._target)
        by_panic = round_up(self._panic.add(seen.now_s, seen.present_s) / self._target)
        if by_panic / ready >= PANIC_THRESHOLD:
            self._panic_since_s = seen.now_s  # begin, or begin again
        elif self._panic_since_s is not None and seen.now_s > self._panic_since_s + STABLE_S:
            self._panic_since_s, self._panic_pods = None, 0
        wanted = min(max(by_stable, least), most)
        if self._panic_since_s is not None:
            self._panic_pods = max(self._panic_pods, wanted, min(max(by_panic, least), most))
            wanted = self._panic_pods
        return self._held_above_zero(wanted, seen.now_s)

    def _held_above_zero(self, wanted: int, now_s: float) -> int:
        """The last pod stays for a grace period after everything else says zero."""
        if wanted:
            self._zero_since_s = None
            return wanted
        if self._zero_since_s is None:
            self._zero_since_s = now_s
        return 1 if now_s - self._zero_since_s < ZERO_GRACE_S else 0
