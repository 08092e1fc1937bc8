"""What the scaler hears about one endpoint: totals since this router's start, so that a lost report loses nothing."""

from __future__ import annotations

from bisect import bisect_left

from schemas import sizes

#: Upper bounds (s) of the histogram of how long requests waited here for a worker.
WAIT_BOUNDS_S = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Demand:
    """Counters of one endpoint at one router."""

    __slots__ = (
        "arrivals",
        "arrived_units",
        "last_arrival_at",
        "late",
        "mean_cost",
        "refused",
        "rerouted",
        "routed",
        "routed_units",
        "sizes",
        "wait_counts",
        "wait_s_sum",
    )

    def __init__(self) -> None:
        self.arrivals = 0  #: distinct requests
        self.arrived_units = 0.0
        self.routed = 0  #: distinct requests
        self.rerouted = 0  #: tickets after a complaint
        self.routed_units = 0.0
        self.sizes: dict[int, int] = {}  #: class of size -> distinct requests
        self.late = 0  #: routed after, or to, a longer wait than the scaler aims at
        self.refused = 0  #: gave up, or forgotten while waiting
        self.wait_s_sum = 0.0
        self.wait_counts = [0] * (len(WAIT_BOUNDS_S) + 1)
        self.last_arrival_at = 0.0  #: unix s; 0: none yet
        self.mean_cost = 0.0  #: moving average, work units; 0: none yet

    def arrived(self, cost: float, wall: float) -> None:
        """A request that was not seen before; `wall` unix s."""
        self.arrivals += 1
        self.arrived_units += cost
        self.last_arrival_at = wall
        size_class = sizes.class_of(cost)
        self.sizes[size_class] = self.sizes.get(size_class, 0) + 1
        self.mean_cost = cost if self.arrivals == 1 else self.mean_cost + 0.05 * (cost - self.mean_cost)

    def placed(self, cost: float, waited_s: float, *, late: bool, again: bool) -> None:
        """`waited_s` here; `late`: all in all, the wait in the worker's queue that is expected included."""
        if again:
            self.rerouted += 1
        else:
            self.routed += 1
            self.routed_units += cost
            self.late += late
        self.wait_s_sum += waited_s
        self.wait_counts[bisect_left(WAIT_BOUNDS_S, waited_s)] += 1

    def usual_cost(self) -> float:
        """Work units of a usual request, above 0. Requests that all claim to cost nothing are not believed."""
        return self.mean_cost if self.mean_cost > 0 else 1.0
