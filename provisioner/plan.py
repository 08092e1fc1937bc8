"""What to do with one command, given what is known. Pure: no clock, no provider, no bus.

A command is looked at twice, because asking the provider costs more than reading our own notes:

    admit(...)  ->  Refuse | Settled | Claim | Look        from the intent and the record
    act(...)    ->  Call | Finish | Refuse | Bury          with the machine the provider showed

and `after_transient` says what follows when the provider failed. Everything that is not carried out leaves a trace:
Refuse ends as the event `command_refused`, Bury as a dead letter with a cause.
"""

from __future__ import annotations

import msgspec

from schemas import codec, ids, subjects
from schemas.commands import AnyCommand, CreateWorker, DestroyWorker, RebootWorker, StartWorker, StopWorker, op_of
from schemas.ids import EndpointId
from schemas.reasons import Cause, Phase
from schemas.records import Failure, InstanceRecord, Intent

from . import instances
from .provider import Machine, MachineState, Transient

OPERATOR = "operator"  #: prefix of issued_by; a person is not fenced by the scaler's epochs

CLAIMED, DONE, FAILED = "claimed", "done", "failed"  #: values of Intent.status


class Refuse(msgspec.Struct, frozen=True):
    """Not carried out, and rightly so. `reason` is a sentence."""

    reason: str


class Settled(msgspec.Struct, frozen=True):
    """Ended before: its fact or dead letter is out. Only the acknowledgement was lost."""


class Claim(msgspec.Struct, frozen=True):
    """Nobody has it: claim it, then look."""


class Look(msgspec.Struct, frozen=True):
    """Claimed before, result unknown: ask the provider by label."""


class Call(msgspec.Struct, frozen=True):
    """Ask the provider to carry the command out."""


class Finish(msgspec.Struct, frozen=True):
    """The provider already shows what the command wants: write it down, say it, acknowledge."""

    machine: Machine | None  #: None: it is gone, as wanted


class Bury(msgspec.Struct, frozen=True):
    """Cannot be carried out: dead letter."""

    failure: Failure


class RetryIn(msgspec.Struct, frozen=True):
    delay_s: float


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how fast a transient failure is tried again."""

    max_deliveries: int = 6  #: of the consumer; the last one buries instead of retrying
    first_delay_s: float = 2.0
    factor: float = 3.0
    longest_delay_s: float = 120.0
    call_limit_s: float = 900.0  #: of one call of a provider

    def delay_s(self, deliveries: int, chance: float) -> float:
        """Half to one and a half times the exponential step; chance in [0, 1)."""
        step: float = min(self.longest_delay_s, self.first_delay_s * self.factor ** min(32, max(0, deliveries - 1)))
        return step * (0.5 + chance)


def read(data: bytes, subject: str) -> AnyCommand | str:
    """The command that a message carries, or a sentence that says why it is none."""
    try:
        command = codec.command(data)
    except codec.DecodeError as error:
        return f"the command cannot be read: {error}"
    if isinstance(command, codec.Unknown):
        return f"the command asks for {command.kind!r}, which this provisioner does not know"
    problem = _malformed(command, subject)
    return f"the command is not what it says: {problem}" if problem else command


def op_and_endpoint(subject: str) -> tuple[str, EndpointId]:
    """From a command's subject. The stream takes any two tokens there, so the endpoint may be none of ours: 0."""
    op = subject.split(".")[-2]
    try:
        return op, ids.endpoint_from_token(subjects.endpoint_token_of(subject))
    except ValueError:
        return op, EndpointId(0)


def _malformed(command: AnyCommand, subject: str) -> str | None:
    """A message that a forged reply subject put on the stream carries a body that does not belong to its subject."""
    if subject != (expected := subjects.command(op_of(command), command.endpoint_id)):
        return f"its body belongs on {expected}"
    if not ids.is_token(subjects.intent_key(command.command_id)):
        return "its command_id is not made of letters, digits, dots, dashes and underscores"
    try:
        ids.worker_id(command.worker_id)
    except ValueError as error:
        return str(error)
    return None


def admit(
    command: AnyCommand, *, now: float, highest_epoch: int, intent: Intent | None, record: InstanceRecord | None
) -> Refuse | Settled | Claim | Look:
    """The first look. A claim is never refused for its age or epoch: its provider call may have happened."""
    if intent is not None:
        return Look() if intent.status == CLAIMED else Settled()
    if fenced(command, highest_epoch):
        return Refuse(f"epoch {command.epoch} of shard {command.shard} is over; the leader's is {highest_epoch}")
    if late := _late(command, now):
        return late
    if record is None and isinstance(command, StartWorker | StopWorker | RebootWorker):
        return Refuse(f"{instances.ref(command.worker_id)} is not known")
    return _overtaken(command, record) or Claim()


