"""What requests tell about the model's health: written where they are served, read where it is watched. Times are monotonic seconds."""

from __future__ import annotations

from .stopwatch import Stopwatch


class Pulse:
    def __init__(self) -> None:
        self._answered_at = -float("inf")
        self._streams: set[Stopwatch] = set()
        self.timeouts_in_a_row = 0  #: requests that got no first byte in time, since one did

    def answered(self, now: float) -> None:
        """The model began or ended an answer."""
        self._answered_at = now
        self.timeouts_in_a_row = 0

    def timed_out(self) -> None:
        self.timeouts_in_a_row += 1

    def streams(self, watch: Stopwatch) -> None:
        """Its beats count, until ended()."""
        self._streams.add(watch)

    def ended(self, watch: Stopwatch) -> None:
        self._streams.discard(watch)

    def last_at(self) -> float:
        """When the model last moved for a request."""
        return max([self._answered_at, *(watch.beat_at for watch in self._streams)])
