"""What the cheapest possible scaler would have paid, had it known the future: lower bounds of hot hours.

Whoever knows the future starts a worker early enough, so a boot is no delay to him, only a price. He must begin all but a share of the
requests within the target wait, may let the rest wait longer but turns nobody away, and pays for each second of each hot worker and for each start.

`fluid_bound` relaxes that to a linear program. Workers come in fractions and their slots are filled without gaps. With
R(t) = sum over requests of min(s, max(t - a, 0)), the work that a pool without end would have done by t (arrival a, service s):

    minimise    bin * sum n + boot * sum u                        workers hot in each bin; starts u >= the rise of n
    such that   R(t - wait) - C <= O <= R(t)                      work done for requests that begin in time, up to each bin's end t
                R(t - give_up) <= O + L <= R(t),   L <= C         ... and for those that do not: C is the work of those let go so far
                the rise of (O + L) over a bin <= bin * slots * n
                requests let go <= (1 - attainment) * requests

Bins do not spoil the bound: the mean of n over a bin costs the same and rises no more than n. Nor does the fluid: every real
schedule satisfies the program. A bin's requests are let go by classes of size, each counted at its largest member.

`cover_bound` is for sparse traffic, where fractions of workers make the fluid worthless. A request that is longer than the target
wait and begins in time is certainly in service from a + wait to a + s, so somebody is hot then. The cheapest course of one
worker that is on at all these times, but for a share of the requests, is found by dynamic programming with a price for each request let
go (Lagrange: any price gives a bound, the best is taken).

Both count the mean boot for every start. A policy could be luckier than that, by a hair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .workload import SECOND_US, Workload

_Floats = NDArray[np.float64]

GIVE_UP_S = 300.0
#: Sizes within this ratio are one class of requests when some must be let go.
SIZE_CLASS = 1.1


@dataclass(frozen=True, slots=True)
class Goal:
    """What the clairvoyant has to reach, and what a start costs him."""

    attainment: float = 0.95  #: share of requests that must begin within the wait
    wait_s: float = 5.0
    boot_s: float = 27.3  #: mean time from stopped to ready, which is billed


@dataclass(frozen=True, slots=True)
class Bound:
    """Hot worker-hours that no policy with this attainment goes below."""

    fluid_h: float
    cover_h: float

    @property
    def hours(self) -> float:
        return max(self.fluid_h, self.cover_h)


def bound(workload: Workload, goal: Goal, bin_s: float | None = None) -> Bound:
    """Both bounds. Raises what `fluid_bound` raises."""
    return Bound(fluid_bound(workload, goal, bin_s), cover_bound(workload, goal))


def fluid_bound(workload: Workload, goal: Goal, bin_s: float | None = None) -> float:
    """Hours, by linear programming (HiGHS). `bin_s`: None takes as many bins as solve in about a minute; fewer only weaken the bound.

    Needs scipy. Raises ValueError when the program cannot be solved, which would be an error in it: a pool without end solves it.
    """
    from scipy.optimize import linprog

    program = _program(workload, goal, bin_s or _usual_bin_s(workload))
    solved = linprog(
        program.cost,
        A_ub=program.rows,
        b_ub=program.limits,
        A_eq=program.equalities,
        b_eq=np.zeros(program.equalities.shape[0]),
        bounds=program.bounds,
        method="highs",
    )
    if solved.status != 0:
        raise ValueError(f"no bound for {workload.name}: {solved.message}")
    return float(solved.fun) / 3600


def _usual_bin_s(workload: Workload) -> float:
    hours = workload.end_us / SECOND_US / 3600
    return 5.0 if hours < 2 else 30.0 if hours < 48 else 60.0


@dataclass(frozen=True, slots=True)
class _Program:
    cost: _Floats
    rows: Any  #: sparse; rows @ x <= limits
    limits: _Floats
    equalities: Any  #: sparse; equalities @ x = 0
    bounds: _Floats


def _program(workload: Workload, goal: Goal, bin_s: float) -> _Program:
    from scipy.sparse import coo_array, csr_array, eye_array, hstack, vstack

    arrival_s, service_s = workload.arrival_us / SECOND_US, workload.service_us / SECOND_US
    end_s = workload.end_us / SECOND_US
    bins = math.ceil((max(end_s, float((arrival_s + service_s).max())) + GIVE_UP_S) / bin_s) + 1
    ends_s: _Floats = np.arange(1, bins + 1, dtype=np.float64) * bin_s
    possible = _work_by(arrival_s, service_s, ends_s)
    in_time = _work_by(arrival_s, service_s, ends_s - goal.wait_s)
    at_last = _work_by(arrival_s, service_s, ends_s - GIVE_UP_S)
    at_last[-1] = float(service_s.sum()) * (1 - 1e-9)
    late_bin, late_count, late_work = _late_classes(arrival_s, service_s, bin_s, bins)

    # Columns: hot n, starts u, on-time work O, late work L, work let go C (each per bin), requests let go (per bin and class).
    one, none = eye_array(bins, format="csr"), csr_array((bins, bins))
    rise = one - eye_array(bins, k=-1, format="csr")
    classes = len(late_bin)
    no_class = csr_array((bins, classes))
    rows = vstack(
        [
            hstack([none, none, -one, none, -one, no_class]),  # R(t - wait) <= O + C
            hstack([none, none, -one, -one, none, no_class]),  # R(t - give_up) <= O + L
            hstack([none, none, one, one, none, no_class]),  # O + L <= R(t)
            hstack([none, none, none, one, -one, no_class]),  # L <= C
            hstack([-(bin_s * workload.slots) * one, none, rise, rise, none, no_class]),  # work done <= capacity
            hstack([rise, -one, none, none, none, no_class]),  # rise of n <= u
            hstack([none, none, -rise, none, none, no_class]),  # work done is not undone
            hstack([none, none, none, -rise, none, no_class]),
            csr_array(np.concatenate([np.zeros(5 * bins), np.ones(classes)])[None, :]),  # requests let go
        ],
        format="csr",
    )
    free_at_first = np.zeros(bins)
    free_at_first[0] = max(workload.initial_workers, workload.min_workers)
    nothing = np.zeros(bins)
    allowed = (1 - goal.attainment) * len(arrival_s)
    limits = np.concatenate(
        [-in_time, -at_last, possible, nothing, nothing, free_at_first, nothing, nothing, [allowed]],
    )
    let_go = coo_array((late_work, (late_bin, np.arange(classes))), shape=(bins, classes))
    equalities = hstack([none, none, none, none, rise, -let_go], format="csr")

    billed = ends_s - bin_s < end_s
    cost = np.concatenate([np.full(bins, bin_s), np.where(billed, goal.boot_s, 0.0), np.zeros(3 * bins + classes)])
    bounds = np.zeros((len(cost), 2))
    bounds[:, 1] = np.inf
    bounds[:bins, 0] = np.where(ends_s <= end_s, workload.min_workers, 0)
    bounds[5 * bins :, 1] = late_count
    return _Program(cost, rows, limits, equalities, bounds)


def _work_by(arrival_s: _Floats, service_s: _Floats, at_s: _Floats) -> _Floats:
    """R(t): what a pool without end has done of these requests by each time, in slot-seconds."""
    begins, ends = np.sort(arrival_s), np.sort(arrival_s + service_s)

    def ramps(starts: _Floats) -> _Floats:
        before = np.searchsorted(starts, at_s, "right")
        sums = np.concatenate([[0.0], np.cumsum(starts)])
        return np.asarray(before * at_s - sums[before], dtype=np.float64)

    # Differences of large sums: rounding must neither go below zero nor come down again.
    return np.maximum.accumulate(np.maximum(ramps(begins) - ramps(ends), 0.0))


def _late_classes(arrival_s: _Floats, service_s: _Floats, bin_s: float, bins: int) -> tuple[NDArray[np.int64], _Floats, _Floats]:
    """Requests by bin and class of size: (bin, how many, the work of the largest)."""
    where = np.minimum((arrival_s / bin_s).astype(np.int64), bins - 1)
    size = np.floor(np.log(service_s) / math.log(SIZE_CLASS)).astype(np.int64)
    size -= size.min()
    key = where * (int(size.max()) + 1) + size
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    largest = np.maximum.reduceat(service_s[order], first)
    return where[order][first], count.astype(np.float64), largest


def cover_bound(workload: Workload, goal: Goal) -> float:
    """Hours in which somebody must be hot, on a grid of seconds."""
    arrival_s, service_s = workload.arrival_us / SECOND_US, workload.service_us / SECOND_US
    seconds = math.ceil(workload.end_us / SECOND_US)
    begins, ends = np.ceil(arrival_s + goal.wait_s).astype(np.int64), np.floor(arrival_s + service_s).astype(np.int64)
    counts = (ends > begins) & (ends <= seconds)
    begins, ends = begins[counts], ends[counts]
    # A request let go is paid for in equal parts over the seconds in which it would certainly have been in service: so it is
    # never paid for more than once, however often the worker goes off and on.
    share = 1.0 / (ends - begins)
    steps = np.bincount(begins, share, seconds + 1) - np.bincount(ends, share, seconds + 1)
    absence = np.maximum(np.cumsum(steps)[:seconds], 0.0)
    price = np.concatenate([[0.5, 1.0, 2.0, 4.0], np.geomspace(6, 4000, 40)])
    on, off = np.zeros(len(price)), np.zeros(len(price))
    for lost in absence.tolist():
        on, off = np.minimum(on, off + goal.boot_s) + 1.0, np.minimum(off, on) + price * lost
    allowed = (1 - goal.attainment) * len(arrival_s)
    return float(max(0.0, (np.minimum(on, off) - price * allowed).max())) / 3600
