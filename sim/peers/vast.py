"""Vast Serverless: our model of its documented policy (vast docs, guides/serverless). The engine is closed.

Not published, assumed here: anticipated load is the mean of 60 s; target_queue_time is 10 s; "aggressive" means that the queued
work is to be done within it; evaluated every 5 s; inactivity of 60 s before zero.
"""

from __future__ import annotations

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import MeanOver

from .rounding import round_up

LOAD_WINDOW_S = 60.0
TARGET_QUEUE_S = 10.0
INACTIVITY_S = 60.0


class VastLike:
    """Capacity for the anticipated load over target_util, and more when the queue is long."""

    name = "Vast-like (docs)"
    interval_s = 5.0

    def __init__(self, pool: PoolFacts, target_util: float = 0.9) -> None:
        self._pool = pool
        self._target_util = target_util
        self._load = MeanOver(LOAD_WINDOW_S)
        self._active_at_s = 0.0

    def decide(self, seen: Observation) -> int:
        slots, service_s = self._pool.slots, self._pool.mean_service_s
        workers = self._load.add(seen.now_s, seen.arrived_s) / self._target_util / slots
        if seen.present:
            self._active_at_s = seen.now_s
        if seen.waiting * service_s / (max(1, seen.ready) * slots) > TARGET_QUEUE_S:
            workers += seen.waiting * service_s / TARGET_QUEUE_S / slots
        wanted = round_up(workers)
        awake = seen.present or seen.now_s - self._active_at_s < INACTIVITY_S
        return 1 if wanted == 0 and awake else wanted


class DocumentedColdPool:
    """total capacity = max(cold_mult x active, min_workers), as the documentation says it: without hysteresis."""

    def __init__(self, cold_mult: float = 3.0, min_workers: int = 5) -> None:
        self._cold_mult = cold_mult
        self._min_workers = min_workers

    def total(self, now_s: float, hot: int) -> int:  # noqa: ARG002
        return max(self._min_workers, round_up(self._cold_mult * hot))
