"""What can happen, and what comes first when two things happen in the same microsecond.

One heap holds tuples (time_us, rank, seq, ...): integers decide the order, and `seq` is unique, so nothing else is ever compared.
Arrivals are known beforehand and in order; they are merged with the heap under the same key instead of being pushed through it.
"""

from __future__ import annotations

from enum import IntEnum
from heapq import heappush


class Rank(IntEnum):
    COMPLETION = 0
    BOOT = 1
    CRASH = 2  #: also a preemption: the notice, then the end
    GIVE_UP = 3
    MARKET = 4  #: a price or the number of offers changes
    REPORT = 5
    ARRIVAL = 6
    TICK = 7  #: the scaler decides, having seen everything up to now


Event = tuple[int, int, int, int, int, int]
"""(time_us, rank, seq, subject, stamp, detail). The stamp tells whether the event is still true of its subject."""

NEVER_US = 1 << 62


class Agenda:
    """What is planned, and what time it is."""

    __slots__ = ("_seq", "heap", "now_us")

    def __init__(self) -> None:
        self.now_us = 0
        self.heap: list[Event] = []
        self._seq = 0

    def plan(self, at_us: int, rank: int, subject: int, stamp: int, detail: int = 0) -> None:
        self._seq += 1
        heappush(self.heap, (at_us, int(rank), self._seq, subject, stamp, detail))
