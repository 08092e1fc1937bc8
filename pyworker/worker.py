"""The public face: `Worker(WorkerConfig(...)).run()`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from . import config as configuration
from . import logs, settings
from .agent import Agent
from .config import WorkerConfig
from .errors import WorkerError
from .settings import WorkerSettings


class Worker:
    """One worker process beside one model server.

    Raises ConfigError at once when the configuration contradicts itself. The environment is read when it runs.
    """

    runs: ClassVar[int] = 0  #: how many workers this process has run; `python -m pyworker` asks

    def __init__(
        self,
        config: WorkerConfig,
        *,
        environ: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        configuration.check(config)
        self.config = config
        self._environ = os.environ if environ is None else environ
        self._now = now
        self._monotonic = monotonic

    def settings(self) -> WorkerSettings:
        """Raises SettingsError."""
        return settings.load(self._environ)

    def run(self, host: str | None = None) -> None:
        """Run until SIGTERM, SIGINT or an order to stop; then finish what is in flight. Ends the process with status 2 when
        the environment or the port is wrong, after saying what to do. `host` goes before PYWORKER_HOST.
        """
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self.run_async(host))
        except WorkerError as error:
            print(f"pyworker: {error}", file=sys.stderr)
            raise SystemExit(2) from error

    async def run_async(self, host: str | None = None) -> None:
        """The same inside a running event loop. Raises SettingsError, PortTaken."""
        Worker.runs += 1
        own = self.settings()
        logs.setup(
            level=self._environ.get("CORRAL_LOG_LEVEL", "info"), worker=own.bundle.worker_id, endpoint=int(own.bundle.endpoint_id)
        )
        agent = self.agent(own)
        with _signals(agent.leave):
            try:
                await agent.run(host)
            except* WorkerError as group:
                raise _first(group) from None

    def agent(self, own: WorkerSettings) -> Agent:
        """The parts of one run, for tests and for applications that drive a worker themselves. Needs a running loop."""
        return Agent(self.config, own, environ=self._environ, now=self._now, monotonic=self._monotonic)


@contextlib.contextmanager
def _signals(leave: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    caught = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not in the main thread, or not on this platform: then whoever runs us cancels us.
        with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):
            loop.add_signal_handler(number, leave)
            caught.append(number)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


def _first(group: BaseExceptionGroup[WorkerError]) -> WorkerError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, WorkerError)
    return found


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
