"""The workers of the arena: as fast as their benchmarks say, more or less."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim import chance
from sim.workload import SECOND_US, Workload

#: Speeds relative to each other: a mixed market.
SPEEDS = (0.6, 0.6, 0.8, 0.8, 1.0, 1.0, 1.0, 1.4, 1.4, 2.2)
SLOTS = 8


@dataclass(frozen=True, slots=True)
class Pool:
    perf: tuple[float, ...]  #: units per second, as benchmarked
    true_perf: tuple[float, ...]  #: units per second, as it is; their sum is the same
    slots: int = SLOTS


def sized(workload: Workload, load: float, *, seed: int, sigma: float = 0.1) -> Pool:
    """A pool that the workload uses to the part `load` on average; benchmarks are off log-normally by `sigma`."""
    total = float(workload.units.sum()) / (workload.end_us / SECOND_US) / load
    perf = [speed / sum(SPEEDS) * total for speed in SPEEDS]
    off = [math.exp(sigma * chance.normal(chance.unit(seed, n, 0, chance.Draw.SPEED))) for n in range(len(perf))]
    true = [fast * by for fast, by in zip(perf, off, strict=True)]
    scale = total / sum(true)
    return Pool(tuple(perf), tuple(fast * scale for fast in true))


def estimates(workload: Workload, *, seed: int, sigma: float) -> NDArray[np.float64]:
    """What the clients say that their requests cost: the truth times a log-normal error of mean 1."""
    if sigma <= 0:
        return workload.units
    u = chance.units(seed, 77_000 + chance.Draw.ESTIMATE, len(workload.units))
    normal = np.array([chance.normal(float(one)) for one in u])
    return np.asarray(workload.units * np.exp(sigma * normal - sigma * sigma / 2), dtype=np.float64)
