"""What routers may know of a worker: its record, made from the fact and from what only the latest words carry."""

from __future__ import annotations

from schemas.ids import EndpointId
from schemas.records import Failure, InstanceRecord, WorkerRecord
from schemas.signals import PROTOCOL, Heartbeat

from .types import Liveness, WorkerFact


def worker_record(
    endpoint_id: EndpointId, worker: WorkerFact, instance: InstanceRecord | None, beat: Heartbeat | None
) -> WorkerRecord:
    """The record as it should stand. It changes only when something slow changed: load is not in it."""
    return WorkerRecord(
        worker_id=worker.worker_id,
        endpoint_id=endpoint_id,
        group_id=worker.group_id,
        state=worker.state,
        revision=worker.revision,
        url=worker.url,
        perf=worker.perf,
        slots=worker.slots,
        boot=worker.boot,
        state_at=worker.state_at,
        created_at=worker.created_at,
        ready_at=worker.ready_at,
        suspect=worker.liveness is Liveness.SUSPECT,
        then=worker.drain.then if worker.drain is not None else "",
        drain_since_at=worker.drain.since_at if worker.drain is not None else None,
        provider=worker.provider,
        host=worker.host,
        gpu_name=instance.gpu_name if instance is not None else "",
        num_gpus=instance.num_gpus if instance is not None else 0,
        usd_per_hour=worker.usd_per_hour,
        storage_usd_per_hour=worker.storage_usd_per_hour,
        version=beat.version if beat is not None else "",
        protocol=beat.protocol if beat is not None else PROTOCOL,
        tls_fingerprint=beat.tls_fingerprint if beat is not None else "",
        failure=_with_log(worker.failure, instance, beat),
    )


def is_slow_change(before: WorkerFact | None, after: WorkerFact | None) -> bool:
    """Whether the record may look different now. Cheap: asked at every heartbeat."""
    if before is None or after is None:
        return before is not after
    return (
        before.state is not after.state
        or before.boot != after.boot
        or before.perf != after.perf
        or before.url != after.url
        or before.slots != after.slots
        or before.drain is not after.drain
        or before.failure != after.failure
        or (before.liveness is Liveness.SUSPECT) is not (after.liveness is Liveness.SUSPECT)
        or before.instance_state != after.instance_state
        or before.usd_per_hour != after.usd_per_hour
    )


def _with_log(failure: Failure | None, instance: InstanceRecord | None, beat: Heartbeat | None) -> Failure | None:
    """The failure with the last lines of the worker's log, where its source has them: people read records."""
    for source in (beat.failure if beat is not None else None, instance.failure if instance is not None else None):
        if failure is not None and source is not None and source.cause is failure.cause:
            return source
    return failure
