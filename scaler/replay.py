"""Decisions told so that anybody can check them: the event carries the whole input, and each names the hash of the one before.

verify(event)      decide again from the recorded input and compare, bit for bit
verify_chain(...)  the same for a sequence, and that none is missing or changed in between
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable

import msgspec

from schemas.events import Action as ToldAction
from schemas.events import Decided

from . import decide
from .types import Decision, EndpointState, Policy, Recorded

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Recorded)
_COMPRESS_ABOVE_BYTES = 8 * 1024
#: An event must stay far below the bus's limit of 1 MiB.
MAX_RECORD_BYTES = 512 * 1024


class _Packed(msgspec.Struct, frozen=True):
    zlib_base64: str


def pack(state: EndpointState, policy: Policy, now: float) -> msgspec.Raw:
    """The input of one decide() as JSON; compressed when large, null when even that is too large for an event."""
    data = _encoder.encode(Recorded(state=state, policy=policy, now=now))
    if len(data) > _COMPRESS_ABOVE_BYTES:
        data = _encoder.encode(_Packed(base64.b64encode(zlib.compress(data, level=1)).decode()))
    return msgspec.Raw(data if len(data) <= MAX_RECORD_BYTES else b"null")


def unpack(record: msgspec.Raw) -> Recorded:
    """Raises ValueError when the record is none, or of a format this version does not know."""
    data = bytes(record)
    if data == b"null":
        raise ValueError("the decision was told without its input")
    try:
        if data.startswith(b'{"zlib_base64"'):
            packed = msgspec.json.decode(data, type=_Packed)
            data = zlib.decompress(base64.b64decode(packed.zlib_base64))
        return _decoder.decode(data)
    except (msgspec.DecodeError, zlib.error, ValueError) as error:
        raise ValueError(f"not the input of a decision: {error}") from error


def hash_of(decision: Decision, previous_hash: str) -> str:
    """Hash of a decision and, through `previous_hash`, of all before it."""
    digest = hashlib.sha256(previous_hash.encode())
    digest.update(_encoder.encode(decision))
    return digest.hexdigest()


def told(decision: Decision, *, event_id: str, epoch: int, policy_hash: str, previous_hash: str, record: msgspec.Raw) -> Decided:
    """The event that tells a decision."""
    return Decided(
        id=event_id,
        at=decision.at,
        endpoint_id=decision.endpoint_id,
        decision_id=decision.decision_id,
        generation=decision.generation,
        epoch=epoch,
        why=decision.why,
        reason=decision.sentence,
        hot_before=decision.hot_before,
        hot_wanted=decision.hot_wanted,
        cold_before=decision.cold_before,
        cold_wanted=decision.cold_wanted,
        actions=_told_actions(decision),
        inputs=decision.inputs,
        candidates=decision.candidates,
        policy=decision.policy + (" (advisory)" if decision.advisory else ""),
        policy_hash=policy_hash,
        state_hash=hashlib.sha256(bytes(record)).hexdigest(),
        previous_hash=previous_hash,
        endpoint_state=decision.activity,
        look_again_s=decision.look_again_s,
        record=record,
    )


def policy_hash(policy: Policy) -> str:
    return hashlib.sha256(_encoder.encode(policy)).hexdigest()[:16]


def verify(event: Decided) -> str | None:
    """None when the recorded input gives the told decision; else one sentence about the first difference."""
    try:
        recorded = unpack(event.record)
        again = decide.decide(recorded.state, recorded.policy, recorded.now)
    except (ValueError, KeyError) as error:
        return f"{event.decision_id}: {error}"
    expected = told(
        again,
        event_id=event.id,
        epoch=event.epoch,
        policy_hash=policy_hash(recorded.policy),
        previous_hash=event.previous_hash,
        record=event.record,
    )
    for name in Decided.__struct_fields__:
        if name != "record" and getattr(expected, name) != getattr(event, name):
            return (
                f"{event.decision_id}: {name} was told as {getattr(event, name)!r}, its input gives {getattr(expected, name)!r}"
            )
    return None


def verify_chain(events: Iterable[Decided]) -> str | None:
    """None when every decision of one endpoint, in order, is right and follows the one before; else the first that is not."""
    previous: tuple[str, int] | None = None
    for event in events:
        if problem := verify(event):
            return problem
        if previous is not None and (event.previous_hash, event.generation) != previous:
            return f"{event.decision_id}: it does not follow the decision before (generation {event.generation}, expected {previous[1]})"
        recorded = unpack(event.record)
        decision = decide.decide(recorded.state, recorded.policy, recorded.now)
        previous = (hash_of(decision, event.previous_hash), event.generation + 1)
    return None


def _told_actions(decision: Decision) -> tuple[ToldAction, ...]:
    return tuple(
        ToldAction(
            op=action.op,
            worker_id=action.worker_id,
            group_id=action.group_id,
            command_id=action.command_id,
            why=action.why,
            reason=action.reason,
        )
        for action in decision.actions
    )