def act(
    command: AnyCommand, *, now: float, intent: Intent, record: InstanceRecord | None, machine: Machine | None
) -> Call | Finish | Refuse | Bury:
    """The second look, once the command is claimed."""
    if overtaken := _overtaken(command, record):
        return overtaken
    match command:
        case CreateWorker():
            if machine is not None and machine.state is not MachineState.CREATING:
                return Finish(machine)
        case DestroyWorker():
            # No deadline from here on: a machine that is half destroyed helps nobody.
            return Call() if machine is not None else Finish(None)
        case StartWorker() | StopWorker() | RebootWorker():
            if machine is None:
                return Bury(lost(record, now))
            if _already(command, intent, machine):
                return Finish(machine)
    return _late(command, now) or Call()


def after_transient(
    error: Transient, command: AnyCommand, *, deliveries: int, now: float, patience: Patience, chance: float
) -> RetryIn | Bury:
    """Try again while there are deliveries left and the next one would be in time."""
    delay_s = max(error.retry_after_s, patience.delay_s(deliveries, chance))
    failure = Failure(cause=error.cause, message=error.message, phase=phase_of(command), at=now)
    if deliveries >= patience.max_deliveries:
        return Bury(msgspec.structs.replace(failure, message=f"{error.message} (given up after {deliveries} attempts)"))
    if now + delay_s >= command.deadline_at:
        return Bury(msgspec.structs.replace(failure, message=f"{error.message} (no attempt left before its deadline)"))
    return RetryIn(delay_s)


def may_overtake(command: AnyCommand, record: InstanceRecord) -> bool:
    """A destroy of what another command is creating, or has been told not to."""
    begun = record.state in (instances.InstanceState.CREATING, instances.InstanceState.DESTROYING)
    return isinstance(command, DestroyWorker) and begun and record.command_id not in ("", command.command_id)


def is_called_off(command: AnyCommand, record: InstanceRecord | None) -> bool:
    """What this create made belongs to a worker that was destroyed meanwhile."""
    if record is None or not isinstance(command, CreateWorker):
        return False
    by_destroy = record.state == instances.InstanceState.DESTROYING and record.command_id == command.command_id
    return by_destroy or instances.is_gone(record)


def fenced(command: AnyCommand, highest_epoch: int) -> bool:
    """True for a command of a scaler that lost its lease."""
    return not command.issued_by.startswith(OPERATOR) and command.epoch < highest_epoch


def phase_of(command: AnyCommand) -> Phase:
    match command:
        case CreateWorker():
            return Phase.RENT
        case StartWorker() | RebootWorker():
            return Phase.BOOT
        case StopWorker() | DestroyWorker():
            return Phase.STOP


def lost(record: InstanceRecord | None, now: float) -> Failure:
    where = f"provider {record.provider}" if record is not None else "its provider"
    return Failure(cause=Cause.HOST_LOST, message=f"{where} no longer has the machine", at=now)


def _late(command: AnyCommand, now: float) -> Refuse | None:
    if now <= command.deadline_at:
        return None
    return Refuse(f"its deadline passed {now - command.deadline_at:.1f} s ago")


def _overtaken(command: AnyCommand, record: InstanceRecord | None) -> Refuse | None:
    """Something newer was said about this worker. A destroy is final and never overtaken."""
    if record is None or isinstance(command, DestroyWorker):
        return None
    if instances.is_gone(record) or record.state == instances.InstanceState.DESTROYING:
        by = "a destroy" if record.command_id == command.command_id else record.command_id or "an operator"
        return Refuse(f"{instances.ref(command.worker_id)} was destroyed by {by}")
    if isinstance(command, CreateWorker) or record.commanded_at <= command.issued_at:
        return None
    return Refuse(f"overtaken by the newer command {record.command_id}")


def _already(command: StartWorker | StopWorker | RebootWorker, intent: Intent, machine: Machine) -> bool:
    match command:
        case StartWorker():
            return machine.state is MachineState.RUNNING
        case StopWorker():
            return machine.state is MachineState.STOPPED
        case RebootWorker():
            return machine.state is MachineState.RUNNING and machine.started_at > intent.at
