"""Requests that wait for a worker of one endpoint, in the order of their arrival.

A request keeps its place while its client is away between two polls, and counts as demand once, however often the client
asks. Only those whose client is listening right now (present) can be answered; an event wakes them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from .requests import ABSENT_AFTER_S, Phase, Request


class HoldQueue:
    """First come, first served. `max_held` bounds those that listen; the memory of requests bounds the rest."""

    def __init__(self, max_held: int) -> None:
        self._max_held = max_held
        self._waiting: list[int] = []
        self._present: list[int] = []
        self._by_seq: dict[int, Request] = {}
        self._left_at: dict[int, float] = {}  # insertion order is the order of leaving
        self._units = 0.0

    def __len__(self) -> int:
        """Waiting requests, listening or not."""
        return len(self._waiting)

    @property
    def units(self) -> float:
        """Work units of all waiting requests."""
        return self._units if self._waiting else 0.0

    @property
    def present(self) -> int:
        return len(self._present)

    @property
    def full(self) -> bool:
        return len(self._present) >= self._max_held

    def enter(self, request: Request, now: float) -> None:
        """It must wait. A request that comes back takes its old place."""
        if request.seq in self._by_seq:
            self._left_at.pop(request.seq, None)
        else:
            insort(self._waiting, request.seq)
            self._by_seq[request.seq] = request
            self._units += request.cost
        request.phase = Phase.WAITING
        self._left_at[request.seq] = now

    def listen(self, request: Request) -> None:
        """Its client listens from now on; `request.wake` is set."""
        self._left_at.pop(request.seq, None)
        insort(self._present, request.seq)

    def unlisten(self, request: Request, now: float) -> None:
        """Its client went away without an answer, perhaps to ask again."""
        if self._discard(self._present, request.seq):
            self._left_at[request.seq] = now

    def remove(self, request: Request) -> None:
        """It waits no more."""
        if self._by_seq.pop(request.seq, None) is None:
            return
        self._discard(self._waiting, request.seq)
        self._discard(self._present, request.seq)
        self._left_at.pop(request.seq, None)
        self._units = max(0.0, self._units - request.cost)

    def position(self, request: Request) -> int:
        """How many are in front of it."""
        return bisect_left(self._waiting, request.seq)

    def listening(self) -> Iterator[Request]:
        """Those that can be answered, oldest first; the queue may change meanwhile."""
        seq = -1
        while (at := bisect_right(self._present, seq)) < len(self._present):
            seq = self._present[at]
            request = self._by_seq[seq]
            if request.wake is not None:
                yield request

    def first_before(self, request: Request) -> Request | None:
        """The oldest listener, if it came before this request: nobody overtakes."""
        if self._present and self._present[0] < request.seq:
            return self._by_seq[self._present[0]]
        return None

    def oldest(self) -> Request | None:
        return self._by_seq[self._waiting[0]] if self._waiting else None

    def drop_absent(self, now: float) -> list[Request]:
        """Those that have not been seen for ABSENT_AFTER_S are no demand any more; they keep their place in memory."""
        gone: list[Request] = []
        for seq, left_at in self._left_at.items():
            if left_at + ABSENT_AFTER_S > now:
                break
            gone.append(self._by_seq[seq])
        for request in gone:
            self.remove(request)
            request.phase = Phase.ABSENT
        return gone

    @staticmethod
    def _discard(seqs: list[int], seq: int) -> bool:
        at = bisect_left(seqs, seq)
        if at < len(seqs) and seqs[at] == seq:
            del seqs[at]
            return True
        return False
