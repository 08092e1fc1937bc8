"""Statistics of a workload, for comparing made-up traffic with recorded traffic: python -m sim.describe steady diurnal ..."""

from __future__ import annotations

import sys

import numpy as np
from msgspec import Struct

from . import synthetic, traces
from .workload import SECOND_US, Workload


class Statistics(Struct, frozen=True, kw_only=True):
    """Per minute means: counts in bins of 60 s."""

    requests: int
    hours: float
    rate: float  #: requests per second
    peak_to_mean_per_minute: float
    cv_per_minute: float  #: coefficient of variation
    empty_minutes: float  #: share
    cv_of_gaps: float
    units_mean: float
    units_p50: float
    units_p99: float


def describe(workload: Workload) -> Statistics:
    arrival_s = workload.arrival_us / SECOND_US
    hours = workload.end_us / SECOND_US / 3600
    per_minute = np.bincount((arrival_s // 60).astype(np.int64), minlength=int(np.ceil(hours * 60)))
    gaps = np.diff(arrival_s)
    p50, p99 = np.quantile(workload.units, (0.5, 0.99))
    return Statistics(
        requests=len(arrival_s),
        hours=hours,
        rate=len(arrival_s) / hours / 3600,
        peak_to_mean_per_minute=float(per_minute.max() / per_minute.mean()),
        cv_per_minute=float(per_minute.std() / per_minute.mean()),
        empty_minutes=float((per_minute == 0).mean()),
        cv_of_gaps=float(gaps.std() / gaps.mean()),
        units_mean=float(workload.units.mean()),
        units_p50=float(p50),
        units_p99=float(p99),
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or [*synthetic.SHAPES, *traces.available()]:
        found = describe(synthetic.make(name) if name in synthetic.SHAPES else traces.load(name))
        figures = {key: getattr(found, key) for key in found.__struct_fields__}
        print(f"{name:28}", "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
