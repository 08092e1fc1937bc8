"""What should be: scaler (or an operator) -> CORRAL_CMD -> provisioner. Imperative; ids are deterministic.

A command that is repeated has the same id and does nothing twice. It ends as a fact (an event) or as a dead letter with a cause.
"""

from __future__ import annotations

import msgspec

from .ids import CommandId, EndpointId, GroupId, WorkerId
from .reasons import Why
from .records import Template


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="op"):
    """`epoch` fences commands of a leader that lost its lease; operators send epoch 0 and `issued_by` "operator:<name>"."""

    command_id: CommandId
    endpoint_id: EndpointId
    worker_id: WorkerId
    issued_at: float
    deadline_at: float  #: after this the command is dead and must not be carried out
    group_id: GroupId = GroupId(0)
    epoch: int = 0
    shard: int = 0
    issued_by: str = "scaler"
    why: Why = Why.STEADY
    reason: str = ""  #: the sentence
    decision_id: str = ""


class CreateWorker(Command, frozen=True, kw_only=True, tag="create"):
    """Rent and start a new worker."""

    template: Template
    provider: str = "process"
    revision: int = 1
    endpoint_name: str = ""
    search_params: str = ""
    gpu_ram: float | None = None
    price_cap_usd_per_hour: float | None = None
    avoid_hosts: tuple[
        str, ...
    ] = ()  #: where starts of this endpoint failed lately; a provider that has no others may say no_offer


class StartWorker(Command, frozen=True, kw_only=True, tag="start"):
    """Start a stopped (cold) worker."""


class StopWorker(Command, frozen=True, kw_only=True, tag="stop"):
    """Stop a drained worker and keep its disk: hot -> cold."""


class RebootWorker(Command, frozen=True, kw_only=True, tag="reboot"):
    """Stop and start again."""


class DestroyWorker(Command, frozen=True, kw_only=True, tag="destroy"):
    """Give the machine back."""


AnyCommand = CreateWorker | StartWorker | StopWorker | RebootWorker | DestroyWorker
OPS = ("create", "start", "stop", "reboot", "destroy")


def op_of(command: AnyCommand) -> str:
    """The token of the command's subject."""
    tag = command.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """CORRAL_DLQ: a command that will not be carried out, parked for a person."""

    command_id: str
    op: str
    cause: str
    message: str
    at: float
    deliveries: int = 0
    stream_seq: int = 0
    body: str = ""  #: the command as it was sent
