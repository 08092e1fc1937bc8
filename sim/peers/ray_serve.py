"""Ray Serve's replica autoscaler. ray serve/autoscaling_policy.py, serve/config.py."""

from __future__ import annotations

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import MeanOver

from .rounding import round_up

LOOK_BACK_S = 30.0
UPSCALE_DELAY_S, DOWNSCALE_DELAY_S = 30.0, 600.0


class RayServe:
    """Ongoing requests over a target; a change must be wanted by every tick of a delay before it is made."""

    name = "Ray Serve"
    interval_s = 1.0  #: the real loop runs ten times as often, with metrics that are pushed every 10 s

    def __init__(self, pool: PoolFacts, utilisation: float = 0.4) -> None:
        """`utilisation`: target ongoing requests over max ongoing requests; the default is 2 of 5."""
        self._pool = pool
        self._target_ongoing = utilisation * pool.slots
        self._ongoing = MeanOver(LOOK_BACK_S)
        self._ticks = 0  # above 0: ticks in a row that wanted more; below: fewer
        self._wanted: int | None = None  # until the first look, which takes what is there

    def decide(self, seen: Observation) -> int:
        if self._wanted is None:
            self._wanted = max(1, seen.hot)
        ongoing = self._ongoing.add(seen.now_s, seen.present_s)
        if self._wanted == 0 and seen.hot == 0:
            self._wanted = 1 if seen.waiting else 0
            return self._wanted
        desired = min(max(round_up(ongoing / self._target_ongoing), self._pool.min_workers), self._pool.max_workers)
        if desired > self._wanted:
            self._ticks = max(0, self._ticks) + 1
            if self._ticks > UPSCALE_DELAY_S / self.interval_s:
                self._ticks, self._wanted = 0, desired
        elif desired < self._wanted:
            self._ticks = min(0, self._ticks) - 1
            if self._wanted != 1:
                desired = max(1, desired)  # only the last replica goes to zero
            if -self._ticks > DOWNSCALE_DELAY_S / self.interval_s:
                self._ticks, self._wanted = 0, desired
        else:
            self._ticks = 0
        return self._wanted
