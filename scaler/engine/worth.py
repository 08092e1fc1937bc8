"""What a client's cost is worth in work of a worker. Three things may differ: what clients say a request costs, what workers count when
they serve it, and the seconds that takes beside what the benchmark promised.

    service_s = cost * (units served / units routed) * max(1, busy worker-seconds * perf / units served) * slots / perf

Work that workers have in hand counts as served here, and what waits for a worker is not routed yet: neither says that clients ask for
more than they get. Each ratio begins at 1 and is believed more the more work was seen. That a worker is faster than its benchmark is not
believed: a half empty one often is, and slows down when it fills.
"""

from __future__ import annotations

from .constants import Constants
from .memory import Memory

#: Beyond these a ratio is taken for a fault in somebody's counting.
_LEAST, _MOST = 0.02, 50.0


def remember(memory: Memory, routed: float, served: float, busy_s: float, dt_s: float, constants: Constants) -> None:
    """Units that clients said of requests that got a worker, units that workers say they served, worker-seconds with work."""
    keep = 0.5 ** (dt_s / constants.worth_half_life_s)
    memory.routed_units = memory.routed_units * keep + routed
    memory.served_units = memory.served_units * keep + served
    memory.busy_s = memory.busy_s * keep + busy_s


def service_s_per_unit(memory: Memory, perf: float, slots: int, in_hand: float, constants: Constants) -> float:
    """Seconds that one unit of a client's cost holds one slot of a usual worker. `perf` in units per second, above 0; `in_hand` in
    units of the workers.
    """
    prior = constants.worth_prior_s * perf
    counted = (memory.served_units + in_hand + prior) / (memory.routed_units + prior)
    slower = (memory.busy_s * perf + prior) / (memory.served_units + prior)
    return min(max(counted, _LEAST), _MOST) * min(max(slower, 1.0), _MOST) * slots / perf
