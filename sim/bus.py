"""runtime.bus.Bus in memory: the same promises and errors, on a simulated broker.

    broker = Broker(Weather(delay_s=(0.001, 0.2), lost=0.05))
    router, scaler = MemoryBus(broker, "router-1"), MemoryBus(broker, "scaler-1")

What the network may do to messages is in the broker's `weather`; `cut` takes one participant's connection away until `heal`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from runtime.bus import Appended, Bus, Delivery, Message, OnChange, View
from runtime.errors import BusUnavailable

from .broker import Broker, Stored, matches
from .bucket import MemoryBucket, MemoryView
from .link import Link, Responder, Subscription
from .work_queue import Puller

_APPEND_TRIES = 3


class MemoryBus:
    def __init__(self, broker: Broker, name: str) -> None:
        """Raises ValueError when somebody of that name is connected already."""
        self.name = name
        self._broker = broker
        self._link = Link(broker, name)

    @property
    def connected(self) -> bool:
        return self._link.connected

    def cut(self) -> None:
        """Take the connection away."""
        self._link.cut = True
        self._link.changed()

    def heal(self) -> None:
        self._link.cut = False
        self._link.changed()

    # --- core --------------------------------------------------------------------------------------------------------

    async def publish(self, subject: str, data: bytes) -> None:
        self.publish_now(subject, data)

    def publish_now(self, subject: str, data: bytes) -> None:
        """As publish(), for callers that are no coroutine."""
        self._link.check()
        for subscription in list(self._broker.subscriptions):
            if matches(subscription.pattern, subject):
                subscription.send(Message(subject, data))

    async def subscribe(self, subject: str, on_message: Callable[[Message], None]) -> Subscription:
        self._link.check()
        return Subscription(self._link, subject, on_message)

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        self._link.check()
        unanswered = BusUnavailable(f"nobody answered on {subject} within {timeout_s:g} s")
        try:
            async with asyncio.timeout(timeout_s):
                await self._link.travel()
                if self._broker.weather.loses():
                    await asyncio.sleep(timeout_s)
                responder = self._responder(subject)
                if responder is None:
                    raise unanswered
                answer = await responder.answer(Message(subject, data))
                await self._link.travel()
                return answer
        except TimeoutError:
            raise unanswered from None

    def _responder(self, subject: str) -> Responder | None:
        live = (one for one in self._broker.responders if one.link.connected and matches(one.pattern, subject))
        return next(live, None)

    async def respond(self, subject: str, answer: Callable[[Message], Awaitable[bytes]]) -> Responder:
        self._link.check()
        return Responder(self._link, subject, answer)

    # --- streams -----------------------------------------------------------------------------------------------------

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        msg_id: str,
        ttl_s: int | None = None,  # noqa: ARG002 -- a simulated stream forgets by age alone
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> Appended:
        stream = self._broker.stream_for(subject)
        for _ in range(_APPEND_TRIES):
            await self._link.travel()
            seq, duplicate = stream.append(subject, data, msg_id, self._broker.now())
            if not self._broker.weather.loses_reply():
                return Appended(seq, duplicate)
            await asyncio.sleep(1.0)
        raise BusUnavailable(f"{subject}: no answer; whether it is stored is unknown")

    async def work(
        self, stream: str, durable: str, handle: Callable[[Delivery], Awaitable[None]], *, concurrency: int = 8
    ) -> None:
        await Puller(self._link, stream, durable).run(handle, concurrency)

    async def tail(
        self,
        stream: str,
        subjects: Sequence[str],
        on_message: Callable[[str, bytes, int], None],
        *,
        since_at: float | None = None,
        room: Callable[[], Awaitable[None]] | None = None,
        caught_up: Callable[[], None] | None = None,
    ) -> None:
        source = self._broker.stream(stream)
        last = source.last_seq if since_at is None else 0
        news = asyncio.Event()

        def wake(_: Stored | None = None) -> None:
            news.set()

        source.listeners.append(wake)
        self._link.on_change.append(wake)
        try:
            while True:
                news.clear()
                for stored in source.after(last) if self.connected else ():
                    last = stored.seq
                    if (since_at is None or stored.at >= since_at) and any(matches(one, stored.subject) for one in subjects):
                        on_message(stored.subject, stored.data, stored.seq)
                        if room is not None:
                            await room()
                if caught_up is not None and self.connected:
                    caught_up()
                await news.wait()
                await asyncio.sleep(self._broker.weather.delay())
        finally:
            source.listeners.remove(wake)
            self._link.on_change.remove(wake)

    # --- buckets -----------------------------------------------------------------------------------------------------

    def bucket(self, name: str) -> MemoryBucket:
        return MemoryBucket(self._link, name)

    @contextlib.asynccontextmanager
    async def view(self, name: str, on_change: OnChange | None = None) -> AsyncIterator[View]:
        view = MemoryView(self._link, name, on_change)
        view.open()
        try:
            yield view
        finally:
            view.close()

    async def close(self) -> None:
        """Leaves: what it subscribed to is gone, its name is free again."""
        self._link.closed = True
        self._link.changed()
        self._broker.leave(self._link)


if TYPE_CHECKING:

    def _keeps_the_promises_of_a_bus(bus: MemoryBus) -> Bus:
        return bus
