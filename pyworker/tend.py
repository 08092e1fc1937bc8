"""From nothing to ready, and back again when the model goes: model_loading -> benchmarking -> ready -> error -> ..."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from .backend import Backend
from .benchmark import Benchmark, BenchmarkFailed, ModelAbsent
from .config import WorkerConfig
from .errors import ModelFailed
from .lifecycle import Life
from .reach import NotReached
from .report import Measured
from .wire import reasons, records, states

log = structlog.get_logger()

#: Pauses before a model that came back is tried again.
RETRY_S = (1.0, 60.0)
ABSENT_PAUSE_S = 0.2

_W = states.WorkerState


class Tender:
    """Moves the worker's life by what happens to its model. `measured` is what it found out."""

    def __init__(
        self,
        config: WorkerConfig,
        backend: Backend,
        benchmark: Benchmark,
        *,
        keys_ready: Callable[[], Awaitable[None]],
        reached: Callable[[], Awaitable[None]],
        life: Callable[[], Life],
        set_life: Callable[[Life], None],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self._backend = backend
        self._benchmark = benchmark
        self._keys_ready = keys_ready
        self._reached = reached
        self._life = life
        self._set_life = set_life
        self._now = now
        self._monotonic = monotonic
        self._born = monotonic()
        self.measured = Measured()

    async def run(self) -> None:
        """Until cancelled, or until a model of ours is lost for good: then whoever rented the machine decides what follows."""
        stack = contextlib.AsyncExitStack()
        try:
            try:
                await self._backend.start()
                await self._enter_lifecycle(stack)
            except ModelFailed as failed:
                self._fail(failed)
                return
            pause_s = RETRY_S[0]
            while True:
                try:
                    await self._bring_up()
                    pause_s = RETRY_S[0]
                    await self._stay_up()
                except ModelFailed as failed:
                    self._fail(failed)
                if not self._backend.can_come_back:
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_S[1])
                await self._backend.wait_back()
        finally:
            await stack.aclose()  # without the cancellation that ends us: it is no error of theirs

    async def _enter_lifecycle(self, stack: contextlib.AsyncExitStack) -> None:
        """Raises ModelFailed. What the user's code raised is named by its type alone."""
        if self._config.lifecycle is None:
            return
        try:
            await stack.enter_async_context(self._config.lifecycle)
        except Exception as error:
            message = f"the lifecycle context could not be entered: {type(error).__name__}"
            raise ModelFailed(self._failure(reasons.Cause.START_CRASH, message, reasons.Phase.MODEL)) from error

    async def _bring_up(self) -> None:
        """Raises ModelFailed."""
        self._to(_W.MODEL_LOADING)
        while True:
            if self._config.needs_model():
                await self._backend.wait_loaded()
            if self.measured.model_load_s is None:
                self._note(model_load_s=self._monotonic() - self._born)
            self._to(_W.BENCHMARKING)
            try:
                result = await self._benchmark.run()
                break
            except ModelAbsent:
                self._to(_W.MODEL_LOADING)
                await asyncio.sleep(ABSENT_PAUSE_S)
            except BenchmarkFailed as error:
                raise ModelFailed(self._failure(reasons.Cause.BENCH_FAILED, str(error), reasons.Phase.BENCH)) from error
        self._note(perf=result.perf, bench_s=result.seconds)
        await self._keys_ready()
        try:
            await self._reached()
        except NotReached as error:
            raise ModelFailed(self._failure(error.cause, str(error), reasons.Phase.BENCH)) from error
        self._to(_W.READY)
        log.info("worker_ready", perf=round(result.perf, 3), bench_s=round(result.seconds, 3), kept=result.kept)

    async def _stay_up(self) -> None:
        if self._config.needs_model():
            await self._backend.watch()
        await asyncio.Event().wait()

    def _to(self, state: states.WorkerState) -> None:
        self._set_life(self._life().to(state, self._now()))

    def _fail(self, failed: ModelFailed) -> None:
        log.warning("model_failed", cause=failed.failure.cause, message=failed.failure.message)
        self._set_life(self._life().fail(failed.failure, self._now()))

    def _note(self, **found: float) -> None:
        self.measured = msgspec.structs.replace(self.measured, **found)

    def _failure(self, cause: reasons.Cause, message: str, phase: reasons.Phase) -> records.Failure:
        return records.Failure(cause=cause, message=message, phase=phase, at=self._now())
