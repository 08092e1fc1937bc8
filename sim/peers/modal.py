"""Modal: our model of its documented policy (modal.com/docs/guide/scale). The implementation is closed.

Assumed: as many containers as the inputs present need, plus the buffer; kept as the highest of the last `scaledown_window`, which
is what packing inputs onto few containers would give.
"""

from __future__ import annotations

from math import ceil

from sim.observation import Observation
from sim.policy import PoolFacts
from sim.windows import HighestOver

SCALEDOWN_WINDOW_S = 60.0


class Modal:
    """A container for every input that finds no slot; idle ones go after 60 s."""

    name = "Modal-like"
    interval_s = 1.0

    def __init__(self, pool: PoolFacts, buffer_containers: float = 0) -> None:
        self._slots = pool.slots
        self._buffer = int(buffer_containers)
        self._needed = HighestOver(SCALEDOWN_WINDOW_S)

    def decide(self, seen: Observation) -> int:
        needed = ceil(seen.present / self._slots)
        return int(self._needed.add(seen.now_s, needed + self._buffer if needed else 0))
