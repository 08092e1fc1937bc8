"""Chance that answers the same question the same way, for ever.

A simulation has no random stream. It asks "how long does the third start of worker 7 take under seed 1?", and the answer is a
hash of the question. So two policies that start the same worker meet the same boot time (common random numbers), and nothing
depends on the order in which questions are asked, on the process, or on PYTHONHASHSEED.

The hash is the finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
"""

from __future__ import annotations

import math
from enum import IntEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_WORD = (1 << 64) - 1
_SEED, _WORKER, _START, _KIND = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0x8CB92BA72F3D8DD7, 0xA24BAED4963EE407
_STANDARD_NORMAL = NormalDist()


class Draw(IntEnum):
    """What is asked."""

    RESUME_TIME = 1  #: stopped -> ready
    CREATE_TIME = 2  #: absent -> ready
    RESUME_FAILS = 3
    CREATE_FAILS = 4
    CRASH = 5  #: time from ready to a crash
    PREEMPTION = 6  #: time from ready to the provider's notice
    REPORT_PHASE = 7
    ROUTE = 8
    ESTIMATE = 9  #: error of a predicted cost
    SPEED = 10  #: error of a benchmark


def mix(word: int) -> int:
    """A 64-bit word in which every bit depends on every bit of the input."""
    word &= _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def unit(seed: int, worker: int, start: int, draw: int) -> float:
    """A number in (0, 1), uniform over questions."""
    return ((mix(seed * _SEED + worker * _WORKER + start * _START + draw * _KIND) >> 11) + 0.5) / 9007199254740992.0


def lognormal(u: float, median: float, sigma: float, low: float, high: float) -> float:
    """The u-quantile of a log-normal distribution, clipped to [low, high]."""
    return min(max(median * math.exp(sigma * _STANDARD_NORMAL.inv_cdf(u)), low), high)


def exponential(u: float, mean: float) -> float:
    """The (1-u)-quantile of an exponential distribution."""
    return -math.log(u) * mean


def normal(u: float) -> float:
    """The u-quantile of the standard normal distribution."""
    return _STANDARD_NORMAL.inv_cdf(u)


def normal_share(value: float) -> float:
    """The share of a standard normal distribution below a value."""
    return _STANDARD_NORMAL.cdf(value)


def units(seed: int, stream: int, count: int, first: int = 0) -> NDArray[np.float64]:
    """`count` numbers in (0, 1): unit(seed, stream, first.., 0), as an array. Equal to the scalar form, bit for bit."""
    start = np.uint64((seed * _SEED + stream * _WORKER) & _WORD)
    with np.errstate(over="ignore"):
        word = start + np.arange(first, first + count, dtype=np.uint64) * np.uint64(_START)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
    return ((word >> np.uint64(11)).astype(np.float64) + 0.5) / 9007199254740992.0
