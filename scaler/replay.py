"""Decisions told so that anybody can check them: the event carries the whole input, and each names the hash of the one before.

verify(event)      decide again from the recorded input and compare, bit for bit
verify_chain(...)  the same for a sequence, and that none is missing or changed in between; Chain does it one by one
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
#: Said of a decision whose leader died before it could tell it, and of one too large for an event.
WITHOUT_INPUT = "the decision was told without its input"


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
        raise ValueError(WITHOUT_INPUT)
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
    return _derived(event)[0]


class Chain:
    """The decisions of one endpoint as they come."""

    def __init__(self) -> None:
        self._next: tuple[str, int] | None = None  # hash and generation that the next one must name; None: any

    def add(self, event: Decided) -> str | None:
        """None when it is right and follows the one before; else one sentence. What was told without its input is not right, and
        whatever follows it is believed to follow.
        """
        expected, (problem, again) = self._next, _derived(event)
        self._next = None if again is None else (hash_of(again, event.previous_hash), event.generation + 1)
        if expected is not None and (event.previous_hash, event.generation) != expected:
            return f"{event.decision_id}: it does not follow the decision before (generation {event.generation}, expected {expected[1]})"
        return problem


def verify_chain(events: Iterable[Decided]) -> str | None:
    """None when every decision of one endpoint, in order, is right and follows the one before; else the first that is not."""
    chain = Chain()
    return next((problem for event in events if (problem := chain.add(event))), None)


def _derived(event: Decided) -> tuple[str | None, Decision | None]:
    """What is wrong with it, and the decision that its input gives."""
    try:
        recorded = unpack(event.record)
        again = decide.decide(recorded.state, recorded.policy, recorded.now)
    except (ValueError, KeyError) as error:
        return f"{event.decision_id}: {error}", None
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
            was, is_ = getattr(event, name), getattr(expected, name)
            return f"{event.decision_id}: {name} was told as {was!r}, its input gives {is_!r}", again
    return None, again


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
