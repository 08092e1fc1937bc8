"""The load now and soon: levels, peaks, and how surprising the load has been.

forecast   who is in the infinite pool now and will still be there when a worker asked for now is ready, and who will have
           come by then if work goes on arriving as it did lately
average    exponential mean of the load
peak       follows the load up at one speed and down at another
Z          mean squared error of a level as a forecast over the lead, per unit of level: 1 for Poisson traffic of short
           requests, large for bursty traffic (the peakedness of square-root staffing)
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from . import rules
from .constants import Constants
from .departures import Pool
from .memory import STAGES, Memory
from .seen import Seen

Wide = NDArray[np.float64]


def take_in(memory: Memory, seen: Seen, constants: Constants) -> float:
    """The load since the step before, into memory; returns its mean in slots."""
    dt_s = seen.at_s - memory.at_s
    offered = _offered(memory, seen, dt_s)  # time passes in the infinite pool, whoever is believed
    load = offered if seen.costs_known or seen.present is None else seen.present
    lead_s = seen.lead_s
    within_lead = sum(group.count * min(group.service_s, lead_s) for group in seen.arrivals)
    inflow = within_lead / dt_s if seen.costs_known else load
    _follow(memory.flows, inflow, dt_s, constants.forecast_s)
    _follow(memory.averages, load, dt_s, constants.average_s)
    _follow_peaks(memory, load, dt_s, constants)
    return load


def levels(memory: Memory, seen: Seen) -> list[float]:
    """Forecasts, then averages, in slots."""
    staying = Pool(memory.departures).still_there(seen.at_s, seen.lead_s) if seen.costs_known else 0.0
    return [*[flow + staying for flow in memory.flows.tolist()], *memory.averages.tolist()]


def learn(memory: Memory, load: float, now: list[float], seen: Seen, dt_s: float, constants: Constants) -> None:
    """How wrong the levels of a lead ago were, and how long requests take; `now` are the present levels, for later."""
    _remember_services(memory, seen)
    forecasts = memory.past_levels[(memory.stage + 1) % STAGES].tolist()
    keep = math.exp(-dt_s / constants.surprise_memory_s)
    errors = zip(memory.surprise.tolist(), [load - forecast for forecast in forecasts], strict=True)
    memory.surprise[:] = [before * keep + error * error * dt_s for before, error in errors]
    weights = zip(memory.surprise_weight.tolist(), forecasts, strict=True)
    memory.surprise_weight[:] = [before * keep + max(forecast, 0.5) * dt_s for before, forecast in weights]
    memory.past_levels[memory.stage % STAGES] = now


def needs(memory: Memory, now: list[float], slots: int, table: rules.Rules, constants: Constants) -> NDArray[np.float32]:
    """Workers that each kind of rule would have, before rounding: levels x margins, then peaks x shares."""
    asleep, least, need = constants.asleep_slots, constants.surprise_floor, []
    for level, error, weight in zip(now, memory.surprise.tolist(), memory.surprise_weight.tolist(), strict=True):
        spread = math.sqrt(max(level, least) * (error / weight))
        # A margin for what may come needs somebody to have come.
        need += [(level + margin * spread) / slots if level >= asleep else 0.0 for margin in table.margins]
    for peak in memory.peaks.tolist():
        need += [peak * share / slots if peak * share >= asleep else 0.0 for share in table.peak_shares]
    return np.array(need, dtype=np.float32)


def residual_service_s(memory: Memory) -> float:
    """Mean time that a request found in service still takes."""
    return max(1.0, memory.service_square_s2 / (2 * memory.service_mean_s)) if memory.service_mean_s > 0 else 1.0


def _offered(memory: Memory, seen: Seen, dt_s: float) -> float:
    return Pool(memory.departures).pass_time(memory.at_s, seen.at_s, seen.arrivals) / dt_s


def _follow(means: Wide, value: float, dt_s: float, smoothing_s: tuple[float, ...]) -> None:
    # Of a handful of numbers Python's own arithmetic is the quicker one, here and below.
    means[:] = [mean + (1 - math.exp(-dt_s / s)) * (value - mean) for mean, s in zip(means.tolist(), smoothing_s, strict=True)]


def _follow_peaks(memory: Memory, load: float, dt_s: float, constants: Constants) -> None:
    rises = [1 - math.exp(-dt_s / rise) if rise else 1.0 for rise in constants.rises_s]
    falls = [1 - math.exp(-dt_s / fall) for fall in constants.falls_s]
    paces = zip(memory.peaks.tolist(), product(rises, falls), strict=True)
    memory.peaks[:] = [peak + (up if load > peak else down) * (load - peak) for peak, (up, down) in paces]


def _remember_services(memory: Memory, seen: Seen) -> None:
    """Moments of the service time, over the last thousand requests or so."""
    count = sum(group.count for group in seen.arrivals)
    if not count:
        return
    mean_s = sum(group.count * group.service_s for group in seen.arrivals) / count
    square_s2 = sum(group.count * group.service_s**2 for group in seen.arrivals) / count
    keep = 0.999**count if memory.service_mean_s else 0.0
    memory.service_mean_s = keep * memory.service_mean_s + (1 - keep) * mean_s
    memory.service_square_s2 = keep * memory.service_square_s2 + (1 - keep) * square_s2
