"""What the provisioner says happened: events and dead letters. Pure builders first, then the one who sends them.

Ids are derived from what they are about, so that saying it again after a crash is stored once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from runtime.bus import Bus
from schemas import codec, events, subjects
from schemas.commands import AnyCommand, CreateWorker, DeadLetter, DestroyWorker, RebootWorker, StartWorker, StopWorker, op_of
from schemas.events import AnyEvent
from schemas.ids import CommandId, EndpointId, GroupId
from schemas.reasons import Cause
from schemas.records import Failure, InstanceRecord

from . import instances, plan
from .provider import Machine

log = structlog.get_logger()


def done(command: AnyCommand, record: InstanceRecord, at: float) -> AnyEvent:
    """The fact that ends a command."""
    about: dict[str, Any] = {
        "id": f"evt:{command.command_id}",
        "at": at,
        "endpoint_id": command.endpoint_id,
        "worker_id": command.worker_id,
        "group_id": record.group_id,
    }
    match command:
        case CreateWorker():
            return events.WorkerCreated(
                **about,
                provider=record.provider,
                command_id=command.command_id,
                provider_ref=record.provider_ref,
                host=record.host,
                usd_per_hour=record.usd_per_hour,
            )
        case StartWorker() | RebootWorker():
            return events.WorkerStarted(**about, command_id=command.command_id)
        case StopWorker():
            return events.WorkerStopped(**about, command_id=command.command_id)
        case DestroyWorker():
            return events.WorkerDestroyed(
                **about,
                command_id=command.command_id,
                lived_s=instances.lived_s(record, at),
                cost_usd=instances.cost_usd(record, at),
            )


def refused(command: AnyCommand, reason: str, at: float) -> AnyEvent:
    return events.CommandRefused(
        id=f"evt:{command.command_id}", at=at, endpoint_id=command.endpoint_id, command_id=command.command_id, reason=reason
    )


def dead(command_id: str, op: str, endpoint_id: EndpointId, failure: Failure, group_id: GroupId) -> AnyEvent:
    return events.CommandDead(
        id=f"evt:{command_id}:dead",
        at=failure.at,
        endpoint_id=endpoint_id,
        command_id=command_id,
        op=op,
        failure=failure,
        group_id=group_id,
    )


def worker_failed(record: InstanceRecord, failure: Failure, key: str) -> AnyEvent:
    """`key` makes the event's id: what this failure is a failure of."""
    return events.WorkerFailed(
        id=f"evt:{key}:failed",
        at=failure.at,
        endpoint_id=record.endpoint_id,
        worker_id=record.worker_id,
        group_id=record.group_id,
        failure=failure,
        phase=failure.phase,
    )


def since(record: InstanceRecord | None) -> str:
    """Names one stay in a state. What ends it happens once, however often it is noticed."""
    return "unrecorded" if record is None else f"{record.worker_id}:{record.starts}:{record.state_at:.3f}"


def adopted(machine: Machine, before: InstanceRecord | None, provider: str, at: float) -> AnyEvent:
    return events.WorkerAdopted(
        id=f"evt:{machine.worker_id}:{since(before)}:adopted",
        at=at,
        endpoint_id=machine.endpoint_id,
        worker_id=machine.worker_id,
        group_id=machine.group_id,
        provider=provider,
    )


def orphan_removed(machine: Machine, provider: str, at: float) -> AnyEvent:
    return events.OrphanRemoved(
        id=f"evt:{machine.worker_id}:orphan",
        at=at,
        endpoint_id=machine.endpoint_id,
        worker_id=machine.worker_id,
        group_id=machine.group_id,
        provider=provider,
        provider_ref=machine.provider_ref,
    )


def stopped(machine: Machine, before: InstanceRecord | None, at: float) -> AnyEvent:
    """Without a command: on the way out, or by a person's hand."""
    return events.WorkerStopped(
        id=f"evt:{machine.worker_id}:{since(before)}:stopped",
        at=at,
        endpoint_id=machine.endpoint_id,
        worker_id=machine.worker_id,
        group_id=machine.group_id,
    )


def enrolled(record: InstanceRecord, at: float) -> AnyEvent:
    return events.WorkerCreated(
        id=f"evt:{record.worker_id}:enrolled",
        at=at,
        endpoint_id=record.endpoint_id,
        worker_id=record.worker_id,
        group_id=record.group_id,
        provider=record.provider,
        command_id=CommandId(""),
        host=record.host,
    )


class Herald:
    """Sends events and dead letters. Raises BusUnavailable."""

    def __init__(self, bus: Bus, now: Callable[[], float]) -> None:
        self._bus = bus
        self._now = now

    async def tell(self, event: AnyEvent) -> None:
        await self._bus.append(subjects.event(events.kind_of(event), event.endpoint_id), codec.encode(event), msg_id=event.id)

    async def bury(self, command: AnyCommand, body: bytes, failure: Failure, deliveries: int) -> None:
        """Send the dead letter and then the event: whoever reads the event finds the letter."""
        letter = DeadLetter(
            command_id=command.command_id,
            op=op_of(command),
            cause=failure.cause,
            message=failure.message,
            at=failure.at,
            deliveries=deliveries,
            body=body.decode(errors="replace"),
        )
        await self.post(letter, command.endpoint_id, msg_id=f"dlq:{command.command_id}")
        await self.tell(dead(command.command_id, op_of(command), command.endpoint_id, failure, command.group_id))

    async def bury_unreadable(self, subject: str, data: bytes, seq: int, deliveries: int, problem: str) -> None:
        """What cannot be trusted to name itself is named after its place in the stream."""
        name = f"{subjects.STREAM_COMMANDS}:{seq}"
        op, endpoint_id = plan.op_and_endpoint(subject)
        failure = Failure(cause=Cause.PROTOCOL_MISMATCH, message=problem, at=self._now())
        letter = DeadLetter(
            command_id="",
            op=op,
            cause=failure.cause,
            message=problem,
            at=failure.at,
            deliveries=deliveries,
            stream_seq=seq,
            body=data.decode(errors="replace"),
        )
        await self.post(letter, endpoint_id, msg_id=f"dlq:{name}")
        await self.tell(dead(name, op, endpoint_id, failure, GroupId(0)))
        log.error("command_unreadable", stream_seq=seq, subject=subject, problem=problem)

    async def post(self, letter: DeadLetter, endpoint_id: EndpointId, *, msg_id: str) -> None:
        await self._bus.append(subjects.dead_letter(letter.op, endpoint_id), codec.encode(letter), msg_id=msg_id)
