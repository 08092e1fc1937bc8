"""Scaling rules: simple opinions, each right for some traffic, none for all.

    level     (level + margin * sqrt(level * Z)) / slots, a smaller need must last for `hold`
    peak      share * (decaying peak of the load) / slots
    keep      k workers for so long after the last activity, else the common level rule

A level is a forecast of the load at the time a worker started now would be ready, or an average of the load (`load`).

Square-root staffing: Jennings, Mandelbaum, Massey, Whitt, Server staffing to meet time-varying demand, Management Science 42(10),
1996. Letting a server idle for a while before it goes: Gandhi, Gupta, Harchol-Balter, Kozuch, Optimality analysis of
energy-performance trade-off for server farm management, 2010.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .constants import Constants

Floats = NDArray[np.float32]

#: Needs are 32-bit numbers: one that is a whole number but for its last bits is that number.
_ROUNDING = 1e-4
_NO_TIME_S = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """The same rule at the same index of every array."""

    names: tuple[str, ...]
    need: NDArray[np.intp]  #: which of the needs (levels x margins, then peaks x shares) the rule follows
    slacks: Floats  #: by how much a need may exceed a whole number of workers: on the way up, on the way down
    hold_s: Floats  #: above 0: who is not below its target is never past its hold
    keep: Floats  #: workers kept ...
    keep_s: Floats  #: ... for so long after the last activity
    shortest_keep_s: float
    margins: tuple[float, ...]
    peak_shares: tuple[float, ...]
    prior: int  #: the rule to follow before there is anything to compare

    def __len__(self) -> int:
        return len(self.names)


@lru_cache(maxsize=8)
def table(constants: Constants) -> Rules:
    """All rules of a set of constants. Raises ValueError when the common rule is not among them."""
    c = constants
    levels = [f"forecast by {s:g} s" for s in c.forecast_s] + [f"average of {s:g} s" for s in c.average_s]
    peaks = [f"peak (up {rise:g} s, down {fall:g} s)" for rise in c.rises_s for fall in c.falls_s]
    names: list[str] = []
    rows: list[tuple[int, float, float, float]] = []
    for level, level_name in enumerate(levels):
        for m, margin in enumerate(c.margins):
            for hold_s in c.holds_s:
                names.append(f"{level_name}, margin {margin:g}, hold {hold_s:g} s")
                rows.append((level * len(c.margins) + m, hold_s, 0.0, 0.0))
    for peak, peak_name in enumerate(peaks):
        for s, share in enumerate(c.peak_shares):
            names.append(f"{share:g} of {peak_name}")
            rows.append((len(levels) * len(c.margins) + peak * len(c.peak_shares) + s, 0.0, 0.0, 0.0))
    prior = names.index(f"average of {c.common_s:g} s, margin {c.common_margin:g}, hold {c.common_hold_s:g} s")
    for keep in c.keep_workers:
        for keep_s in c.keeps_s:
            names.append(f"{keep} kept for {keep_s:g} s")
            rows.append((rows[prior][0], c.common_hold_s, float(keep), keep_s))
    needs, holds, keeps, keep_times = zip(*rows, strict=True)
    return Rules(
        names=tuple(names),
        need=np.array(needs, dtype=np.intp),
        slacks=np.array([[c.up_slack + _ROUNDING], [_ROUNDING]], dtype=np.float32),
        hold_s=np.maximum(np.array(holds, dtype=np.float32), np.float32(_NO_TIME_S)),
        keep=np.array(keeps, dtype=np.float32),
        keep_s=np.array(keep_times, dtype=np.float32),
        shortest_keep_s=min(c.keeps_s, default=math.inf),
        margins=tuple([float(np.float32(margin)) for margin in c.margins]),
        peak_shares=tuple([float(np.float32(share)) for share in c.peak_shares]),
        prior=prior,
    )
