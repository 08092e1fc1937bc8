"""Events on their way to CORRAL_EVENTS, in order. Their ids make a repeat harmless, so each is tried until it is stored or refused."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from runtime.bus import Bus
from runtime.errors import BusError, BusRefused
from schemas import codec, subjects
from schemas.events import AnyEvent, kind_of

from .metrics import Metrics

log = structlog.get_logger()

_MOST = 10_000
_RETRY_S = 0.5


class Outbox:
    """tell() never waits; run() sends until cancelled."""

    def __init__(self, bus: Bus, metrics: Metrics) -> None:
        self._bus = bus
        self._metrics = metrics
        self._waiting: deque[AnyEvent] = deque()
        self._news = asyncio.Event()

    def tell(self, event: AnyEvent) -> None:
        """Queue it. When the bus was away so long that the queue is full, the oldest is given up, and counted."""
        if len(self._waiting) >= _MOST:
            self.give_up(self._waiting.popleft(), "the queue is full")
        self._waiting.append(event)
        self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                event = self._waiting[0]
                try:
                    await self.send(event)
                except BusRefused as error:
                    self.give_up(event, error.message)  # no repeat will be taken either, and others wait behind it
                except BusError as error:
                    log.warning("event_delayed", id=event.id, error=error.message, waiting=len(self._waiting))
                    await asyncio.sleep(_RETRY_S)
                    continue
                if self._waiting and self._waiting[0] is event:
                    self._waiting.popleft()

    async def flush(self, within_s: float) -> None:
        """Send what is queued, as far as the time allows: the last words of a reign."""
        try:
            async with asyncio.timeout(within_s):
                while self._waiting:
                    await self.send(self._waiting[0])
                    self._waiting.popleft()
        except (BusError, TimeoutError):
            log.warning("events_left_unsent", events=len(self._waiting))

    def give_up(self, event: AnyEvent, reason: str) -> None:
        """It will never be told."""
        self._metrics.events_lost.inc()
        log.error("event_given_up", id=event.id, kind=kind_of(event), reason=reason)

    async def send(self, event: AnyEvent) -> None:
        """Send it now. Raises BusError."""
        await self._bus.append(subjects.event(kind_of(event), event.endpoint_id), codec.encode(event), msg_id=event.id)
