"""A pool for each rule: what would have happened, had this rule been followed all the time?

Each shadow is a fluid model of a real pool. A worker that is wanted becomes ready after the lead; who is wanted no longer is
cancelled if still on its way, newest first, and else drains: it serves what it has, and is taken back first when it is wanted again.
Cancelling the newest first means that n workers are ready when at least n have been wanted all through the last lead: the number
ready is the smallest target of that time.

    lag    request-seconds by which the pool is behind an infinite one; lag / slots is the wait of a request that comes now
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import load
from .constants import Constants
from .memory import BELOW_S, DRAINING, LAG, READY, STAGES, TARGET, Memory
from .rules import Rules
from .seen import Seen

Floats = NDArray[np.float32]


def enter_stages(memory: Memory, seen: Seen) -> None:
    """Begin the stages that time has reached since the step before; what was, held through them. Comes before `follow`."""
    stage = int(seen.at_s // memory.stage_s)
    for k in range(max(memory.stage + 1, stage - STAGES + 1), stage + 1):
        memory.recent_targets[k % STAGES] = memory.shadows[TARGET]
        memory.past_levels[k % STAGES] = memory.past_levels[memory.stage % STAGES]
    memory.stage = max(stage, memory.stage)


def follow(memory: Memory, need: Floats, busy: bool, seen: Seen, dt_s: float, table: Rules) -> Floats:
    """Set every rule's target by its need: up at once, down after its hold. Returns the targets that were due at once, had there been
    no ceiling.
    """
    target, below_s = memory.shadows[TARGET], memory.shadows[BELOW_S]
    floor, most = float(max(seen.least, 1 if busy else 0)), float(seen.most)
    kept = np.maximum(table.keep, floor)
    idle_s = seen.at_s - memory.last_active_s
    if idle_s > table.shortest_keep_s:
        kept[idle_s > table.keep_s] = floor
    whole = need - table.slacks  # a row for up, a row for down
    np.ceil(whole, out=whole)
    free = whole.take(table.need, axis=1)
    np.maximum(free, kept, out=free)
    up, down = np.minimum(free, most)
    below_s += dt_s
    below_s[down >= target] = 0.0
    falls = below_s >= table.hold_s
    np.maximum(target, up, out=target)
    np.copyto(target, down, where=falls)
    below_s[falls] = 0.0
    return np.asarray(free[0])


def live(memory: Memory, mean_load: float, seen: Seen, dt_s: float, constants: Constants) -> tuple[Floats, NDArray[np.bool_]]:
    """Let time pass in every shadow; returns (worker-seconds paid for, is a request that came just now late)."""
    pool, slots = memory.shadows, seen.slots
    target, draining, lag = pool[TARGET], pool[DRAINING], pool[LAG]
    recent = memory.recent_targets
    now = memory.stage % STAGES
    np.minimum(recent[now], target, out=recent[now])
    released = pool[READY] - target
    ready = np.minimum.reduce(recent, out=pool[READY])
    coming = target - ready
    # Taken back from draining: as good as never let go.
    back = np.minimum(coming, draining)
    if np.count_nonzero(back):
        draining -= back
        ready += back
        np.maximum(recent, ready, out=recent)
        np.subtract(target, ready, out=coming)
    np.maximum(released, 0.0, out=released)
    released *= min(1.0, mean_load / (slots * constants.draining_share))  # the others are idle and gone at once
    draining += released
    draining *= math.exp(-dt_s / (constants.drain_rounds * load.residual_service_s(memory)))
    served = constants.draining_share * draining
    served += ready
    served *= slots * dt_s
    lag += mean_load * dt_s
    lag -= served
    np.maximum(lag, 0.0, out=lag)
    paid = ready + draining
    coming *= seen.billed_share
    paid += coming
    paid *= dt_s
    soon = _ready_within(memory, seen.target_wait_s, seen.lead_s)
    soon *= seen.target_wait_s * slots
    return paid, lag > soon


def _ready_within(memory: Memory, wait_s: float, lead_s: float) -> Floats:
    """Workers that will be ready by then if all goes on: those wanted long enough that less than the wait is left."""
    needed = max(1, min(STAGES, math.ceil((lead_s - wait_s) / memory.stage_s)))
    end = memory.stage % STAGES + 1
    last: Floats = np.minimum.reduce(memory.recent_targets[max(end - needed, 0) : end])
    if needed > end:  # it began before the first row
        np.minimum(last, np.minimum.reduce(memory.recent_targets[end - needed :]), out=last)
    return last
