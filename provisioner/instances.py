"""The instance record: what the provisioner says it has. Pure; every change of a record is one function here.

creating -> running -> stopping -> stopped -> starting -> running
               any -> failed (the process ended, the machine is lost, the command is dead)
               any -> destroying -> gone (a tombstone, so that a late create finds out)
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from schemas.commands import AnyCommand, CreateWorker, DestroyWorker, RebootWorker, StartWorker, StopWorker
from schemas.ids import WorkerId
from schemas.records import Failure, InstanceRecord

from .provider import Machine, MachineState

#: Seconds a tombstone stays: longer than a command can wait on its stream.
TOMBSTONE_S = 2 * 3600


class InstanceState(StrEnum):
    """Values of InstanceRecord.state."""

    CREATING = "creating"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    STARTING = "starting"
    DESTROYING = "destroying"
    GONE = "gone"
    FAILED = "failed"


#: On the way from one settled state to another: a command is in hand, or was when its provisioner died.
MOVING = frozenset({InstanceState.CREATING, InstanceState.STARTING, InstanceState.STOPPING, InstanceState.DESTROYING})

_STATE_OF_MACHINE = {
    MachineState.CREATING: InstanceState.CREATING,
    MachineState.RUNNING: InstanceState.RUNNING,
    MachineState.STOPPED: InstanceState.STOPPED,
    MachineState.EXITED: InstanceState.FAILED,
    MachineState.DESTROYING: InstanceState.DESTROYING,
}


def moving(command: AnyCommand, before: InstanceRecord | None, provider: str, now: float) -> InstanceRecord:
    """The record while the provider is asked. A failure noted before stays readable until the answer is there."""
    match command:
        case CreateWorker():
            state = InstanceState.CREATING
        case StartWorker():
            state = InstanceState.STARTING
        case StopWorker() | RebootWorker():
            state = InstanceState.STOPPING
        case DestroyWorker():
            state = InstanceState.DESTROYING
    record = before or _blank(command, provider, now)
    if isinstance(command, CreateWorker):
        record = msgspec.structs.replace(record, template=command.template, revision=command.revision)
    return _touched(record, command, state, now)


def settled(command: AnyCommand, before: InstanceRecord | None, machine: Machine, provider: str, now: float) -> InstanceRecord:
    """The record once the provider did what the command says."""
    record = mirrored(machine, before or _blank(command, provider, now), provider, now)
    return _touched(record, command, InstanceState(record.state), now)


def mirrored(machine: Machine, before: InstanceRecord | None, provider: str, now: float) -> InstanceRecord:
    """The record as the machine stands. Keeps who commanded what; moves `state_at` only when the state moved."""
    state = _STATE_OF_MACHINE[machine.state]
    base = before or InstanceRecord(
        worker_id=machine.worker_id,
        endpoint_id=machine.endpoint_id,
        group_id=machine.group_id,
        provider=provider,
        state=state,
        command_id=machine.command_id,
        created_at=machine.created_at,
        state_at=now,
    )
    return msgspec.structs.replace(
        base,
        provider=provider,
        state=state,
        state_at=base.state_at if base.state == state and base.state_at else now,
        revision=machine.revision,
        template=machine.template or base.template,
        provider_ref=machine.provider_ref,
        url=machine.url,
        host=machine.host,
        gpu_name=machine.gpu_name,
        num_gpus=machine.num_gpus,
        usd_per_hour=machine.usd_per_hour,
        storage_usd_per_hour=machine.storage_usd_per_hour,
        created_at=base.created_at or machine.created_at or now,
        starts=machine.starts,
        mtoken_sha256=machine.mtoken_sha256,
        failure=machine.failure if machine.state is MachineState.EXITED else None,
        gone_at=machine.gone_at,
    )


def failed(before: InstanceRecord, failure: Failure, now: float) -> InstanceRecord:
    return msgspec.structs.replace(before, state=InstanceState.FAILED, state_at=now, failure=failure)


def failed_command(
    command: AnyCommand, before: InstanceRecord | None, failure: Failure, provider: str, now: float
) -> InstanceRecord:
    record = before or _blank(command, provider, now)
    return _touched(failed(record, failure, now), command, InstanceState.FAILED, now)


def gone(command: AnyCommand, before: InstanceRecord | None, provider: str, now: float) -> InstanceRecord:
    """A tombstone: it keeps no template, and lives TOMBSTONE_S."""
    record = msgspec.structs.replace(before or _blank(command, provider, now), template=None, failure=None, url="")
    return _touched(record, command, InstanceState.GONE, now)


def called_off(before: InstanceRecord, command: AnyCommand, now: float) -> InstanceRecord:
    """Destroyed while it is created. It stays the create's, which is not at its end."""
    commanded_at = max(before.commanded_at, command.issued_at)
    return msgspec.structs.replace(before, state=InstanceState.DESTROYING, state_at=now, commanded_at=commanded_at)


def is_gone(record: InstanceRecord) -> bool:
    return record.state == InstanceState.GONE


def is_moving(record: InstanceRecord) -> bool:
    return record.state in MOVING


def cost_usd(record: InstanceRecord, now: float) -> float:
    """Upper bound of what it cost: as if it had been hot since it was created."""
    return record.usd_per_hour * max(0.0, now - record.created_at) / 3600 if record.created_at else 0.0


def lived_s(record: InstanceRecord, now: float) -> float:
    return max(0.0, now - record.created_at) if record.created_at else 0.0


def ref(worker_id: WorkerId) -> str:
    """How logs and sentences name a worker."""
    return f"worker {worker_id}"


def _blank(command: AnyCommand, provider: str, now: float) -> InstanceRecord:
    return InstanceRecord(
        worker_id=command.worker_id,
        endpoint_id=command.endpoint_id,
        group_id=command.group_id,
        provider=provider,
        state=InstanceState.CREATING,
        created_at=now,
    )


def _touched(record: InstanceRecord, command: AnyCommand, state: InstanceState, now: float) -> InstanceRecord:
    return msgspec.structs.replace(
        record,
        state=state,
        state_at=record.state_at if record.state == state and record.state_at else now,
        command_id=command.command_id,
        commanded_at=max(record.commanded_at, command.issued_at),
    )
