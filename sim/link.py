"""One participant's connection to a simulated broker, and what the weather does to messages on it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from runtime.bus import Message
from runtime.errors import BusUnavailable

from .broker import Broker


class Link:
    """One participant's connection."""

    def __init__(self, broker: Broker, name: str) -> None:
        """Raises ValueError when somebody of that name is connected already."""
        if name in broker.links:
            raise ValueError(f"{name} is connected already; names are unique among the live")
        self.name = name
        self.broker = broker
        self.cut = False
        self.closed = False
        self.on_change: list[Callable[[], None]] = []
        broker.links[name] = self

    @property
    def connected(self) -> bool:
        return self.broker.up and not self.cut and not self.closed

    def changed(self) -> None:
        for listener in list(self.on_change):
            listener()

    def check(self) -> None:
        """Raises BusUnavailable when not connected."""
        if not self.connected:
            raise BusUnavailable(f"{self.name} is not connected")

    async def travel(self) -> None:
        """A message on its way. Raises BusUnavailable when the connection is lost before it arrives."""
        self.check()
        await asyncio.sleep(self.broker.weather.delay())
        self.check()

    def confirm(self, what: str) -> None:
        """The answer to a write on its way back. Raises BusUnavailable when it is lost."""
        if self.broker.weather.loses_reply():
            raise BusUnavailable(f"{what}: no answer; whether it took effect is unknown")


class Pipe:
    """Delays messages to one receiver without changing their order."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free_s = 0.0
        self._on_the_way: deque[Callable[[], None]] = deque()

    def send(self, deliver: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        now_s, delay_s = loop.time(), self._link.broker.weather.delay()
        # Timers that are due at the same moment run in any order, so each delivers whatever has waited longest.
        self._on_the_way.append(deliver)
        if delay_s <= 0 and self._free_s <= now_s:
            loop.call_soon(self._deliver_one)
            return
        self._free_s = max(self._free_s, now_s + delay_s)
        loop.call_at(self._free_s, self._deliver_one)

    def _deliver_one(self) -> None:
        self._on_the_way.popleft()()


class Subscription:
    """See runtime.bus.Subscription."""

    def __init__(self, link: Link, pattern: str, on_message: Callable[[Message], None]) -> None:
        self.pattern = pattern
        self.link = link
        self._on_message = on_message
        self._pipe = Pipe(link)
        self._live = True
        link.broker.subscriptions.append(self)

    def send(self, message: Message) -> None:
        weather = self.link.broker.weather
        if self.link.connected and not weather.loses():
            for _ in range(2 if weather.duplicates() else 1):
                self._pipe.send(lambda: self._deliver(message))

    def _deliver(self, message: Message) -> None:
        if self._live and self.link.connected:
            self._on_message(message)

    async def stop(self) -> None:
        self._live = False
        if self in self.link.broker.subscriptions:
            self.link.broker.subscriptions.remove(self)


class Responder:
    """Answers requests on a subject. See runtime.bus.Subscription."""

    def __init__(self, link: Link, pattern: str, answer: Callable[[Message], Awaitable[bytes]]) -> None:
        self.pattern = pattern
        self.link = link
        self.answer = answer
        link.broker.responders.append(self)

    async def stop(self) -> None:
        if self in self.link.broker.responders:
            self.link.broker.responders.remove(self)
