"""Pulling from a work queue of a simulated broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from runtime.errors import BusError

from .broker import BACKOFF_S, MAX_DELIVERIES, Durable, Stored, Stream
from .link import Link

log = structlog.get_logger()


class MemoryDelivery:
    """See runtime.bus.Delivery."""

    def __init__(self, link: Link, stream: Stream, consumer: Durable, stored: Stored, deliveries: int) -> None:
        self.subject = stored.subject
        self.data = stored.data
        self.seq = stored.seq
        self.deliveries = deliveries
        self._link = link
        self._stream = stream
        self._consumer = consumer

    async def ack(self) -> None:
        await self._link.travel()
        self._stream.remove(self.seq)
        self._link.confirm("acknowledgement")

    async def retry(self, delay_s: float) -> None:
        await self._link.travel()
        self._due_in(delay_s)

    async def term(self, reason: str) -> None:  # noqa: ARG002 -- a real server tells it in an advisory
        await self.ack()

    async def working(self) -> None:
        await self._link.travel()
        self._due_in(_ack_wait_s(self.deliveries))

    def _due_in(self, delay_s: float) -> None:
        if self.seq in self._consumer.due_s:
            self._consumer.due_s[self.seq] = asyncio.get_running_loop().time() + delay_s
            self._consumer.changed.set()


def _ack_wait_s(deliveries: int) -> float:
    return BACKOFF_S[min(deliveries, len(BACKOFF_S)) - 1]


class Puller:
    """One participant that works on a durable consumer."""

    def __init__(self, link: Link, stream: str, durable: str) -> None:
        """Raises StreamMissing."""
        self._link = link
        self._stream = link.broker.stream(stream)
        self._consumer = self._stream.durable(durable)

    async def run(self, handle: Callable[[MemoryDelivery], Awaitable[None]], concurrency: int) -> None:
        """Until cancelled."""
        hands = asyncio.Semaphore(concurrency)
        wake = self._consumer.changed.set
        self._link.on_change.append(wake)
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await hands.acquire()
                    delivery = await self._next()
                    tasks.create_task(self._handle(handle, delivery, hands))
                    if self._link.broker.weather.duplicates() and not hands.locked():
                        await hands.acquire()
                        tasks.create_task(self._handle(handle, delivery, hands))
        finally:
            self._link.on_change.remove(wake)

    async def _handle(
        self, handle: Callable[[MemoryDelivery], Awaitable[None]], delivery: MemoryDelivery, hands: asyncio.Semaphore
    ) -> None:
        try:
            await asyncio.sleep(self._link.broker.weather.delay())
            await handle(delivery)
        except BusError as error:
            log.warning("work_interrupted", subject=delivery.subject, error=error.message)
        except Exception:
            log.exception("handler_failed", subject=delivery.subject, deliveries=delivery.deliveries)
        finally:
            hands.release()

    async def _next(self) -> MemoryDelivery:
        loop = asyncio.get_running_loop()
        while True:
            self._consumer.changed.clear()
            ready = self._ready(loop.time()) if self._link.connected else None
            if ready is not None:
                return ready
            next_due_s = min(self._consumer.due_s.values(), default=None) if self._link.connected else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_due_s):
                    await self._consumer.changed.wait()

    def _ready(self, now_s: float) -> MemoryDelivery | None:
        consumer = self._consumer
        self._stream.forget(self._link.broker.now())
        for seq, due_s in sorted(consumer.due_s.items()):
            if due_s > now_s:
                continue
            stored, deliveries = self._stream.messages[seq], consumer.deliveries.get(seq, 0) + 1
            if deliveries > MAX_DELIVERIES:
                self._link.broker.bury(self._stream, stored, MAX_DELIVERIES)
                continue
            consumer.deliveries[seq] = deliveries
            consumer.due_s[seq] = now_s + _ack_wait_s(deliveries)
            return MemoryDelivery(self._link, self._stream, consumer, stored, deliveries)
        return None
