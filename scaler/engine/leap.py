"""The engine's memory after its clock was set: all of it as much later, or earlier, so that no time seems to have passed."""

from __future__ import annotations

import numpy as np

from .departures import BIN_S
from .memory import STAGES, Memory


def along(memory: Memory, by_s: float) -> Memory:
    """The memory as if all of it had happened `by_s` later."""
    memory = memory.copy()
    before_s, after_s = memory.at_s, memory.at_s + by_s
    memory.departures = np.roll(memory.departures, int(after_s // BIN_S) - int(before_s // BIN_S))
    turn = int(after_s // memory.stage_s) - int(before_s // memory.stage_s)
    memory.recent_targets = np.roll(memory.recent_targets, turn % STAGES, axis=0)
    memory.past_levels = np.roll(memory.past_levels, turn % STAGES, axis=0)
    memory.stage += turn
    memory.at_s = after_s
    memory.began_s += by_s
    memory.last_active_s += by_s
    memory.pool_used_s += by_s
    memory.pool_at_s += by_s
    return memory
