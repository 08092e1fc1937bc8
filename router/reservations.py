"""Load that tickets promised to a worker and that no report of the worker covers yet.

Clients go straight to the worker, so the router learns of an arrival only when the worker's `requests_total` has grown.
Between the ticket and that report the promise stands in for the load. A promise that nobody keeps is forgotten.
"""

from __future__ import annotations

from collections import deque

#: About two heartbeats and the way of a client to the worker.
PROMISE_TTL_S = 3.0


class Ledger:
    """The open promises of one worker, oldest first: this router's own and, by gossip, those of its peers."""

    __slots__ = ("_open", "own_units", "requests")

    def __init__(self) -> None:
        self._open: deque[tuple[float, int, float]] = deque()  # (made at, requests, own units)
        self.requests = 0
        self.own_units = 0.0  #: work units; those of peers are theirs to report

    def promise(self, made_at: float, own_units: float, requests: int = 1) -> None:
        """Add promises made at `made_at` (monotonic s)."""
        self._open.append((made_at, requests, own_units))
        self.requests += requests
        self.own_units += own_units

    def cover(self, arrived: int) -> None:
        """A report counts `arrived` more requests than the last: the oldest promises have become load there."""
        while arrived > 0 and self._open:
            made_at, requests, units = self._open[0]
            if requests > arrived:
                part = units * arrived / requests
                self._open[0] = (made_at, requests - arrived, units - part)
                self._take(arrived, part)
                return
            self._open.popleft()
            self._take(requests, units)
            arrived -= requests

    def expire(self, made_before: float) -> bool:
        """Forget promises made before this moment (monotonic s). True when there were any."""
        expired = False
        while self._open and self._open[0][0] < made_before:
            _, requests, units = self._open.popleft()
            self._take(requests, units)
            expired = True
        return expired

    def clear(self) -> None:
        self._open.clear()
        self.requests = 0
        self.own_units = 0.0

    def _take(self, requests: int, units: float) -> None:
        self.requests -= requests
        # Sums of floats drift; an empty ledger is exactly empty and never owes less than nothing.
        self.own_units = max(0.0, self.own_units - units) if self.requests else 0.0
