"""What a user writes down about a worker. Field names, order and meaning are those of Vast's PyWorker, so that a configuration
moves over by changing its import; the fields under `# ours` are new.

    from pyworker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig

    Worker(WorkerConfig(
        model_server_url="http://127.0.0.1", model_server_port=8000, model_healthcheck_url="/health",
        handlers=[HandlerConfig(route="/v1/completions", allow_parallel_requests=True,
                                workload_calculator=lambda payload: payload["max_tokens"],
                                benchmark_config=BenchmarkConfig(dataset=[{"prompt": "Hi", "max_tokens": 64}]))],
    )).run()
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from .errors import ConfigError

Payload = dict[str, Any]

#: Answered by the worker itself on GET and HEAD; everything else is the model's.
PROBE_PATHS = frozenset({"/health", "/ping", "/livez", "/metrics"})


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on one request, in seconds. None: no limit."""

    connect_s: float | None = 5.0  #: until the model server has accepted the connection
    first_byte_s: float | None = 300.0  #: from the end of the upload to the head of the answer
    idle_s: float | None = 120.0  #: between two pieces of the answer, or of the upload, or of what the client takes
    total_s: float | None = None  #: from the start at the model to the last byte


class BenchmarkConfig(msgspec.Struct, frozen=True):
    """How to measure this worker. `dataset` wins over `generator`; one of them is needed."""

    dataset: Sequence[Payload] | None = None  #: payloads, picked at random
    generator: Callable[[], Payload] | None = None
    runs: int = 8  #: rounds; perf is their mean
    concurrency: int | None = 10  #: requests at once in each round (None: 10); 1 where the handler is serial; at most `slots`
    do_warmup: bool = True  #: one request before the first round, not measured
    # ours
    timeout_s: float = 120.0  #: for one round


class LogActionConfig(msgspec.Struct, frozen=True):
    """Substrings (case matters) to look for in the model's log."""

    on_load: Sequence[str] = ()  #: the model is loaded
    on_error: Sequence[str] = ()  #: the model failed to load; after it was ready only an event in our log
    on_info: Sequence[str] = ()  #: worth an event in our log


class HandlerConfig(msgspec.Struct, frozen=True):
    """One route of the model that clients may call."""

    route: str  #: exact path, or a prefix that ends in "*" ("/*" forwards everything)
    healthcheck: str | None = None  #: used when the worker has no model_healthcheck_url
    allow_parallel_requests: bool = False  #: False: one at a time, first come first served, over all such handlers
    max_queue_time: float | None = 30.0  #: s of expected wait above which a request is refused (429); None: never
    benchmark_config: BenchmarkConfig | None = None  #: exactly one handler has it
    handler_class: Any = None  #: not supported; use the callables below
    payload_class: Any = None  #: not supported; use request_parser
    request_parser: Callable[[Payload], Payload] | None = None  #: changes the payload; Vast envelope only
    response_generator: Callable[..., Awaitable[Any]] | None = None  #: async (request, model_response) -> aiohttp response
    workload_calculator: Callable[[Payload], float] | None = None  #: cost in work units; else the ticket's cost counts
    is_remote_dispatch: bool = False  #: without meaning, as in Vast's
    remote_function: Callable[..., Awaitable[Any]] | None = None  #: async (**payload), run here instead of a model call
    # ours
    timeouts: Timeouts | None = None  #: instead of the worker's


