"""Bytes to structs and back. An unknown kind comes back as a value, so that an old reader survives a new writer."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from .commands import AnyCommand
from .events import AnyEvent
from .records import EndpointRecord, InstanceRecord, Intent, WorkerRecord
from .signals import DemandReport, Heartbeat

T = TypeVar("T")

encode = msgspec.json.encode

_event_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_command_decoder: msgspec.json.Decoder[AnyCommand] = msgspec.json.Decoder(AnyCommand)
heartbeat = msgspec.json.Decoder(Heartbeat).decode
demand_report = msgspec.json.Decoder(DemandReport).decode
worker_record = msgspec.json.Decoder(WorkerRecord).decode
endpoint_record = msgspec.json.Decoder(EndpointRecord).decode
instance_record = msgspec.json.Decoder(InstanceRecord).decode
intent = msgspec.json.Decoder(Intent).decode

#: What a decoder raises on bytes it cannot read.
DecodeError = msgspec.DecodeError


class Unknown(msgspec.Struct, frozen=True):
    """A well-formed message of a kind this version does not know."""

    kind: str
    raw: bytes


class _EventKind(msgspec.Struct):
    kind: str


class _CommandOp(msgspec.Struct):
    op: str


_event_kind = msgspec.json.Decoder(_EventKind)
_command_op = msgspec.json.Decoder(_CommandOp)


def event(data: bytes) -> AnyEvent | Unknown:
    """Raises DecodeError when it is no event at all, or a known kind with wrong fields."""
    try:
        return _event_decoder.decode(data)
    except msgspec.ValidationError:
        kind = _event_kind.decode(data).kind
        if kind in _known(AnyEvent):
            raise
        return Unknown(kind, data)


def command(data: bytes) -> AnyCommand | Unknown:
    """Raises DecodeError when it is no command at all, or a known one with wrong fields."""
    try:
        return _command_decoder.decode(data)
    except msgspec.ValidationError:
        op = _command_op.decode(data).op
        if op in _known(AnyCommand):
            raise
        return Unknown(op, data)


def _known(union: Any) -> set[str]:
    return {member.__struct_config__.tag for member in union.__args__}


def decode(data: bytes, kind: type[T]) -> T:
    """For the rare messages; the frequent ones have a decoder of their own above."""
    return msgspec.json.decode(data, type=kind)
