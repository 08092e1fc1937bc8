"""How fast is this worker? Work units per second over whole answers, as the mean of its rounds.

A round is `concurrency` requests at once; its speed is the units of those answered with 200, to their last byte, over the time until
all have ended. The result is kept on disk under a key of everything it depends on; a kept one is believed after one good answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from . import files, usercode
from .config import HandlerConfig, Payload, Timeouts, WorkerConfig
from .stopwatch import Expired, Stopwatch
from .upstream import BROKEN, ModelClient, ModelTrouble
from .wire import http

log = structlog.get_logger()

DEFAULT_UNITS = 100.0  #: cost of a payload when no workload_calculator is given, as in Vast's PyWorker


class ModelAbsent(Exception):
    """No connection: the model is not there after all, which is no verdict on its speed."""


class BenchmarkFailed(Exception):
    """The model is there and gave no good answer."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    perf: float  #: units per second
    seconds: float  #: what measuring or confirming took
    key: str
    kept: bool = False  #: from disk


class _Kept(msgspec.Struct, kw_only=True):
    key: str
    perf: float
    measured_at: float


def cache_key(config: WorkerConfig, *, gpus: tuple[str, ...], revision: int, version: str) -> str:
    """Changes with anything the result depends on and this process can know."""
    handler = config.benchmarked()
    bench = handler.benchmark_config if handler is not None else None
    facts = [
        handler.route if handler else "",
        handler.allow_parallel_requests if handler else False,
        [bench.runs, bench.concurrency, bench.dataset, _name(bench.generator)] if bench else [],
        _name(handler.workload_calculator) if handler else "",
        list(config.model_command),
        sorted(config.model_env.items()),
        config.slots,
        gpus,
        revision,
        version,
    ]
    return hashlib.sha256(msgspec.json.encode(facts, enc_hook=repr)).hexdigest()


class Benchmark:
    """Measures through the same client that serves requests."""

    def __init__(
        self,
        config: WorkerConfig,
        model: ModelClient,
        *,
        key: str,
        cache: Path | None,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._model = model
        self._key = key
        self._cache = cache
        self._now = now
        self._monotonic = monotonic
        self._rng = rng or random.Random()

    async def run(self) -> Result:
        """Raises ModelAbsent, BenchmarkFailed."""
        started = self._monotonic()
        handler = self._config.benchmarked()
        if handler is None:
            assert self._config.perf is not None
            return Result(perf=self._config.perf, seconds=0.0, key=self._key)
        kept = self._read()
        if kept is not None and await self._units_served(handler, self._config.timeouts) > 0:
            return Result(perf=kept.perf, seconds=self._monotonic() - started, key=self._key, kept=True)
        perf = await self._measure(handler)
        if self._cache is not None:
            files.write(self._cache, msgspec.json.encode(_Kept(key=self._key, perf=perf, measured_at=self._now())))
        return Result(perf=perf, seconds=self._monotonic() - started, key=self._key)

    async def _measure(self, handler: HandlerConfig) -> float:
        bench = handler.benchmark_config
        assert bench is not None
        concurrency = self._config.measured_at_once()
        if bench.do_warmup:
            await self._round(handler, 1, bench.timeout_s)
        rounds = [await self._round(handler, concurrency, bench.timeout_s) for _ in range(bench.runs)]
        log.info("benchmark_done", rounds=[round(r, 3) for r in rounds], concurrency=concurrency)
        perf = statistics.fmean(rounds)
        if not 0 < perf < math.inf:
            raise BenchmarkFailed(f"no request of {bench.runs} rounds at {handler.route} was answered with 200 in time")
        return perf

    async def _round(self, handler: HandlerConfig, concurrency: int, timeout_s: float) -> float:
        """Units per second. What is not answered when the time is over counts as nothing, at full length."""
        limits = msgspec.structs.replace(self._config.timeouts, total_s=timeout_s)
        started = self._monotonic()
        served = await asyncio.gather(*(self._units_served(handler, limits) for _ in range(concurrency)), return_exceptions=True)
        took = self._monotonic() - started
        for one in served:
            if isinstance(one, BaseException):
                raise one
        return sum(one for one in served if isinstance(one, float)) / max(took, 1e-6)

    async def _units_served(self, handler: HandlerConfig, limits: Timeouts) -> float:
        """Units of one benchmark request, 0.0 unless it was answered with 200 to the last byte.

        Raises ModelAbsent, and BenchmarkFailed when the user's generator did.
        """
        payload = self._payload(handler)
        units = usercode.calculate(handler, payload, DEFAULT_UNITS) if handler.workload_calculator else DEFAULT_UNITS
        try:
            with Stopwatch(limits.total_s) as watch:
                if handler.remote_function is not None:
                    return units if await _runs(handler.remote_function, payload) else 0.0
                body = msgspec.json.encode(payload)
                headers = b"Content-Type: application/json\r\nAccept: */*\r\nContent-Length: %d\r\n" % len(body)
                answer = await self._model.call("POST", handler.route, headers, body, watch, limits)
                try:
                    watch.phase("the answer", limits.idle_s)
                    while await answer.content.readany():
                        watch.touch()
                finally:
                    answer.close()
                return units if answer.status == 200 else 0.0
        except ModelTrouble as trouble:
            if trouble.code == http.ErrorCode.MODEL_UNREACHABLE:
                raise ModelAbsent from trouble
            return 0.0
        except (Expired, *BROKEN) as error:
            log.warning("benchmark_request_failed", error=type(error).__name__)
            return 0.0

    def _payload(self, handler: HandlerConfig) -> Payload:
        bench = handler.benchmark_config
        assert bench is not None
        if bench.dataset:
            return self._rng.choice(list(bench.dataset))
        assert bench.generator is not None
        try:
            return bench.generator()
        except Exception as error:
            raise BenchmarkFailed(
                f"the benchmark's generator raised {type(error).__name__} at {usercode.where(error)}"
            ) from error

    def _read(self) -> _Kept | None:
        if self._cache is None:
            return None
        try:
            kept = msgspec.json.decode(self._cache.read_bytes(), type=_Kept)
        except (OSError, msgspec.MsgspecError):
            return None
        return kept if kept.key == self._key and 0 < kept.perf < math.inf else None


async def _runs(function: Callable[..., Awaitable[object]], payload: Payload) -> bool:
    try:
        await function(**payload)
    except Exception as error:  # noqa: BLE001 -- user code
        log.warning("benchmark_function_crashed", error=type(error).__name__, where=usercode.where(error))
        return False
    return True


def _name(function: Callable[..., object] | None) -> str:
    """Name and code, so that an edited function measures anew; a lambda's constants count too."""
    code = getattr(function, "__code__", None)
    text = f"{getattr(function, '__qualname__', function)}"
    return text if code is None else f"{text}:{hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()}"
