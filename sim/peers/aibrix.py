"""AIBrix's APA. vllm-project/aibrix pkg/controller/podautoscaler/algorithm/apa.go, context/context.go."""

from __future__ import annotations

from math import ceil, floor

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import HighestOver, MeanOver

WINDOW_S = 60.0
TOLERANCE = 0.1
MAX_UP_RATE, MAX_DOWN_RATE = 2.0, 2.0
DOWN_COOLDOWN_S = 300.0


class AIBrix:
    """Mean use per pod over a target, at most doubling or halving, down only below the highest wish of 300 s."""

    name = "AIBrix APA"
    interval_s = 10.0

    def __init__(self, pool: PoolFacts, utilisation: float = 0.7) -> None:
        self._target = utilisation * pool.slots
        self._concurrency = MeanOver(WINDOW_S)
        self._wishes = HighestOver(DOWN_COOLDOWN_S)

    def decide(self, seen: Observation) -> int:
        concurrency, pods = self._concurrency.add(seen.now_s, seen.present_s), seen.hot
        if pods == 0:
            return 1 if seen.waiting else 0
        ratio = concurrency / pods / self._target
        wish = pods
        if ratio > 1 + TOLERANCE:
            wish = min(ceil(MAX_UP_RATE * pods), ceil(pods * ratio))
        elif ratio < 1 - TOLERANCE:
            wish = max(floor(pods / MAX_DOWN_RATE), ceil(pods * ratio))
        highest = int(self._wishes.add(seen.now_s, wish))
        return max(wish, highest) if wish < pods else wish
