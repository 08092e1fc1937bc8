"""The services of a simulated world as processes: each has a connection of its own, and may be killed or stopped at any moment.

A crash takes the connection first and everything the process knew with it: what it does on its way out reaches nobody. Whoever
ends by itself is started again, as a supervisor would; unless it was the bus that ended it, that is a defect and is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from runtime.errors import BusError
from sim.broker import Broker
from sim.bus import MemoryBus

RESTART_S = 1.0


class Service(Protocol):
    async def run(self) -> None: ...


S = TypeVar("S", bound=Service)


class Participant(Generic[S]):
    """One process. `make(bus, life)` builds the service; `life` counts its starts from 1."""

    def __init__(self, broker: Broker, name: str, make: Callable[[MemoryBus, int], S], on_defect: Callable[[str], None]) -> None:
        self.name = name
        self.life = 0
        self.crashes = 0
        self.ended_by_bus = 0
        self.bus: MemoryBus | None = None
        self.service: S | None = None  #: None while it is down
        self.on_down: list[Callable[[], object]] = []  #: whoever talks to it is cut off
        self._broker = broker
        self._make = make
        self._on_defect = on_defect
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return self.service is not None

    def start(self) -> None:
        """Raises RuntimeError when it runs."""
        if self._task is not None:
            raise RuntimeError(f"{self.name} runs already")
        self.life += 1
        self.bus = MemoryBus(self._broker, self.name)
        self.service = self._make(self.bus, self.life)
        self._task = asyncio.get_running_loop().create_task(self.service.run(), name=self.name)
        self._task.add_done_callback(self._ended)

    async def crash(self) -> None:
        """SIGKILL."""
        if self.bus is not None:
            self.crashes += 1
            self.bus.cut()
            await self._down()

    async def stop(self) -> None:
        """SIGTERM: it may say goodbye."""
        await self._down()

    async def crash_for(self, down_s: float) -> None:
        await self.crash()
        await asyncio.sleep(down_s)
        if not self.up:
            self.start()

    async def _down(self) -> None:
        task, bus = self._task, self.bus
        self._task = self.service = self.bus = None
        for hear in list(self.on_down):
            hear()
        if task is not None:
            task.remove_done_callback(self._ended)
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, Exception) and not isinstance(result, BusError):
                self._on_defect(f"{self.name} did not end well: {result!r}")
        if bus is not None:
            await bus.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """By itself."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, BusError):
            self.ended_by_bus += 1
        else:
            self._on_defect(f"{self.name} ended by itself: {error!r}")
        self._task = None
        asyncio.get_running_loop().create_task(self._again(), name=f"{self.name} again")

    async def _again(self) -> None:
        await self._down()
        await asyncio.sleep(RESTART_S)
        if not self.up:
            self.start()
