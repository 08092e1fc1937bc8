"""Kubernetes' horizontal pod autoscaler, fed by KEDA. kubernetes pkg/controller/podautoscaler, autoscaling/v2; kedacore/keda.

KEDA gives the HPA one external metric, the number of requests in the system, as an average value per pod; the HPA scales between
1 and N, KEDA itself between 0 and 1.
"""

from __future__ import annotations

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import HighestOver

from .rounding import round_up

TOLERANCE = 0.1
DOWN_STABILISATION_S = 300.0
COOLDOWN_S = 300.0


class HorizontalPodAutoscaler:
    name = "K8s HPA / KEDA"
    interval_s = 15.0  #: KEDA polls each 30 s; it is given the HPA's 15

    def __init__(self, pool: PoolFacts, utilisation: float = 0.7) -> None:
        self._target = utilisation * pool.slots
        self._may_sleep = pool.min_workers == 0
        self._recommended = HighestOver(DOWN_STABILISATION_S)
        self._active_at_s = 0.0

    def decide(self, seen: Observation) -> int:
        pods, metric = seen.hot, seen.present
        if metric:
            self._active_at_s = seen.now_s
        if pods == 0:
            return 1 if metric else 0
        wanted = max(1, self._by_ratio(pods, metric))
        highest = int(self._recommended.add(seen.now_s, wanted))
        wanted = min(pods, highest) if wanted < pods else min(wanted, max(2 * pods, pods + 4))
        if self._may_sleep and not metric and seen.now_s - self._active_at_s > COOLDOWN_S:
            return 0
        return wanted

    def _by_ratio(self, pods: int, metric: int) -> int:
        ratio = metric / (self._target * pods)
        if 1 - TOLERANCE <= ratio <= 1 + TOLERANCE:
            return pods
        return round_up(metric / self._target)
