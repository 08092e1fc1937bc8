"""An intent as the command that is sent: the same words each time, under the epoch of whoever sends it."""

from __future__ import annotations

from typing import Any

from schemas.commands import AnyCommand, CreateWorker, DestroyWorker, RebootWorker, StartWorker, StopWorker
from schemas.records import EndpointRecord

from . import groups, words
from .types import EndpointState, WorkerFact

#: The sentence of a decision about many groups is long, and the bus takes commands of 64 KiB. Its event has it whole.
_REASON_CHARS = 2000


def command_for(
    state: EndpointState, worker: WorkerFact, endpoint: EndpointRecord | None, *, epoch: int, shard: int
) -> AnyCommand | None:
    """The command of a worker's intent. None when there is none, or when what it would create has been deleted since."""
    intent = worker.intent
    if intent is None:
        return None
    about: dict[str, Any] = {
        "command_id": intent.command_id,
        "endpoint_id": state.endpoint_id,
        "worker_id": worker.worker_id,
        "group_id": worker.group_id,
        "issued_at": intent.issued_at,
        "deadline_at": intent.deadline_at,
        "epoch": epoch,
        "shard": shard,
        "why": intent.why,
        "reason": words.cut(intent.reason, _REASON_CHARS),
        "decision_id": intent.decision_id,
    }
    match intent.op:
        case "create":
            group = endpoint.group(worker.group_id) if endpoint is not None else None
            if endpoint is None or group is None:
                return None
            return CreateWorker(
                **about,
                template=group.template,
                provider=group.provider,
                revision=group.revision,
                endpoint_name=endpoint.name,
                search_params=group.search_params,
                gpu_ram=group.gpu_ram,
                price_cap_usd_per_hour=group.price_cap_usd_per_hour,
                avoid_hosts=groups.avoided(state, worker.group_id, intent.issued_at),
            )
        case "start":
            return StartWorker(**about)
        case "stop":
            return StopWorker(**about)
        case "reboot":
            return RebootWorker(**about)
        case "destroy":
            return DestroyWorker(**about)
        case _:
            raise ValueError(f"{intent.op} is no command")
