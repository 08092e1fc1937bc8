"""Corral's own scaling engine as a policy of the simulator: the function that production calls, with what production is told.

A router reports sizes of requests in classes of a quarter octave, so that is how precisely sizes arrive here.
"""

from __future__ import annotations

from scaler.engine import memory, pool
from scaler.engine.constants import DEFAULT, Constants
from scaler.engine.seen import Arrivals, Opinion, Seen
from scaler.engine.step import step
from schemas import sizes

from .observation import Observation
from .workload import Workload


class CorralEngine:
    name = "Corral"

    def __init__(
        self,
        workload: Workload,
        *,
        constants: Constants = DEFAULT,
        interval_s: float = 2.0,
        target_wait_s: float = 5.0,
        lead_s: float = 27.3,
        billed_share: float = 1.0,
        costs_known: bool = True,
        target_util: float = 0.9,
    ) -> None:
        self.interval_s = interval_s
        self.opinion: Opinion | None = None
        self._workload = workload
        self._service_s_per_unit = workload.slots / workload.perf
        self._constants = constants
        self._target_wait_s = target_wait_s
        self._lead_s = lead_s
        self._billed_share = billed_share
        self._costs_known = costs_known
        self._target_util = target_util
        self._present_s = 0.0
        self._ready, self._settled_at_s = 0, 0.0
        start = max(workload.initial_workers, workload.min_workers)
        self.memory = memory.fresh(constants, 0.0, start, lead_s, caution_hot=start)

    def decide(self, seen: Observation) -> int:
        present = (seen.present_s - self._present_s) / max(seen.now_s - self.memory.at_s, 1e-3)
        self._present_s = seen.present_s
        if seen.ready > self._ready:
            self._settled_at_s = seen.now_s
        self._ready = seen.ready
        self.opinion, self.memory = step(self.memory, self._told(seen, present), self._constants, used_up=True)
        return self.opinion.hot

    def _told(self, seen: Observation, present: float) -> Seen:
        return Seen(
            at_s=seen.now_s,
            arrivals=self._sizes(seen),
            present=present,
            costs_known=self._costs_known,
            waiting=seen.waiting,
            serving=seen.serving,
            oldest_s=seen.oldest_wait_s,
            settled_s=seen.now_s - self._settled_at_s,
            hot=seen.hot,
            started=len(seen.waits_s),
            late=sum([wait_s > self._target_wait_s for wait_s in seen.waits_s]),
            slots=self._workload.slots,
            lead_s=self._lead_s,
            billed_share=self._billed_share,
            target_wait_s=self._target_wait_s,
            target_util=self._target_util,
            least=self._workload.min_workers,
            most=self._workload.max_workers,
        )

    def _sizes(self, seen: Observation) -> tuple[Arrivals, ...]:
        classes: dict[int, tuple[int, float]] = {}
        for units in seen.new_units:
            key = sizes.class_of(units)
            count, total = classes.get(key, (0, 0.0))
            classes[key] = (count + 1, total + units)
        return tuple([Arrivals(count, max(total / count * self._service_s_per_unit, 0.05)) for count, total in classes.values()])


class LearnedColdPool:
    """The stopped pool of the same engine. A sim.policy.ColdPool: give it to the run of any policy."""

    def __init__(self, workload: Workload, constants: Constants = DEFAULT, storage_share: float = 0.05) -> None:
        self._memory = memory.fresh(constants, 0.0, 0, 1.0)
        self._constants = constants
        self._most = workload.max_workers
        self._storage_share = storage_share

    def total(self, now_s: float, hot: int) -> int:
        pool.use(self._memory, hot, now_s, self._most, self._constants)
        return pool.total(self._memory, now_s, self._storage_share, self._constants)
