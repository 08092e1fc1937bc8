"""An event loop whose clock jumps.

Code under simulation uses plain asyncio: sleep, timeout, call_later. When every task waits, the clock moves at once to the next
timer, so that hours pass in milliseconds and no order depends on how fast the machine is. If every task waits and no timer
is set, nothing can ever happen again: that is a deadlock, and raised as one.

Limits: no real sockets, processes or threads inside; their answers would come after the clock has jumped.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Every task waits for another, and no timer is set."""


class _JumpingSelector(selectors.DefaultSelector):
    """Waits in virtual time: a wait that would block moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Deadlock("every task waits and no timer is set")
        if not ready and timeout is not None and timeout > 0:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # asyncio runs a timer that is due within the clock's resolution. Ours must stay above the precision of a float of
        # many years in seconds, or a timer that is due now would be put off for ever.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._jumping.now_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time, from second 0. Raises what it raises, and Deadlock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def wall_clock(started_at: float) -> Callable[[], float]:
    """A `now` for services under simulation: unix seconds that began at `started_at` with the loop. Call it inside the loop."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    return lambda: started_at + loop.time() - begun_s
