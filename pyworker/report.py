"""The heartbeat: everything the control plane may know about this worker, from what the parts know. Pure."""

from __future__ import annotations

import msgspec

from .config import WorkerConfig
from .lifecycle import Life
from .load import Load
from .version import VERSION
from .wire import signals


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out on the way to ready."""

    perf: float = 0.0  #: units per second; 0: not known
    model_load_s: float | None = None  #: from the start of the process to the model's first good health answer
    bench_s: float | None = None


def heartbeat(
    bundle: signals.WorkerBundle,
    config: WorkerConfig,
    life: Life,
    load: Load,
    measured: Measured,
    *,
    boot: str,
    seq: int,
    url: str,
    now: float,
    tick: float,
    last_ticket_exp_at: float,
    gpus: tuple[signals.GpuReading, ...],
    tls_fingerprint: str,
    started_at: float,
) -> signals.Heartbeat:
    """`now` is unix seconds, `tick` monotonic seconds."""
    return signals.Heartbeat(
        worker_id=bundle.worker_id,
        endpoint_id=bundle.endpoint_id,
        group_id=bundle.group_id,
        boot=boot,
        seq=seq,
        sent_at=now,
        state=life.state,
        revision=bundle.revision,
        url=url,
        perf=measured.perf,
        slots=slots(config),
        load=load.units,
        inflight=load.inflight,
        queued=load.queued,
        oldest_queued_s=load.oldest_queued_s(tick),
        requests_total=load.requests_total,
        served_total=load.served_total,
        failed_total=load.failed_total,
        cancelled_total=load.cancelled_total,
        rejected_total=load.rejected_total,
        unauthorized_total=load.unauthorized_total,
        served_units_total=load.served_units_total,
        busy_s_total=load.busy_s(tick),
        queue_s_total=load.queue_s_total,
        service_s_total=load.service_s_total,
        model_load_s=measured.model_load_s,
        bench_s=measured.bench_s,
        failure=life.failure,
        draining=life.draining,
        last_ticket_exp_at=last_ticket_exp_at,
        gpus=gpus,
        version=VERSION,
        tls_fingerprint=tls_fingerprint,
        started_at=started_at,
    )


def slots(config: WorkerConfig) -> int:
    """Requests at once that the control plane plans with: the limit, or where there is none, what perf was measured at."""
    if not any(handler.allow_parallel_requests for handler in config.handlers):
        return 1
    return config.slots or config.measured_at_once()
