"""Averages and maxima over the last seconds."""

from __future__ import annotations

from collections import deque


class MeanOver:
    """The mean rate of a counter over the last `window_s` seconds, or since the beginning while that is shorter."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._totals: deque[tuple[float, float]] = deque([(0.0, 0.0)])

    def add(self, now_s: float, total: float) -> float:
        """Take the counter's value and return the mean."""
        totals = self._totals
        totals.append((now_s, total))
        while len(totals) > 2 and totals[1][0] <= now_s - self._window_s:
            totals.popleft()
        since_s, before = totals[0]
        return (total - before) / (now_s - since_s) if now_s > since_s else 0.0


class HighestOver:
    """The highest value of the last `window_s` seconds, both ends included."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._falling: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, value: float) -> float:
        falling = self._falling
        while falling and falling[-1][1] <= value:
            falling.pop()
        falling.append((now_s, value))
        while falling[0][0] < now_s - self._window_s:
            falling.popleft()
        return falling[0][1]
