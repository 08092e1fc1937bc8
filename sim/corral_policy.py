"""Corral's own scaling engine as a policy of the simulator: the function that production calls, with what production is told.

A router reports sizes of requests in classes of a quarter octave, so that is how precisely sizes arrive here.
"""

from __future__ import annotations

import math

from scaler.engine import memory
from scaler.engine.constants import DEFAULT, Constants
from scaler.engine.seen import Arrivals, Opinion, Seen
from scaler.engine.step import step

from .observation import Observation
from .workload import Workload

CLASSES_PER_OCTAVE = 4


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
        self._present_s = 0.0
        start = max(workload.initial_workers, workload.min_workers)
        self.memory = memory.fresh(constants, 0.0, start, lead_s)

    def decide(self, seen: Observation) -> int:
        present = (seen.present_s - self._present_s) / max(seen.now_s - self.memory.at_s, 1e-3)
        self._present_s = seen.present_s
        self.opinion, self.memory = step(self.memory, self._told(seen, present), self._constants)
        return self.opinion.hot

    def _told(self, seen: Observation, present: float) -> Seen:
        return Seen(
            at_s=seen.now_s,
            arrivals=self._sizes(seen),
            present=present,
            costs_known=self._costs_known,
            waiting=seen.waiting,
            serving=seen.serving,
            hot=seen.hot,
            started=len(seen.waits_s),
            late=sum([wait_s > self._target_wait_s for wait_s in seen.waits_s]),
            slots=self._workload.slots,
            lead_s=self._lead_s,
            billed_share=self._billed_share,
            target_wait_s=self._target_wait_s,
            least=self._workload.min_workers,
            most=self._workload.max_workers,
        )

    def _sizes(self, seen: Observation) -> tuple[Arrivals, ...]:
        classes: dict[int, tuple[int, float]] = {}
        for units in seen.new_units:
            key = math.floor(CLASSES_PER_OCTAVE * math.log2(max(units, 1.0)))
            count, total = classes.get(key, (0, 0.0))
            classes[key] = (count + 1, total + units)
        return tuple([Arrivals(count, max(total / count * self._service_s_per_unit, 0.05)) for count, total in classes.values()])
