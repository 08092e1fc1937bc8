"""Limits on the phases of one request, cheap enough to be told of every chunk.

`asyncio.timeout` would cost a new timer per chunk. Here a chunk only notes the time; one timer per request looks at the notes when
it fires and goes off again for the rest.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Expired(Exception):
    """A limit was reached; `phase` says which."""

    def __init__(self, phase: str, limit_s: float) -> None:
        super().__init__(f"{phase} took longer than {limit_s:g} s")
        self.phase = phase
        self.limit_s = limit_s


class Stopwatch:
    """`with Stopwatch(total_s) as watch:` inside a task. Raises Expired out of the block when a limit is reached."""

    __slots__ = (
        "_cancelling",
        "_handle",
        "_limit_s",
        "_loop",
        "_phase",
        "_since",
        "_started",
        "_task",
        "_total_s",
        "beat_at",
        "expired",
    )

    def __init__(self, total_s: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._total_s = total_s
        self._phase = ""
        self._limit_s: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self.expired: Expired | None = None
        self.beat_at = 0.0  #: loop time of the last beat

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._started = self._since = self._loop.time()
        self._arm()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self.expired is not None and self._task.uncancel() <= self._cancelling and kind is not None:
            raise self.expired from error

    def phase(self, name: str, limit_s: float | None) -> None:
        """From now on this is being done, with this limit between two touches."""
        self._phase = name
        self._limit_s = limit_s
        self._since = self._loop.time()
        self._arm()

    def touch(self) -> None:
        """Something moved: the limit of the phase starts again."""
        self._since = self._loop.time()

    def beat(self) -> None:
        """The model moved; also noted in `beat_at`."""
        self._since = self.beat_at = self._loop.time()

    def _due(self) -> tuple[float, str, float] | None:
        due = None
        if self._limit_s is not None:
            due = (self._since + self._limit_s, self._phase, self._limit_s)
        if self._total_s is not None and (due is None or self._started + self._total_s < due[0]):
            due = (self._started + self._total_s, "the whole request", self._total_s)
        return due

    def _arm(self) -> None:
        due = self._due()
        if due is None:
            return  # an armed timer may stay: it looks again when it fires
        if self._handle is not None:
            if self._handle.when() <= due[0] and not self._handle.cancelled():
                return
            self._handle.cancel()
        self._handle = self._loop.call_at(due[0], self._fire)

    def _fire(self) -> None:
        self._handle = None
        due = self._due()
        if due is None:
            return
        if self._loop.time() < due[0]:
            self._arm()
            return
        self.expired = Expired(due[1], due[2])
        self._task.cancel()
