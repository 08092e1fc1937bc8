"""SkyServe's request rate autoscaler. skypilot sky/serve/autoscalers.py, sky/serve/constants.py."""

from __future__ import annotations

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import MeanOver

from .rounding import round_up

PERIOD_S = 20.0
WINDOW_S = 60.0
UPSCALE_PERIODS, DOWNSCALE_PERIODS = 15, 60  #: 300 s and 1200 s


class SkyServe:
    """Requests per second over a target rate per replica, every 20 s (5 s without replicas), with counters against flapping."""

    name = "SkyServe"
    interval_s = 5.0

    def __init__(self, pool: PoolFacts, utilisation: float = 0.7) -> None:
        """`utilisation`: target rate over the rate that fills a replica's slots; the product has no default."""
        self._pool = pool
        self._target_rate = utilisation * pool.slots / pool.mean_service_s
        self._rate = MeanOver(WINDOW_S)
        self._above = self._below = 0
        self._wanted: int | None = None  # until the first look, which takes what is there

    def decide(self, seen: Observation) -> int:
        if self._wanted is None:
            self._wanted = max(1, seen.hot)
        # Requests of the window over its whole length, also while less of it has passed.
        rate = self._rate.add(seen.now_s, seen.arrived) * min(seen.now_s / WINDOW_S, 1.0)
        desired = min(max(round_up(rate / self._target_rate), self._pool.min_workers), self._pool.max_workers)
        if self._wanted == 0:
            self._wanted = desired
        elif seen.now_s % PERIOD_S == 0:
            self._wanted = self._count(self._wanted, desired)
        return self._wanted

    def _count(self, wanted: int, desired: int) -> int:
        self._above = self._above + 1 if desired > wanted else 0
        self._below = self._below + 1 if desired < wanted else 0
        if self._above < UPSCALE_PERIODS and self._below < DOWNSCALE_PERIODS:
            return wanted
        self._above = self._below = 0
        return desired
