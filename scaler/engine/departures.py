"""The infinite pool: when would each request leave, if it had been served at once?

The number of requests in such a pool is the load, free of queueing and of today's capacity (Whitt, Offered load analysis for
staffing, 2012). Departures are kept as counts in bins, so that memory is bounded whatever the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from .seen import Arrivals

BIN_S = 2.0
BINS = 512
#: A longer service is taken as this long.
LONGEST_S = BIN_S * (BINS - 2)
#: After a longer time, as when nobody led, what came is taken in piece by piece ...
LONG_S = 3 * BIN_S
#: ... but not in more than so many.
MOST_PARTS = 600


class Pool:
    """Departures at multiples of BIN_S: each is shared between the one before and the one after it, so that its mean is right. Rounding
    would be right only over many lengths of requests.
    """

    __slots__ = ("counts",)

    def __init__(self, counts: NDArray[np.float32]) -> None:
        """`counts[k % BINS]` requests leave at k * BIN_S."""
        self.counts = counts

    @property
    def present(self) -> float:
        """Those that have not left. Summed anew each time, for a running total would keep the rounding of all that has ever left."""
        return float(np.add.reduce(self.counts, dtype=np.float64))

    def pass_time(self, from_s: float, to_s: float, arrivals: Sequence[Arrivals]) -> float:
        """Request-seconds in the pool between two moments; arrivals are taken to come half way, and evenly in a long time.

        Changes the pool in place.
        """
        parts = min(ceil((to_s - from_s) / LONG_S), MOST_PARTS)
        if parts > 1 and arrivals:
            part_s = (to_s - from_s) / parts
            share = [Arrivals(group.count / parts, group.service_s) for group in arrivals]
            moments = [*(from_s + k * part_s for k in range(parts)), to_s]
            return sum([self._pass(begin_s, end_s, share) for begin_s, end_s in pairwise(moments)])
        return self._pass(from_s, to_s, arrivals)

    def _pass(self, from_s: float, to_s: float, arrivals: Sequence[Arrivals]) -> float:
        area = self.present * (to_s - from_s)
        first, last = int(from_s // BIN_S) + 1, int(to_s // BIN_S)
        for k in range(max(first, last - BINS + 1), last + 1):
            gone = float(self.counts[k % BINS])
            if gone:
                area -= gone * (to_s - k * BIN_S)
                self.counts[k % BINS] = 0.0
        middle_s = (from_s + to_s) / 2
        for group in arrivals:
            service_s = min(group.service_s, LONGEST_S)
            leaves, later = divmod((middle_s + service_s) / BIN_S, 1.0)
            if leaves * BIN_S < middle_s:
                area += group.count * service_s  # too short for the bins: counted at once
                continue
            for k, count in ((int(leaves), group.count * (1.0 - later)), (int(leaves) + 1, group.count * later)):
                if k <= last:
                    area += count * (k * BIN_S - middle_s)
                elif count:
                    area += count * (to_s - middle_s)
                    self.counts[k % BINS] += count
        return max(area, 0.0)

    def still_there(self, at_s: float, after_s: float) -> float:
        """How many of those present at `at_s` have not left `after_s` later."""
        first, last = int(at_s // BIN_S) + 1, int((at_s + after_s) // BIN_S)
        if last - first + 1 >= BINS:
            return 0.0
        if last < first:
            return self.present
        begin, end = first % BINS, last % BINS + 1
        leaving = self.counts[begin:end] if begin < end else np.concatenate((self.counts[begin:], self.counts[:end]))
        return max(0.0, self.present - float(np.add.reduce(leaving, dtype=np.float64)))
