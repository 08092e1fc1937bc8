"""What a change of a worker's record is called when it is told. Pure; ids derive from what happened, so a repeat is stored once."""

from __future__ import annotations

from typing import Any

from schemas import events
from schemas.events import AnyEvent
from schemas.records import WorkerRecord
from schemas.states import WorkerState

from .types import WorkerFact


def of_change(before: WorkerRecord | None, after: WorkerRecord, worker: WorkerFact, at: float) -> list[AnyEvent]:
    """The events of one written change, in order."""
    start = after.boot or f"{worker.launched_at:.3f}"

    def about(what: str) -> dict[str, Any]:
        return {
            "id": f"evt:{after.worker_id}:{start}:{what}:{after.state_at:.3f}",
            "at": at,
            "endpoint_id": after.endpoint_id,
            "worker_id": after.worker_id,
            "group_id": after.group_id,
        }

    told: list[AnyEvent] = []
    if before is None or before.state is not after.state:
        phase_s = max(0.0, after.state_at - before.state_at) if before is not None else 0.0
        was = before.state if before is not None else None
        told.append(events.WorkerChanged(**about(f"is-{after.state}"), state=after.state, before=was, phase_s=phase_s))
        told.extend(_entered(after, worker, about))
    if after.suspect and not (before is not None and before.suspect):
        silent_s = at - worker.beat_at if worker.beat_at is not None else 0.0
        told.append(events.WorkerSuspected(**about(f"suspected-{worker.seq}"), silent_s=silent_s))
    return told


def _entered(after: WorkerRecord, worker: WorkerFact, about: Any) -> list[AnyEvent]:
    match after.state:
        case WorkerState.READY:
            cold_start_s = max(0.0, (worker.ready_at or after.state_at) - worker.launched_at) if worker.launched_at else 0.0
            return [
                events.WorkerReady(
                    **about("ready"), url=after.url, perf=after.perf, cold_start_s=cold_start_s, from_cold=worker.from_cold
                )
            ]
        case WorkerState.DRAINING if worker.drain is not None:
            return [events.WorkerDraining(**about("draining"), then=worker.drain.then, why=worker.drain.why)]
        case WorkerState.ERROR if after.failure is not None and worker.instance_state != "failed":
            # What the provider noticed, the provisioner tells.
            if after.failure.cause == "heartbeat_lost":
                silent_s = after.state_at - worker.beat_at if worker.beat_at is not None else 0.0
                return [events.WorkerLost(**about("lost"), silent_s=silent_s)]
            return [events.WorkerFailed(**about("failed"), failure=after.failure, phase=after.failure.phase)]
        case _:
            return []
