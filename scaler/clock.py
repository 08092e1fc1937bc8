"""Unix time that passes evenly: what is measured by it must not take a clock that somebody sets for time that passed.

It follows the wall clock through small corrections forwards and never goes back. When the wall clock is set by more than that, it goes on by
the monotonic one until it is told to follow (`step`); whoever tells it so moves along all that was measured before.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Wall and monotonic time that part by more than this: the clock was set.
STEP_S = 3.0


def since_boot() -> float:
    """Monotonic seconds that go on while the machine sleeps, where the system counts them: a sleep is time that passed."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class SteadyClock:
    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._at = wall()
        self._ticks = monotonic()

    def __call__(self) -> float:
        """Unix seconds."""
        ticks, wall = self._monotonic(), self._wall()
        at = self._at + ticks - self._ticks
        self._at = wall if at < wall <= at + STEP_S else at
        self._ticks = ticks
        return self._at

    def step(self) -> float:
        """Follow the wall clock to where it was set; by how many seconds, 0.0 when it was not. Negative: backwards."""
        at = self()
        by_s = self._wall() - at
        if abs(by_s) <= STEP_S:
            return 0.0
        self._at = at + by_s
        return by_s
