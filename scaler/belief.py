"""How much of what was said to be work is believed. A client may name any cost, and one that is absurd must not undervalue all load for
hours; yet requests do differ by orders of magnitude.

    longest    what one request may be, in seconds of a slot: as long as the engine looks ahead, or so many times the usual one that it
               weighs no more than a quarter of what is remembered
    routed     what came since the last look, each request by its class and none above the longest; one of the longest from before; and
               of others that had waited, ten times the usual
    served     one of the longest, and ten times what the workers here do in that time and in that of a usual request
    in hand    one of the longest, and ten times the usual for each

What is said above these bounds is cut; nothing below is touched. All units of clients are those of `worth`.
"""

from __future__ import annotations

import msgspec

from schemas import sizes

from .engine.departures import LONGEST_S
from .engine.memory import Memory
from .engine.seen import Arrivals
from .types import Fresh

#: What many requests may be beyond the usual one.
_MANY = 10.0
#: One request weighs no more than this share of those that are remembered ...
_SHARE = 0.25
#: ... and than so many usual ones.
_MOST_TIMES = 1000.0


class Belief(msgspec.Struct, frozen=True):
    """By what was known before this look."""

    usual_s: float  #: seconds of a slot of a usual request; 0: none was seen yet
    longest_s: float  #: of the longest that is believed
    perf: float  #: of a usual worker, units per second
    slots: int

    def in_hand(self, units: float, requests: int) -> float:
        """In workers' units, of so many requests."""
        usual_s = self.usual_s or LONGEST_S
        return min(units, (self.longest_s + requests * _MANY * usual_s) * self.perf / self.slots)

    def served(self, units: float, workers: int, dt_s: float) -> float:
        """In workers' units, by so many workers."""
        own = workers * _MANY * (dt_s + (self.usual_s or LONGEST_S)) * self.perf
        return min(units, self.longest_s * self.perf / self.slots + own)

    def routed(self, fresh: Fresh, per_unit_s: float) -> float:
        """In clients' units."""
        if not fresh.ended:
            return fresh.routed_units  # whoever reports does not count who got a worker
        came_s = sum([group.count * group.service_s for group in self.arrivals(fresh, per_unit_s)])
        waited = max(fresh.ended - fresh.arrivals, 0)
        waited_s = self.longest_s + waited * _MANY * (self.usual_s or LONGEST_S)
        return min(fresh.routed_units, (came_s + waited_s) / per_unit_s)

    def arrivals(self, fresh: Fresh, per_unit_s: float) -> tuple[Arrivals, ...]:
        """Requests by class of size. Classes say the shape, the sum of units says how much it really was."""
        if not fresh.arrivals:
            return ()
        by_class = sum(sizes.units_of(size) * count for size, count in fresh.sizes.items())
        if by_class <= 0:
            mean_s = fresh.units / fresh.arrivals * per_unit_s
            if mean_s > self.longest_s and self.usual_s:
                # One of them said so, and nobody knows which.
                mean_s = min(mean_s, self.longest_s / fresh.arrivals + self.usual_s)
            return (Arrivals(float(fresh.arrivals), min(mean_s, self.longest_s)),)
        scale = fresh.units / by_class * per_unit_s
        return tuple(
            [Arrivals(float(count), min(sizes.units_of(size) * scale, self.longest_s)) for size, count in fresh.sizes.items()]
        )


def of(memory: Memory, perf: float, slots: int) -> Belief:
    """What may be believed of requests by those that came before."""
    usual_s = memory.service_mean_s
    times = min(max(_SHARE * float(memory.arrived[0]), _MANY), _MOST_TIMES)
    return Belief(usual_s, max(LONGEST_S, times * usual_s), perf, slots)
