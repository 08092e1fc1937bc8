"""Made-up traffic with the statistics of real traffic, for tests and for everybody without the traces.

Five shapes, each after one kind of recorded endpoint: `steady` (a big chat service), `diurnal` (one customer, day and night),
`bursty` (one customer, in bursts), `sparse` (asleep most of the time) and `first_burst` (silence, then hundreds of requests at
once). All are doubly stochastic Poisson processes: a random intensity, arrivals by change of time, sizes log-normal.
Everything follows from the seed by `chance`, so a workload is the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import chance
from .workload import Workload, sized

_BIN_S = 5.0
_DAY_S = 86_400.0
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shape:
    """How requests come, how big they are, and how big a pool they are played against."""

    name: str
    hours: float
    rate: float  #: requests per second, on average
    units_median: float
    units_sigma: float
    mean_workers: float
    slots: int = 8
    max_workers: int = 48
    min_workers: int = 1
    day_swing: float = 0.0  #: 0: flat; 1: nothing at midnight; above 1: silent nights
    slow_sigma: float = 0.0  #: of the log of the intensity, wandering over an hour
    fast_sigma: float = 0.0  #: the same over a minute
    batch: float = 1.0  #: mean number of requests that come together
    spacing_s: float = 0.0  #: mean gap between the requests of a batch
    awake: float = 1.0  #: share of the time in which anything comes at all
    awake_s: float = 600.0  #: mean length of such a time


STEADY = Shape("steady", hours=1, rate=3.4, units_median=7255, units_sigma=1.06, mean_workers=8, fast_sigma=0.08)
DIURNAL = Shape(
    "diurnal",
    hours=168,
    rate=0.37,
    units_median=994,
    units_sigma=0.25,
    mean_workers=3,
    slots=2,
    max_workers=64,
    min_workers=0,
    day_swing=3.0,
    slow_sigma=0.25,
    fast_sigma=0.3,
    batch=3,
    spacing_s=0.5,
)
BURSTY = Shape(
    "bursty",
    hours=168,
    rate=0.28,
    units_median=462,
    units_sigma=0.7,
    mean_workers=2,
    slots=2,
    max_workers=96,
    min_workers=0,
    day_swing=1.1,
    slow_sigma=0.95,
    fast_sigma=0.5,
    batch=4,
    spacing_s=0.8,
)
SPARSE = Shape(
    "sparse",
    hours=168,
    rate=0.02,
    units_median=700,
    units_sigma=0.8,
    mean_workers=0.06,
    max_workers=16,
    min_workers=0,
    day_swing=0.6,
    awake=0.15,
    awake_s=900,
)
FIRST_BURST = Shape(
    "first_burst",
    hours=1,
    rate=2.6,
    units_median=1493,
    units_sigma=0.8,
    mean_workers=4,
    batch=150,
    spacing_s=0.15,
    slow_sigma=0.6,
)
SHAPES = {shape.name: shape for shape in (STEADY, DIURNAL, BURSTY, SPARSE, FIRST_BURST)}


def make(shape: Shape | str, *, seed: int = 1, hours: float | None = None) -> Workload:
    """A workload of that shape; `hours` shortens or lengthens it. Raises KeyError for an unknown name."""
    shape = SHAPES[shape] if isinstance(shape, str) else shape
    if hours is not None:
        shape = replace(shape, hours=hours)
    arrival_s = _arrivals_s(shape, seed)
    units = shape.units_median * np.exp(shape.units_sigma * _normals(seed, _SIZES, len(arrival_s)))
    return sized(
        f"{shape.name}",
        np.rint(arrival_s * 1000).astype(np.int64) * 1000,
        np.ceil(units),
        mean_workers=shape.mean_workers,
        slots=shape.slots,
        max_workers=shape.max_workers,
        min_workers=shape.min_workers,
    )


# Streams of chance: one for each thing that is drawn.
_GAPS, _SIZES, _SLOW, _FAST, _BATCHES, _SPREAD, _SLEEP = range(1001, 1008)


def _arrivals_s(shape: Shape, seed: int) -> _Floats:
    """Times of arrival, sorted, within the hours of the shape."""
    end_s = shape.hours * 3600.0
    edges_s = np.arange(0.0, end_s + _BIN_S, _BIN_S)
    intensity = _intensity(shape, seed, edges_s[:-1])
    intensity *= shape.rate / shape.batch / max(float(intensity.mean()), 1e-12)
    # Change of time: a process of rate 1, seen through the clock that the intensity makes.
    clock = np.concatenate([[0.0], np.cumsum(intensity * _BIN_S)])
    expected = float(clock[-1])
    count = int(expected + 6 * math.sqrt(expected) + 20)
    ticks = np.cumsum(-np.log(chance.units(seed, _GAPS, count)))
    starts_s = np.interp(ticks[ticks < expected], clock, edges_s)
    arrival_s = np.sort(_in_batches(shape, seed, starts_s))
    return arrival_s[arrival_s < end_s]


def _intensity(shape: Shape, seed: int, at_s: _Floats) -> _Floats:
    level = np.maximum(0.0, 1.0 - shape.day_swing * np.cos(2 * math.pi * at_s / _DAY_S))
    for sigma, tau_s, stream in ((shape.slow_sigma, 3600.0, _SLOW), (shape.fast_sigma, 60.0, _FAST)):
        if sigma:
            level = level * np.exp(sigma * _wandering(seed, stream, len(at_s), tau_s))
    if shape.awake < 1.0:
        level = level * _awake(shape, seed, at_s)
    return np.asarray(level, dtype=np.float64)


def _wandering(seed: int, stream: int, count: int, tau_s: float) -> _Floats:
    """A stationary Gaussian process of variance 1 that forgets over tau_s (Ornstein-Uhlenbeck, one value per bin)."""
    keep = math.exp(-_BIN_S / tau_s)
    steps = _normals(seed, stream, count) * math.sqrt(1 - keep * keep)
    value, values = float(_normals(seed, stream + 100, 1)[0]), np.empty(count)
    for index, step in enumerate(steps.tolist()):
        value = keep * value + step
        values[index] = value
    return values


def _awake(shape: Shape, seed: int, at_s: _Floats) -> _Floats:
    """1 while the endpoint is awake, 0 while it sleeps; both last exponentially long."""
    asleep_s = shape.awake_s * (1 - shape.awake) / shape.awake
    count = 2 * int(at_s[-1] / (shape.awake_s + asleep_s) + 50)
    lengths = -np.log(chance.units(seed, _SLEEP, 2 * count)) * np.tile([shape.awake_s, asleep_s], count)
    turn = np.searchsorted(np.cumsum(lengths), at_s, "right")
    return np.asarray(turn % 2 == 0, dtype=np.float64)


def _in_batches(shape: Shape, seed: int, starts_s: _Floats) -> _Floats:
    """Each start becomes a batch of geometric size whose requests follow each other after exponential gaps."""
    if shape.batch <= 1:
        return starts_s
    u = chance.units(seed, _BATCHES, len(starts_s))
    sizes = np.maximum(1, np.ceil(np.log(u) / math.log(1 - 1 / shape.batch))).astype(np.int64)
    gaps_s = -np.log(chance.units(seed, _SPREAD, int(sizes.sum()))) * shape.spacing_s
    first = np.cumsum(sizes) - sizes
    gaps_s[first] = 0.0
    since_s = np.cumsum(gaps_s)
    return np.asarray(np.repeat(starts_s - since_s[first], sizes) + since_s, dtype=np.float64)


def _normals(seed: int, stream: int, count: int) -> _Floats:
    """Standard normal numbers, by Box and Muller."""
    radius = np.sqrt(-2.0 * np.log(chance.units(seed, stream, count)))
    return np.asarray(radius * np.cos(2 * math.pi * chance.units(seed, stream + 500, count)), dtype=np.float64)
