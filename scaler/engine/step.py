"""One step of the engine: how many hot workers should there be?

    arrivals --> load --> needs of some hundred rules --> their targets --> a shadow pool for each --> cost and lateness
                                                              |                                          |
                                              weighted mean, rounded <-------- weights <-------- score --+

No rule is right for all traffic, so all are followed, in shadow, all the time, and the real pool follows those that have lately
been cheapest at the wished-for share of late requests. Weights fall exponentially with the score (the weighted majority of
Littlestone and Warmuth, 1994; Herbster and Warmuth, Tracking the best expert, 1998, for forgetting), so the target moves smoothly
from rule to rule.

Pure: the same memory and the same seen give the same opinion and the same memory after.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import load, rules, score, shadows
from .constants import DEFAULT, Constants
from .memory import TARGET, Memory
from .seen import Opinion, Seen


def step(memory: Memory, seen: Seen, constants: Constants = DEFAULT, *, used_up: bool = False) -> tuple[Opinion, Memory]:
    """The opinion now, and what to remember for the next step. Time must have passed since the last one.

    `used_up`: nobody needs the memory as it was, so it need not be copied.
    """
    memory = memory if used_up else memory.copy()
    table = rules.table(constants)
    dt_s = max(seen.at_s - memory.at_s, 1e-3)
    arrived = sum(group.count for group in seen.arrivals)
    mean_load = load.take_in(memory, seen, constants)
    busy = arrived > 0 or mean_load > 1e-9
    if busy:
        memory.last_active_s = seen.at_s
    # First the opinion, by what was known before; then learn. So more load never wants fewer workers.
    shadows.enter_stages(memory, seen)
    levels = load.levels(memory, seen)
    need = load.needs(memory, levels, seen.slots, table, constants)
    free = shadows.follow(memory, need, busy, seen, dt_s, table)
    opinion = _opinion(memory, seen, mean_load, free, table, constants)
    memory.hot = opinion.hot
    load.learn(memory, mean_load, levels, seen, dt_s, constants)
    paid, is_late = shadows.live(memory, mean_load, seen, dt_s, constants)
    score.remember(memory, paid, is_late, arrived, dt_s, constants)
    score.correct(memory, seen, constants)
    memory.at_s = seen.at_s
    return opinion, memory


def _opinion(
    memory: Memory, seen: Seen, mean_load: float, free: NDArray[np.float32], table: rules.Rules, constants: Constants
) -> Opinion:
    """`free`: the rules' targets that were due at once, had there been no ceiling."""
    targets = memory.shadows[TARGET]
    scores = score.of_each(memory, seen, constants)
    best = int(scores.argmin())
    weights = scores / max(float(scores[best]), 1e-9)
    weights -= 1.0
    weights *= -constants.sharpness
    # The same to the last bit on every processor, so that replay may run elsewhere: numpy's float32 exponential and BLAS's dot are not,
    # and what a float64 one has in its last bit is gone in a float32.
    weights = np.exp(weights, dtype=np.float64).astype(np.float32)
    weights /= np.add.reduce(weights)
    asked = float(np.add.reduce(weights * targets))
    if asked > seen.most - constants.rounding:
        asked = float(np.add.reduce(weights * np.maximum(free, targets)))  # so that it can be told what the ceiling keeps away
    hot, because = _rounded(asked, memory.hot, constants), "rules"
    age_s = seen.at_s - memory.began_s
    if age_s <= constants.follow_prior_s:
        best = table.prior
        hot, because = int(targets[best]), "prior"
    if age_s < constants.caution_s and memory.caution_hot > hot:
        hot, because = memory.caution_hot, "caution"
    planned = _planned(memory, seen, constants)
    if planned > hot:
        hot, because = planned, "target_util"
    memory.net_hot = _net(memory, seen)
    if memory.net_hot > hot:
        hot, because = memory.net_hot, "queue"
    if hot == 0 and seen.waiting + seen.serving:
        hot, because = 1, "present"
    some = targets[weights > 0.01]
    return Opinion(
        hot=hot,
        asked=asked,
        load_slots=mean_load,
        rule=table.names[best],
        share=float(weights[best]),
        low=int(np.minimum.reduce(some)) if len(some) else hot,
        high=int(np.maximum.reduce(some)) if len(some) else hot,
        because=because,
        slack=memory.slack,
    )


def _planned(memory: Memory, seen: Seen, constants: Constants) -> int:
    """Workers that are no busier than the user said. Near full use this is a floor with some give, because there the rules weigh what
    headroom is worth; who asks for more headroom than that gets it. Who is there already stays until the floor is clearly below.
    """
    load = float(memory.averages[-1])
    if load < constants.asleep_slots:
        return 0
    need = load / (seen.slots * seen.target_util)
    is_loose = seen.target_util >= constants.loose_util
    slack = constants.up_slack if is_loose else constants.strict_slack
    reluctance = constants.planned_reluctance if is_loose else constants.reluctance
    return max(math.ceil(need - slack), min(memory.hot, math.ceil(need - slack + reluctance)))


def _rounded(asked: float, before: int, constants: Constants) -> int:
    """Whole workers; a wish on the border between two numbers stays with the one it had."""
    if abs(asked - before) <= constants.rounding + constants.reluctance:
        return before
    return max(0, math.ceil(asked - constants.rounding - 1e-6))


def _net(memory: Memory, seen: Seen) -> int:
    """One worker more than there are when the real queue is too long, whatever the rules think; kept until the queue would be half as
    long without it.

    Who will find a free slot at a worker that is on its way waits for its start, not for want of workers. And a queue that will be gone
    before help could be there calls for none. That is a forecast, by what requests are thought to take; where somebody has waited longer
    than that although all help that was called for has long been there, the forecast was wrong.
    """
    limit_s = max(seen.target_wait_s, seen.lead_s)
    room = max(0, seen.hot * seen.slots - seen.serving)
    if _wait_s(max(0, seen.waiting - room), seen.hot, memory, seen) > limit_s:
        return seen.hot + 1
    oldest_s = seen.oldest_s if seen.waiting > 0 else 0.0
    if oldest_s > limit_s and seen.settled_s > limit_s and not room:
        return seen.hot + 1
    fewer = memory.net_hot - 1
    left_over = max(0, seen.waiting + seen.serving - fewer * seen.slots)
    if memory.net_hot > 0 and max(_wait_s(left_over, fewer, memory, seen), oldest_s) > limit_s / 2:
        return memory.net_hot
    return 0


def _wait_s(requests: int, hot: int, memory: Memory, seen: Seen) -> float:
    """Until so many workers have begun all of these."""
    return requests * memory.service_mean_s / (max(1, hot) * seen.slots)
