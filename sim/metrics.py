"""What a run was worth."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from .simulation import REJECTED

#: Waits, in seconds, at which attainment is reported.
TARGETS_S = (2.0, 5.0, 15.0)


class Result(Struct, frozen=True, kw_only=True):
    """One policy on one workload under one seed."""

    requests: int
    attainment: dict[str, float]  #: share of all requests that began within so many seconds; given up counts as late
    wait_p50_s: float
    wait_p95_s: float
    wait_p99_s: float
    rejected: int
    hot_h: float  #: worker-hours from loading or starting to the end of draining, and the work left at the end
    stopped_h: float
    creating_h: float
    cost: float  #: hot hours and storage, at the prices of the groups
    starts: int
    creations: int
    failed_boots: int
    stops: int
    crashes: int
    preemptions: int
    no_offers: int
    flaps: int  #: reversals of the direction in which the wanted number moves
    utilisation: float  #: of the slots of workers that are ready or draining
    digest: str
    overdue: int = 0  #: began only when its patience, counted from its arrival, had ended: it was in service before, at a worker that was lost

    def within(self, seconds: float) -> float:
        return self.attainment[f"{seconds:g}"]


def attainment(wait_us: list[int]) -> dict[str, float]:
    waits = np.asarray(wait_us, dtype=np.int64)
    started = waits >= 0
    return {f"{target:g}": float((started & (waits <= target * 1e6)).mean()) for target in TARGETS_S}


def quantiles_s(wait_us: list[int], *shares: float) -> tuple[float, ...]:
    """Quantiles of the wait; a request that never began counts as 10,000 s."""
    waits = np.asarray(wait_us, dtype=np.int64)
    seconds = np.where((waits < 0) | (waits >= REJECTED), 1e4, waits / 1e6)
    return tuple(float(value) for value in np.quantile(seconds, shares))


def rejected(wait_us: list[int]) -> int:
    """Requests given up, and those that never began."""
    waits = np.asarray(wait_us, dtype=np.int64)
    return int(((waits < 0) | (waits >= REJECTED)).sum())


def overdue(wait_us: list[int], give_up_us: int) -> int:
    """Requests that began, but later after their arrival than anybody waits."""
    waits = np.asarray(wait_us, dtype=np.int64)
    return int(((waits > give_up_us) & (waits < REJECTED)).sum())
