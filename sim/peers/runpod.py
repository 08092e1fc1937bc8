"""Runpod Serverless: our model of its documented policies (runpod docs, serverless/endpoints/endpoint-configurations).

The implementation is closed. Assumed: evaluated each second; queue delay adds what the requests present need.
"""

from __future__ import annotations

from math import ceil

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import HighestOver

from .rounding import round_up

IDLE_TIMEOUT_S = 5.0


class RunpodQueueDelay:
    """Add workers when a request has waited too long; a worker that idles for 5 s goes."""

    name = "Runpod queue-delay"
    interval_s = 1.0

    def __init__(self, pool: PoolFacts, delay_s: float = 4.0) -> None:
        self._slots = pool.slots
        self._delay_s = delay_s
        self._needed = HighestOver(IDLE_TIMEOUT_S)

    def decide(self, seen: Observation) -> int:
        needed = ceil(seen.present / self._slots)
        recently = int(self._needed.add(seen.now_s, needed))
        if seen.oldest_wait_s > self._delay_s and needed > seen.hot:
            return needed
        return min(seen.hot, recently)


class RunpodRequestCount:
    """ceil(requests in queue and in progress / scaler value); the default value is 4 whatever a worker can do."""

    name = "Runpod request-count"
    interval_s = 1.0

    def __init__(self, pool: PoolFacts, utilisation: float | None = None) -> None:
        """`utilisation`: the scaler value as a share of the slots; None: the documented 4."""
        self._value = 4.0 if utilisation is None else utilisation * pool.slots

    def decide(self, seen: Observation) -> int:
        return round_up(seen.present / self._value)
