"""What is asked of a pool: when each request arrives and how much work it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SECOND_US = 1_000_000
#: No request takes less than this, however small: the price of a round through a model server.
SHORTEST_SERVICE_US = 50_000


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival, and the worker that they are measured against.

    `units` is the work of a request (tokens). The reference worker does `perf` units per second on `slots` requests at once, so
    a request holds one slot for units / (perf / slots) seconds.
    """

    name: str
    arrival_us: NDArray[np.int64]
    units: NDArray[np.float64]
    perf: float  #: units per second of the reference worker
    slots: int
    max_workers: int
    min_workers: int
    initial_workers: int  #: hot when the first request comes

    def __post_init__(self) -> None:
        if len(self.arrival_us) == 0 or len(self.arrival_us) != len(self.units):
            raise ValueError(f"workload {self.name}: needs as many sizes as arrivals, and at least one")
        if np.any(np.diff(self.arrival_us) < 0) or self.arrival_us[0] < 0:
            raise ValueError(f"workload {self.name}: arrivals must be in order and not before time 0")

    @property
    def end_us(self) -> int:
        """The end of the billed period: the first whole second more than a second after the last arrival began."""
        return -(-(int(self.arrival_us[-1]) + SECOND_US) // SECOND_US) * SECOND_US

    @property
    def service_us(self) -> NDArray[np.int64]:
        """How long each request holds a slot of the reference worker."""
        return np.maximum(SHORTEST_SERVICE_US, np.rint(self.units * (self.slots * SECOND_US / self.perf))).astype(np.int64)

    @property
    def mean_service_s(self) -> float:
        return float(self.service_us.mean()) / SECOND_US

    def prefix(self, hours: float) -> Workload:
        """The first hours of it, against the same worker. Raises ValueError when nothing came in them."""
        keep = int(np.searchsorted(self.arrival_us, int(hours * 3600 * SECOND_US), "right"))
        return Workload(
            name=self.name,
            arrival_us=self.arrival_us[:keep],
            units=self.units[:keep],
            perf=self.perf,
            slots=self.slots,
            max_workers=self.max_workers,
            min_workers=self.min_workers,
            initial_workers=self.initial_workers,
        )


def sized(  # what it takes to turn a log of requests into a question for a scaler
    name: str,
    arrival_us: NDArray[np.int64],
    units: NDArray[np.float64],
    *,
    mean_workers: float,
    slots: int,
    max_workers: int,
    min_workers: int,
) -> Workload:
    """A workload whose reference worker is as fast as makes the mean load `mean_workers` workers.

    Raises ValueError without requests.
    """
    if not len(arrival_us):
        raise ValueError(f"workload {name}: not a single request")
    end_s = -(-(int(arrival_us[-1]) + SECOND_US) // SECOND_US)
    return Workload(
        name=name,
        arrival_us=arrival_us,
        units=units,
        perf=float(units.sum()) / end_s / mean_workers,
        slots=slots,
        max_workers=max_workers,
        min_workers=min_workers,
        initial_workers=max(1, round(mean_workers)),
    )
