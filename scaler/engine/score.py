"""What each rule has cost and how late it made requests, on three memories: half an hour, hours, days.

A rule is judged by the cost of its shadow per request, plus a price for each late request beyond the share that may be late. That
share is stretched or shrunk by what really happens (`correct`): a shadow is a fluid, reality comes in whole requests.
Replaying the past under many configurations and taking the cheapest is what Google's Autopilot does for container limits
(Rzadca and others, Autopilot: workload autoscaling at Google, EuroSys 2020).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .constants import Constants
from .memory import Memory
from .seen import Seen

Floats = NDArray[np.float32]


def remember(
    memory: Memory, paid: Floats, is_late: NDArray[np.bool_], arrivals: float, dt_s: float, constants: Constants
) -> None:
    keep = [0.5 ** (dt_s / half_life_s) for half_life_s in constants.half_lives_s]
    keep_each = _column(keep)
    memory.costs *= keep_each
    memory.costs += paid
    memory.lates *= keep_each
    if arrivals:
        memory.lates += is_late * np.float32(arrivals)
    memory.arrived[:] = [before * kept + arrivals for before, kept in zip(memory.arrived.tolist(), keep, strict=True)]


def of_each(memory: Memory, seen: Seen, constants: Constants) -> Floats:
    """The score of every rule; the lowest is best."""
    price = constants.late_price * max(memory.service_mean_s, constants.cold_start_s) / seen.slots
    arrived = memory.arrived.tolist()
    share = constants.late_share * memory.slack
    scores = memory.lates - _column([share * count for count in arrived])
    np.maximum(scores, 0.0, out=scores)
    scores *= price
    scores += memory.costs
    scores *= _column([1.0 / (count + 1.0) for count in arrived])  # per request
    return np.asarray(np.add.reduce(scores))


def _column(of_horizons: list[float]) -> Floats:
    return np.array(of_horizons, dtype=np.float32)[:, None]


def correct(memory: Memory, seen: Seen, constants: Constants) -> None:
    """Integral control of the slack by the share of requests that really were late."""
    memory.started += seen.started
    memory.late += seen.late
    if memory.started < constants.slack_batch:
        return
    excess = memory.late / memory.started / constants.late_share
    slack = memory.slack * math.exp(constants.slack_gain * min(max(1.0 - excess, -3.0), 1.0))
    memory.slack = min(max(slack, constants.slack_least), constants.slack_most)
    memory.started = memory.late = 0
