"""One supervised process: started, logged, started again when it dies, stopped when asked.

start -> runs -> (died) -> pause -> start ...            the pause doubles from 0.2 s to 10 s, and begins anew after 30 good seconds
          |
          +---- stop() -> SIGTERM -> (stop_timeout_s) -> SIGKILL
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from corral.errors import StartError
from corral.sse import LineSplitter

from .log import BoundedLog, tail

_PAUSE_S = (0.2, 10.0)
_GOOD_S = 30.0
_MAX_HEARD = 500


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `env` is the whole environment."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stop_timeout_s: float = 10.0
    chatty: bool = False  #: its log is listened to all its life, not only until it is settled
    patience: int = 3  #: early deaths during start-up before we call it hopeless


def _ignore(_child: Child, _event: Mapping[str, Any]) -> None:
    pass


class Child:
    """`run()` keeps it alive until `stop()`. `on_change(child)` is told after each start and each death, `on_event` each line of
    its JSON log (only until it is settled, unless it is chatty); `said(event)` waits for one.
    """

    def __init__(
        self,
        spec: Spec,
        log: BoundedLog,
        on_change: Callable[[Child], None],
        on_event: Callable[[Child, Mapping[str, Any]], None] = _ignore,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.log = log
        self._on_change = on_change
        self._on_event = on_event
        self._now = now
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.restarts = 0
        self.ended = ""  #: how it ended last, in words
        self._heard: dict[str, dict[str, Any]] = {}
        self._news = asyncio.Event()
        self.settled = False  #: set by the supervisor once it was ready: from then on it is never given up

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> None:
        """Returns after stop(). Raises StartError when it cannot be started, or keeps dying before it was ever ready."""
        pause_s, early = _PAUSE_S[0], 0
        while not self._stopping.is_set():
            started = self._now()
            process = await self._start()
            code = await self._follow(process)
            lived_s = self._now() - started
            self.ended = f"{_in_words(code)} after {lived_s:.0f} s"
            if self._stopping.is_set():
                break
            early = early + 1 if lived_s < _GOOD_S else 0
            if not self.settled and early >= self.spec.patience:
                raise StartError(
                    f"{self.spec.name} does not start: {_in_words(code)}, {early} times. Its last words:\n{tail(self.log.path)}",
                    f"the whole log is {self.log.path}",
                )
            pause_s = min(pause_s * 2, _PAUSE_S[1]) if early > 1 else _PAUSE_S[0]
            self.restarts += 1
            self._on_change(self)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def said(self, event: str) -> dict[str, Any]:
        """A line of its log with this event, since it was started last; the newest when there are several."""
        while event not in self._heard:
            self._news.clear()
            await self._news.wait()
        return self._heard[event]

    async def run_once(self) -> None:
        """Run it to its end. Raises StartError when that is not a good one."""
        code = await self._follow(await self._start())
        if code != 0:
            raise StartError(
                f"{self.spec.name} {_in_words(code)}. Its last words:\n{tail(self.log.path)}", f"the whole log is {self.log.path}"
            )

    async def stop(self) -> bool:
        """Ask it to end and wait; whether it did so by itself. Harmless when it is not running."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return True
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self.spec.stop_timeout_s)
        except TimeoutError:
            self.kill()
            await process.wait()
            return False
        return True

    def kill(self) -> None:
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                env=dict(self.spec.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is ours to hand on, in order
            )
        except OSError as error:
            raise StartError(f"cannot start {self.spec.name}: {error}", f"tried: {' '.join(self.spec.argv[:4])}") from error
        self._process = process
        self._heard.clear()
        self._on_change(self)
        return process

    async def _follow(self, process: asyncio.subprocess.Process) -> int:
        """Its output into its log until it ends."""
        assert process.stdout is not None
        copy = asyncio.ensure_future(self._copy(process.stdout))
        try:
            code = await process.wait()
            # Whoever inherited its output may hold it open; what is there now is enough.
            await asyncio.wait({copy}, timeout=0.5)
            return code
        finally:
            copy.cancel()

    async def _copy(self, output: asyncio.StreamReader) -> None:
        lines = LineSplitter()
        while piece := await output.read(65536):
            self.log.write(piece)
            if self.spec.chatty or not self.settled:
                try:
                    heard = lines.feed(piece)
                except ValueError:  # a line without end: it is in the log, and no event
                    lines, heard = LineSplitter(), []
                for line in heard:
                    self._hear(line)

    def _hear(self, line: bytes) -> None:
        try:
            said = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            return  # not a line of our log: a traceback, or a library that prints
        event = said.get("event")
        if isinstance(event, str) and len(self._heard) < _MAX_HEARD:
            self._heard[event] = said
            self._news.set()
            self._on_event(self, said)


def _in_words(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