class WorkerConfig(msgspec.Struct, frozen=True):
    """One worker: where its model server is, how to tell that it is ready, what may be called."""

    model_server_url: str | None = None  #: "http://127.0.0.1"
    model_server_port: int | None = None  #: None: MODEL_PORT of the environment, or a free one for `model_command`
    model_log_file: str | None = None
    benchmark_data: Sequence[Payload] = ()  #: without meaning, as in Vast's; see BenchmarkConfig
    handlers: Sequence[HandlerConfig] = ()
    model_healthcheck_url: str | None = None  #: path on the model server, or a whole URL; 200 means loaded
    benchmark_route: str | None = None  #: without meaning, as in Vast's
    log_action_config: LogActionConfig = LogActionConfig()
    max_sessions: int | None = 10  #: accepted for compatibility: this version serves no sessions
    lifecycle: AbstractAsyncContextManager[Any] | None = None  #: entered before the benchmark, left at the end
    # ours
    model_command: Sequence[str] = ()  #: argv; started, watched and ended by the worker. "{MODEL_PORT}" is filled in
    model_env: dict[str, str] = {}
    model_cwd: str | None = None
    model_start_timeout_s: float = 600.0
    model_stop_timeout_s: float = 10.0  #: from SIGTERM to SIGKILL
    slots: int | None = None  #: parallel requests at the model at once; None: no limit of ours
    max_queued: int = 1000  #: requests that may wait here
    perf: float | None = None  #: work units per second, given instead of measured
    timeouts: Timeouts = Timeouts()
    health_interval_s: float = 2.0
    drain_timeout_s: float = 600.0  #: how long in-flight requests may go on after SIGTERM
    reach_timeout_s: float = 60.0  #: for this worker to answer at the address that clients are told, once it is measured

    def measured_at_once(self) -> int:
        """Requests at once in the benchmark."""
        handler = self.benchmarked()
        bench = handler.benchmark_config if handler is not None else None
        if handler is None or bench is None or not handler.allow_parallel_requests:
            return 1
        wanted = max(1, bench.concurrency or 10)
        return wanted if self.slots is None else min(wanted, self.slots)

    def benchmarked(self) -> HandlerConfig | None:
        return next((h for h in self.handlers if h.benchmark_config is not None), None)

    def healthcheck(self) -> str | None:
        return self.model_healthcheck_url or next((h.healthcheck for h in self.handlers if h.healthcheck), None)

    def needs_model(self) -> bool:
        """False when every handler is a function that runs in this process."""
        return bool(self.model_command) or any(h.remote_function is None for h in self.handlers)


def check(config: WorkerConfig) -> None:
    """Raises ConfigError that lists everything that is wrong."""
    wrong = list(_problems(config))
    if wrong:
        raise ConfigError("the WorkerConfig cannot work: " + "; ".join(wrong), "correct these fields and start the worker again")


def _problems(config: WorkerConfig) -> list[str]:
    wrong = []
    if not config.handlers:
        wrong.append("handlers is empty, so nothing could be called")
    routes = [h.route for h in config.handlers]
    for handler in config.handlers:
        name = f"handler {handler.route!r}"
        if not handler.route.startswith("/"):
            wrong.append(f"{name}: a route starts with /")
        if "*" in handler.route[:-1]:
            wrong.append(f"{name}: * may only stand at the end of a route")
        if routes.count(handler.route) > 1:
            wrong.append(f"{name} is there twice")
        for field, instead in (
            ("payload_class", "request_parser"),
            ("handler_class", "request_parser, response_generator and workload_calculator"),
        ):
            if getattr(handler, field) is not None:
                wrong.append(f"{name}: {field} is not supported; use {instead}")
        if handler.max_queue_time is not None and not 0 <= handler.max_queue_time < math.inf:
            wrong.append(f"{name}: max_queue_time must be a finite number of at least 0, or None")
        bench = handler.benchmark_config
        if bench is not None:
            if not bench.dataset and bench.generator is None:
                wrong.append(f"{name}: benchmark_config needs a dataset or a generator")
            if handler.route.endswith("*"):
                wrong.append(f"{name}: a benchmark needs one path, so give it to a handler without *")
            if bench.runs < 1:
                wrong.append(f"{name}: benchmark_config.runs must be at least 1")
    benchmarks = sum(h.benchmark_config is not None for h in config.handlers)
    if benchmarks > 1 or (benchmarks == 0 and config.perf is None):
        wrong.append(f"exactly one handler must have a benchmark_config (or give `perf`), {benchmarks} have")
    if config.perf is not None and not 0 < config.perf < math.inf:
        wrong.append("perf must be a finite number above 0")
    if config.slots is not None and config.slots < 1:
        wrong.append("slots must be at least 1, or None")
    if not 0 < config.reach_timeout_s < math.inf:
        wrong.append("reach_timeout_s must be a finite number above 0")
    if config.max_queued < 0:
        wrong.append("max_queued must be at least 0")
    return wrong
