"""Unix time that never goes back: what is folded and compared must not be undone by a corrected clock.

It follows the wall clock when that is ahead (after a suspend, after a correction forwards) and the monotonic one when the wall
clock was set back.
"""

from __future__ import annotations

from collections.abc import Callable


class SteadyClock:
    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._at = wall()
        self._ticks = monotonic()

    def __call__(self) -> float:
        """Unix seconds."""
        ticks = self._monotonic()
        self._at = max(self._wall(), self._at + ticks - self._ticks)
        self._ticks = ticks
        return self._at
