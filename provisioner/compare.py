"""What is there against what is written: one worker at a time. Pure.

Everything a provider lists and every record is compared after each start and then every few seconds. What a command is
busy with right now is nobody's discrepancy and is not passed in.
"""

from __future__ import annotations

import msgspec

from schemas.reasons import Cause
from schemas.records import Failure, InstanceRecord, Intent

from . import instances, plan
from .instances import InstanceState
from .provider import Machine, MachineState


class Agree(msgspec.Struct, frozen=True):
    """Nothing to do."""


class Adopt(msgspec.Struct, frozen=True):
    """Ours and running, but the record is missing or says otherwise: take it back."""

    machine: Machine


class RemoveOrphan(msgspec.Struct, frozen=True):
    """Carries our label, and nobody wants it."""

    machine: Machine
    reason: str


class NoteFailure(msgspec.Struct, frozen=True):
    """It ended by itself or is lost: the record becomes `failed`."""

    failure: Failure


class Correct(msgspec.Struct, frozen=True):
    """Same worker, other facts (stopped by a person, another port): the record follows the machine."""

    machine: Machine


class Settle(msgspec.Struct, frozen=True):
    """A command was claimed and its provisioner died before the end: carry it out to its end now."""

    intent: Intent


Finding = Agree | Adopt | RemoveOrphan | NoteFailure | Correct | Settle


def compare(
    record: InstanceRecord | None, machine: Machine | None, *, intent: Intent | None, wanted: bool, now: float, abandoned_s: float
) -> Finding:
    """`intent` is that of the record's last command (or, without a record, of the command the machine was made by);
    `wanted` says whether its endpoint and group still exist; a claim is abandoned when it is older than `abandoned_s`.
    """
    if intent is not None and intent.status == plan.CLAIMED:
        return Settle(intent) if now - intent.at >= abandoned_s else Agree()
    if record is None:
        return _unrecorded(machine, intent, wanted=wanted)
    if instances.is_gone(record):
        return RemoveOrphan(machine, f"destroyed by {record.command_id or 'an operator'}") if machine is not None else Agree()
    if machine is None:
        return _vanished(record, now)
    return _both(record, machine)


def _unrecorded(machine: Machine | None, intent: Intent | None, *, wanted: bool) -> Finding:
    if machine is None:
        return Agree()
    if intent is not None and intent.status == plan.FAILED:
        return RemoveOrphan(machine, f"its command {intent.command_id} was given up")
    if not wanted:
        return RemoveOrphan(machine, "its endpoint or group no longer exists")
    return Adopt(machine)


def _vanished(record: InstanceRecord, now: float) -> Finding:
    if record.state in (InstanceState.FAILED, InstanceState.DESTROYING):
        return Agree()  # its end is known, or is what a command is about
    if record.gone_at is not None and now >= record.gone_at:
        return NoteFailure(Failure(cause=Cause.PREEMPTED, message=f"provider {record.provider} took the machine back", at=now))
    return NoteFailure(plan.lost(record, now))


def _both(record: InstanceRecord, machine: Machine) -> Finding:
    running = machine.state is MachineState.RUNNING
    if running and record.state != InstanceState.RUNNING:
        return Adopt(machine)
    if machine.state is MachineState.EXITED:
        if record.state in {InstanceState.FAILED, InstanceState.STOPPED}:
            return Agree()
        assert machine.failure is not None, "an exited machine says why"
        return NoteFailure(machine.failure)
    if machine.state is MachineState.STOPPED and record.state == InstanceState.FAILED:
        return Agree()
    mirrored = instances.mirrored(machine, record, record.provider, record.state_at)
    return Agree() if mirrored == record else Correct(machine)
