"""NVIDIA Dynamo's planner. ai-dynamo/dynamo components/planner, docs/design-docs/planner-design.md."""

from __future__ import annotations

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import MeanOver

from .rounding import round_up

ADJUSTMENT_S = 180.0
Q_LEVEL, Q_TREND, R = 1.0, 0.1, 10.0
MIN_POINTS = 5


class LevelAndTrend:
    """A Kalman filter whose state is a level and its change per step."""

    def __init__(self) -> None:
        self.points = 0
        self._level = self._trend = 0.0
        self._p = (1e3, 0.0, 1e3)  # covariance: level, level x trend, trend

    def add(self, measured: float) -> float:
        """Take one measurement; returns the level expected at the next step."""
        level = self._level + self._trend
        p_level, p_cross, p_trend = self._p
        p_level, p_cross, p_trend = p_level + 2 * p_cross + p_trend + Q_LEVEL, p_cross + p_trend, p_trend + Q_TREND
        gain_level, gain_trend = p_level / (p_level + R), p_cross / (p_level + R)
        error = measured - level
        self._level, self._trend = level + gain_level * error, self._trend + gain_trend * error
        self._p = ((1 - gain_level) * p_level, (1 - gain_level) * p_cross, p_trend - gain_trend * p_cross)
        self.points += 1
        return self._level + self._trend


class DynamoThroughput:
    """Every 180 s: predicted work of the next period over what a worker can do."""

    name = "Dynamo planner (thr.)"
    interval_s = ADJUSTMENT_S

    def __init__(self, pool: PoolFacts, utilisation: float = 1.0) -> None:
        """`utilisation`: of measured throughput that is planned for; the product plans for all of it."""
        self._pool = pool
        self._per_worker = utilisation * pool.slots
        self._work = MeanOver(ADJUSTMENT_S)
        self._forecast = LevelAndTrend()

    def decide(self, seen: Observation) -> int:
        work = self._work.add(seen.now_s, seen.arrived_s)
        expected = self._forecast.add(work)
        if self._forecast.points < MIN_POINTS:
            expected = work
        return max(self._pool.min_workers, round_up(max(0.0, expected) / self._per_worker), 1 if seen.waiting else 0)


class DynamoThroughputAndLoad:
    """The same as a floor; above it one worker more or less every 5 s by the estimated time to the first token."""

    name = "Dynamo planner (thr.+load)"
    interval_s = 5.0

    def __init__(self, pool: PoolFacts, utilisation: float = 1.0, ttft_s: float = 0.5) -> None:
        self._pool = pool
        self._throughput = DynamoThroughput(pool, utilisation)
        self._floor = max(1, pool.min_workers)
        self._ttft_s = ttft_s
        self._next_s = ADJUSTMENT_S

    def decide(self, seen: Observation) -> int:
        if seen.now_s >= self._next_s:
            self._floor = self._throughput.decide(seen)
            self._next_s += ADJUSTMENT_S
        return max(self._floor, self._by_load(seen))

    def _by_load(self, seen: Observation) -> int:
        if seen.coming and seen.ready:
            return seen.hot  # a step is in flight
        slots = self._pool.slots
        expected_s = seen.waiting * self._pool.mean_service_s / max(1, seen.ready * slots)
        if expected_s > self._ttft_s or (seen.ready == 0 and seen.present):
            return seen.hot + 1
        if not seen.waiting and seen.present <= 0.8 * (seen.hot - 1) * slots:
            return seen.hot - 1
        return seen.hot
