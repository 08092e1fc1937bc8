"""Is the model there? Before it is ready: until it is. Afterwards: until it is not.

What counts as loaded, in this order: the health URL answers 200; without one, an `on_load` line in the log together with an open
port; without either, an open port. A line alone never does: it may be from yesterday. The benchmark then asks a real question.

What counts as gone: our child ended; the port refuses; GONE_AFTER probes in a row failed while no request got anywhere; or STUCK_AFTER
requests in a row got no first byte in time, whatever the probe says. A model that is too busy to answer a probe but goes on answering
requests is alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import aiohttp
import structlog
from yarl import URL

from . import causes
from .config import WorkerConfig
from .errors import ModelFailed
from .load import Load
from .logtail import LogTail
from .process import ModelProcess
from .pulse import Pulse
from .wire import reasons, records

log = structlog.get_logger()

Cause, Phase = reasons.Cause, reasons.Phase

LOADING_TICK_S = 0.1
PROBE_TIMEOUT_S = 5.0
GONE_AFTER = 3
STUCK_AFTER = 3
_LOG_TICK_S = 1.0


class Health(Enum):
    UP = "up"
    DOWN = "down"  #: the port refuses
    UNWELL = "unwell"  #: an answer other than 200
    SILENT = "silent"  #: no answer in time


class Backend:
    """One model server, ours or somebody else's. `close()` ends ours."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        base_url: str,
        process: ModelProcess | None,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        load: Load,
        pulse: Pulse,
    ) -> None:
        self._config = config
        self._url = URL(base_url)
        self._process = process
        self._now = now
        self._monotonic = monotonic
        self._load = load
        self._pulse = pulse
        path = Path(config.model_log_file) if config.model_log_file else (process.log_path if process else None)
        self._tail = LogTail(path) if path is not None else None
        self._look = asyncio.Event()
        self._seen_load_line = False
        health = config.healthcheck()
        self._health_url = None if health is None else (URL(health) if "://" in health else self._url.join(URL(health)))

    def look_now(self) -> None:
        """A request had trouble: do not wait for the next probe."""
        self._look.set()

    async def start(self) -> None:
        """Raises ModelFailed when the child cannot be started."""
        if self._process is None:
            return
        try:
            await self._process.start()
        except OSError as error:
            raise ModelFailed(
                self._failure(Cause.START_CRASH, f"the model command cannot be run: {error}", Phase.MODEL)
            ) from error

    async def close(self) -> None:
        if self._process is not None:
            await self._process.stop(self._config.model_stop_timeout_s)
        if self._tail is not None:
            self._tail.close()

    @property
    def can_come_back(self) -> bool:
        """A server that somebody else runs may return; our child does not."""
        return self._process is None

    async def wait_loaded(self) -> None:
        """Raises ModelFailed: crashed, said so in its log, or took longer than model_start_timeout_s."""
        deadline = self._monotonic() + self._config.model_start_timeout_s
        while True:
            self._look.clear()
            self._raise_if_ended(Phase.MODEL)
            self._read_log(loading=True)
            if await self._is_loaded():
                return
            if self._monotonic() > deadline:
                message = f"the model was not loaded after {self._config.model_start_timeout_s:g} s"
                raise ModelFailed(self._failure(Cause.HANG, message, Phase.MODEL))
            await self._pause(LOADING_TICK_S)

    async def watch(self) -> None:
        """Runs while the model is well; raises ModelFailed when it is gone."""
        failed = 0
        self._pulse.timeouts_in_a_row = 0
        next_probe_at = self._monotonic()
        while True:
            asked = self._look.is_set()
            self._look.clear()
            self._raise_if_ended(Phase.SERVE)
            self._read_log(loading=False)
            if self._process is not None:
                self._process.trim_log()
            if self._pulse.timeouts_in_a_row >= STUCK_AFTER:
                message = f"{STUCK_AFTER} requests in a row got no answer in time"
                raise ModelFailed(self._failure(Cause.HANG, message, Phase.SERVE))
            if asked or self._monotonic() >= next_probe_at:
                health = await self.probe()
                next_probe_at = self._monotonic() + self._config.health_interval_s
                failed = 0 if health is Health.UP or self._got_somewhere() else failed + 1
                if health is Health.DOWN or failed >= GONE_AFTER:
                    raise await self._gone(health)
            await self._pause(min(_LOG_TICK_S, self._config.health_interval_s))

    async def wait_back(self) -> None:
        """Until a server that went away answers again."""
        while await self.probe() is not Health.UP:
            self._look.clear()
            await self._pause(self._config.health_interval_s)

    async def probe(self) -> Health:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if self._health_url is None:
                    _, writer = await asyncio.open_connection(self._url.host, self._url.port)
                    writer.close()
                    return Health.UP
                async with aiohttp.ClientSession() as session, session.get(self._health_url, allow_redirects=False) as reply:
                    return Health.UP if reply.status == 200 else Health.UNWELL
        except TimeoutError:
            return Health.SILENT
        except (ConnectionRefusedError, aiohttp.ClientConnectorError):
            return Health.DOWN
        except (OSError, aiohttp.ClientError):
            return Health.UNWELL

    async def _is_loaded(self) -> bool:
        waits_for_line = self._health_url is None and self._tail is not None and bool(self._config.log_action_config.on_load)
        if waits_for_line and not self._seen_load_line:
            return False
        return await self.probe() is Health.UP

    def _read_log(self, *, loading: bool) -> None:
        """Raises ModelFailed for an on_error line while loading. Matching lines are named by their pattern, never quoted."""
        if self._tail is None:
            return
        actions = self._config.log_action_config
        for line in self._tail.lines():
            if any(text in line for text in actions.on_load):
                self._seen_load_line = True
            for text in actions.on_info:
                if text in line:
                    log.info("model_log_info", pattern=text)
            for text in actions.on_error:
                if text in line:
                    log.warning("model_log_error", pattern=text, loading=loading)
                    if loading:
                        cause = causes.classify(line)
                        raise ModelFailed(self._failure(cause, f"the model's log says {text!r} (on_error)", Phase.MODEL))

    def _raise_if_ended(self, phase: reasons.Phase) -> None:
        if self._process is not None and self._process.status is not None:
            status = self._process.status
            cause = causes.classify(self._process.last_words(), status)
            raise ModelFailed(self._failure(cause, f"the model server {causes.describe_exit(status)}", phase))

    async def _gone(self, health: Health) -> ModelFailed:
        if self._process is not None:
            # The port closes a moment before the process is gone; its exit status is the better cause.
            await asyncio.wait({self._process.exited}, timeout=1.0)
            try:
                self._raise_if_ended(Phase.SERVE)
            except ModelFailed as failed:
                return failed
        if health is Health.DOWN:
            return ModelFailed(self._failure(Cause.START_CRASH, "the model server no longer accepts connections", Phase.SERVE))
        return ModelFailed(
            self._failure(Cause.HANG, f"the model server is {health.value}: {GONE_AFTER} probes in a row failed", Phase.SERVE)
        )

    def _got_somewhere(self) -> bool:
        """Requests are moving, so the model is only too busy for the probe."""
        return self._load.inflight > 0 and self._monotonic() - self._pulse.last_at() < GONE_AFTER * self._config.health_interval_s

    def _failure(self, cause: reasons.Cause, message: str, phase: reasons.Phase) -> records.Failure:
        """The log's end goes along only while no user's request has reached the model: its log may quote them."""
        words = "" if self._load.requests_total > 0 or self._process is None else self._process.last_words()
        where = f"; see {self._process.log_path.name} on the worker" if self._process is not None and not words else ""
        return records.Failure(cause=cause, message=message + where, phase=phase, at=self._now(), log_tail=words)

    async def _pause(self, seconds: float) -> None:
        """Until there is something to look at: time has passed, a request had trouble, or our child ended."""
        waits: set[asyncio.Task[object]] = {asyncio.create_task(_wait(self._look))}
        ended = self._process.exited if self._process is not None else None
        try:
            await asyncio.wait(
                waits | ({ended} if ended is not None else set()), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in waits:
                task.cancel()


async def _wait(event: asyncio.Event) -> object:
    return await event.wait()
