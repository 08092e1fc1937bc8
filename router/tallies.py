"""What a worker group did, in sums by time, so that groups can be compared over the last minutes or the last day. Pure.

    open       |.....|                     the minute that fills
    minutes    |--|--|--| ... 60           the last hour
    quarters   |------------| ... 96       the last day, by quarters of an hour

What workers served is taken from the totals in their heartbeats, by differences: every router hears all of it. What was routed and how
long it waited is this router's own. Times are monotonic s.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable

from .demand import WAIT_BOUNDS_S
from .view import Pulse

MINUTE_S = 60.0
QUARTER_S = 900.0
MINUTES = 60
QUARTERS = 96

_NUMBERS = (
    "requests",
    "served",
    "failed",
    "cancelled",
    "rejected",
    "served_units",
    "queue_s",
    "service_s",
    "routed",
    "rerouted",
    "wait_s",
    "hot_s",
    "cost_usd",
    "storage_usd",
)


class Sums:
    """Of one stretch of time."""

    __slots__ = (*_NUMBERS, "waits")

    def __init__(self) -> None:
        # from heartbeats
        self.requests = 0  #: accepted by workers
        self.served = 0
        self.failed = 0  #: the model failed them
        self.cancelled = 0  #: the client left
        self.rejected = 0  #: refused by a worker, with a good ticket
        self.served_units = 0.0
        self.queue_s = 0.0  #: waited at workers
        self.service_s = 0.0  #: at the model
        # this router's own
        self.routed = 0  #: tickets for requests
        self.rerouted = 0  #: tickets for requests that came back from a worker
        self.wait_s = 0.0  #: waited here
        self.waits = [0] * (len(WAIT_BOUNDS_S) + 1)  #: by WAIT_BOUNDS_S
        # from workers' records
        self.hot_s = 0.0  #: worker-seconds that cost the hot price
        self.cost_usd = 0.0
        self.storage_usd = 0.0

    def add(self, other: Sums) -> None:
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.waits = [mine + theirs for mine, theirs in zip(self.waits, other.waits, strict=True)]

    @property
    def empty(self) -> bool:
        return not any(getattr(self, name) for name in _NUMBERS)


def total(parts: Iterable[Sums]) -> Sums:
    found = Sums()
    for part in parts:
        found.add(part)
    return found


class Tally:
    """One group's sums, at most a day back."""

    __slots__ = ("_closes_at", "_minute", "_minutes", "_opened_at", "_quarter", "_quarter_at", "_quarters", "since")

    def __init__(self, now: float) -> None:
        self.since = now  #: begin of counting
        self._minutes: deque[tuple[float, Sums]] = deque(maxlen=MINUTES)
        self._quarters: deque[tuple[float, Sums]] = deque(maxlen=QUARTERS)
        self._minute, self._quarter = Sums(), Sums()
        self._opened_at, self._closes_at, self._quarter_at = 0.0, 0.0, 0.0
        self._open(now)

    def now(self, now: float) -> Sums:
        """The sums that fill at this moment."""
        if now >= self._closes_at:
            self._close(now)
        return self._minute

    def placed(self, waited_s: float, now: float, *, again: bool) -> None:
        """A ticket of this router names one of its workers."""
        sums = self.now(now)
        if again:
            sums.rerouted += 1
        else:
            sums.routed += 1
        sums.wait_s += waited_s
        sums.waits[bisect_left(WAIT_BOUNDS_S, waited_s)] += 1

    def heard(self, before: Pulse | None, pulse: Pulse, now: float) -> None:
        """One of its workers spoke. Of one that was not heard before nobody knows since when its totals run; within one boot they only
        grow.
        """
        if before is None:
            return
        sums = self.now(now)
        if before.boot != pulse.boot:  # it began anew while we listened: all of it is new
            sums.requests += pulse.requests_total
            sums.served += pulse.served_total
            sums.failed += pulse.failed_total
            sums.cancelled += pulse.cancelled_total
            sums.rejected += pulse.rejected_total
            sums.served_units += pulse.served_units_total
            sums.queue_s += pulse.queue_s_total
            sums.service_s += pulse.service_s_total
            return
        if pulse.requests_total != before.requests_total or pulse.rejected_total != before.rejected_total:
            sums.requests += pulse.requests_total - before.requests_total
            sums.rejected += pulse.rejected_total - before.rejected_total
        if pulse.queue_s_total != before.queue_s_total:
            sums.queue_s += pulse.queue_s_total - before.queue_s_total
        if pulse.served_total != before.served_total:
            sums.served += pulse.served_total - before.served_total
            sums.served_units += pulse.served_units_total - before.served_units_total
            sums.service_s += pulse.service_s_total - before.service_s_total
        if pulse.failed_total != before.failed_total:
            sums.failed += pulse.failed_total - before.failed_total
        if pulse.cancelled_total != before.cancelled_total:
            sums.cancelled += pulse.cancelled_total - before.cancelled_total

    def over(self, since: float, now: float) -> tuple[Sums, float]:
        """(sums, since when they run): from the begin of the minute or quarter that holds `since`, as far as it was counted."""
        self.now(now)
        if now - since <= MINUTES * MINUTE_S:
            begin = since // MINUTE_S * MINUTE_S
            parts = [sums for at, sums in self._minutes if at >= begin]
        else:
            begin = max(since, now - QUARTERS * QUARTER_S) // QUARTER_S * QUARTER_S
            parts = [sums for at, sums in self._quarters if at >= begin] + [self._quarter]
        return total([*parts, self._minute]), max(begin, self.since)

    def _close(self, now: float) -> None:
        if not self._minute.empty:
            self._minutes.append((self._opened_at, self._minute))
            self._quarter.add(self._minute)
        if now >= self._quarter_at + QUARTER_S and not self._quarter.empty:
            self._quarters.append((self._quarter_at, self._quarter))
            self._quarter = Sums()
        self._minute = Sums()
        self._open(now)

    def _open(self, now: float) -> None:
        self._opened_at = now // MINUTE_S * MINUTE_S
        self._closes_at = self._opened_at + MINUTE_S
        if self._quarter.empty or now >= self._quarter_at + QUARTER_S:
            self._quarter_at = now // QUARTER_S * QUARTER_S
