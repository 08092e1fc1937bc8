"""An event loop whose clock jumps.

Code under simulation uses plain asyncio: sleep, timeout, call_later. When every task waits, the clock moves at once to the next
timer, so that hours pass in milliseconds and no order depends on how fast the machine is. If every task waits and no timer
is set, nothing can ever happen again: that is a deadlock, and raised as one.

`grain_s` makes long stories cheap. With a grain, timers that are set for a while ahead fire on its next multiple, many at once, as
on a machine whose scheduler is that late; timers of a moment (messages on their way) stay exact.

Limits: no real sockets, processes or threads inside; their answers would come after the clock has jumped.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: A timer that is due sooner than this is exact, whatever the grain.
MOMENT_S = 0.2
#: asyncio runs a timer that is due within the clock's resolution. Ours must stay above the precision of a float of many years in
#: seconds, or a timer that is due now would be put off for ever.
_RESOLUTION_S = 1e-6
#: So many rounds without time passing are a loop without end.
_MOST_ROUNDS = 100_000


class Deadlock(RuntimeError):
    """Every task waits for another, and no timer is set."""


class Livelock(RuntimeError):
    """Tasks wake each other for ever, and no time passes."""


class _JumpingSelector(selectors.SelectSelector):
    """Waits in virtual time: a wait that would block moves the clock instead. Nothing outside is ever looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("every task waits and no timer is set")
        self._rounds += 1
        if timeout > 0:
            self.now_s += timeout
            self._rounds = 0
        elif self._rounds > _MOST_ROUNDS:
            raise Livelock(f"{_MOST_ROUNDS} rounds at {self.now_s:.6f} s")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self.grain_s = 0.0  #: 0: every timer is exact; may be changed at any time, for timers set from then on
        super().__init__(self._jumping)
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        return self._jumping.now_s

    def call_at(  # type: ignore[override]  # the base's is generic
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        ahead_s = when - self._jumping.now_s
        if self.grain_s > 0 and ahead_s >= MOMENT_S:
            when = math.ceil(when / self.grain_s - 1e-9) * self.grain_s
        return super().call_at(when, callback, *args, context=context)

    def call_later(  # type: ignore[override]  # the base's is generic
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        # However short, a wait takes time: whoever waits for the rest of a float would do so for ever.
        return super().call_later(max(delay, 2 * _RESOLUTION_S) if delay > 0 else delay, callback, *args, context=context)

    def call_exactly_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> asyncio.TimerHandle:
        """Not a machine's timer but the world's: when something happens, however coarse the grain."""
        return super().call_at(when, callback, *args)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time, from second 0. Raises what it raises, and Deadlock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def virtual_loop() -> VirtualLoop:
    """The running one. Raises RuntimeError outside of virtual time."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError("not in virtual time: use run_virtual()")  # noqa: TRY004 -- it is no argument
    return loop


async def exactly(delay_s: float) -> None:
    """Sleep so long, however coarse the grain."""
    loop = virtual_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    handle = loop.call_exactly_at(loop.time() + max(delay_s, 0.0), _wake, waiter)
    try:
        await waiter
    finally:
        handle.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def wall_clock(started_at: float) -> Callable[[], float]:
    """A `now` for services under simulation: unix seconds that began at `started_at` with the loop. Call it inside the loop."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    return lambda: started_at + loop.time() - begun_s
