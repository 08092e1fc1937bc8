"""Decisions told so that anybody can check them: the event carries the whole input, and each names the hash of the one before.

`pack` and `told` make the event, `check` decides again from what was recorded and compares, bit for bit. `audit` does so for a
sequence, and finds out whether one is missing or was changed in between.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from functools import cache
from typing import Any

import msgspec

from schemas.events import Action as ToldAction
from schemas.events import Decided, StreamRead

from . import decide, rewritten
from .types import Decision, EndpointState, Policy, Recorded

#: Of the recorded input and of `hash_of`. A change of either that gives other bytes for what there was before is a new number.
#: Inputs were told as plain JSON while they were small; those are read as before.
FORMAT = 1

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Recorded)
_decision_decoder = msgspec.json.Decoder(Decision)
#: An event must stay far below the bus's limit of 1 MiB.
MAX_RECORD_BYTES = 512 * 1024
_MAX_UNPACKED_BYTES = 64 * 1024 * 1024


class _Packed(msgspec.Struct, frozen=True):
    zlib_base64: str = ""  #: "": it is not packed


def pack(state: EndpointState, policy: Policy, now: float) -> msgspec.Raw:
    """The input of one decide(), compressed; null when even that is too large for an event. As one string of JSON it stays the same
    bytes, whoever writes the event anew.
    """
    data = _encoder.encode(Recorded(state=state, policy=policy, now=now))
    data = _encoder.encode(_Packed(base64.b64encode(zlib.compress(data, level=1)).decode()))
    return msgspec.Raw(data if len(data) <= MAX_RECORD_BYTES else b"null")


def unpack(record: msgspec.Raw) -> Recorded:
    """Raises ValueError when the record is none, or of a format this version does not know."""
    try:
        return _decoder.decode(_plain(record))
    except msgspec.DecodeError as error:
        raise ValueError(f"not the input of a decision: {error}") from error


def _plain(record: msgspec.Raw) -> bytes:
    """The input as JSON. Raises ValueError."""
    data = bytes(record)
    if data == b"null":
        raise ValueError("it was told without its input")
    try:
        packed = msgspec.json.decode(data, type=_Packed)
        if not packed.zlib_base64:
            return data
        expander = zlib.decompressobj()
        plain = expander.decompress(base64.b64decode(packed.zlib_base64), _MAX_UNPACKED_BYTES)
    except (msgspec.DecodeError, zlib.error, ValueError) as error:
        raise ValueError(f"not the input of a decision: {error}") from error
    if expander.unconsumed_tail:
        raise ValueError(f"not the input of a decision: more than {_MAX_UNPACKED_BYTES} bytes")
    return plain


def hash_of(decision: Decision, previous_hash: str) -> str:
    """Hash of a decision and, through `previous_hash`, of all before it."""
    # A whole number in a field for fractions is written without one, and read back as a fraction: the same decision, other bytes.
    as_read = _decision_decoder.decode(_encoder.encode(decision))
    digest = hashlib.sha256(previous_hash.encode())
    digest.update(_encoder.encode(_essence(as_read)))
    return digest.hexdigest()


def _essence(value: Any) -> Any:
    """Without what is as by default, so that a field that comes later changes no hash of before."""
    if isinstance(value, msgspec.Struct):
        pairs = ((name, getattr(value, name)) for name in value.__struct_fields__)
        usual = _defaults(type(value))
        return {name: _essence(found) for name, found in pairs if name not in usual or usual[name] != found}
    return [_essence(one) for one in value] if isinstance(value, tuple) else value


@cache
def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(kind) if field.default is not msgspec.NODEFAULT}


def told(
    decision: Decision,
    *,
    epoch: int,
    policy_hash: str,
    previous_hash: str,
    record: msgspec.Raw,
    read: tuple[StreamRead, ...] = (),
) -> Decided:
    """The event that tells a decision."""
    return Decided(
        id=f"evt:{decision.decision_id}",
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
        state_hash=told_hash(record),
        previous_hash=previous_hash,
        endpoint_state=decision.activity,
        look_again_s=decision.look_again_s,
        read=read,
        format=FORMAT,
        record=record,
    )


def told_hash(record: msgspec.Raw) -> str:
    """Of an input, in the bytes in which it was told."""
    return hashlib.sha256(bytes(record)).hexdigest()


def policy_hash(policy: Policy) -> str:
    return hash_of_bytes(_encoder.encode(policy))


def hash_of_bytes(policy: bytes) -> str:
    """Of a policy as it was recorded, with fields that we may not know."""
    return hashlib.sha256(policy).hexdigest()[:16]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What deciding again gave. `decision` is None where nothing is known about it."""

    decision: Decision | None = None
    unchecked: str = ""  #: why it could not be checked
    field: str = ""  #: the first that differs; "": none does
    told: Any = None
    derived: Any = None


#: Not derived from the input: who told it, where it was read, and the input itself (its hash is compared).
_NOT_DERIVED = frozenset({"epoch", "read", "format", "record"})

_ANEW = "its input was told as plain JSON and was written anew since, so its hash says nothing"


def check(event: Decided) -> Check:
    """Decide again from the recorded input. An input of another version that gives something else is no error: nobody knows what that
    version would have said. Neither is one that was written anew where its hash is lost by that.
    """
    record = _as_told(event)
    is_told = told_hash(record) == event.state_hash
    if not is_told and _is_anew(record):
        return Check(unchecked=_ANEW)
    try:
        plain = _plain(record)
        recorded = _decoder.decode(plain)
    except (ValueError, msgspec.DecodeError) as error:
        if bytes(record) != b"null" and not is_told:
            return Check(field="state_hash", told=event.state_hash, derived=told_hash(record))
        return Check(unchecked=str(error))
    if foreign := unknown_policy(recorded.policy):
        return Check(unchecked=foreign)
    try:
        again = decide.decide(recorded.state, recorded.policy, recorded.now)
    except Exception as error:  # noqa: BLE001 -- whatever it is: the scaler that told the decision did not meet it
        difference = Check(field="decision_id", told=event.decision_id, derived=f"{type(error).__name__}: {error}")
    else:
        policy = msgspec.json.decode(plain, type=_RawPolicy).policy
        difference = _difference(event, again, hash_of_bytes(bytes(policy)), record)
    if difference.field not in ("", "state_hash") and not _is_ours(msgspec.json.decode(plain), recorded):
        return Check(unchecked="its input has fields that this version does not know, or lacks some")
    return difference


def _as_told(event: Decided) -> msgspec.Raw:
    """The input in the bytes that were hashed, also where the event was written anew since; as it stands where those are not found."""
    writings = rewritten.writings(bytes(event.record), Recorded)
    found = (raw for data in writings if told_hash(raw := msgspec.Raw(data)) == event.state_hash)
    return next(found, event.record)


def _is_anew(record: msgspec.Raw) -> bool:
    """Of an input that was told as plain JSON, whether somebody else wrote these bytes. One that is packed is one string, always."""
    try:
        plain = _plain(record)
    except ValueError:
        return False
    return plain == bytes(record) and rewritten.is_anew(plain, Recorded)


def _is_ours(raw: Any, value: Any) -> bool:
    """Whether the JSON has no field that its struct lacks; of a policy, which is written whole, also whether it lacks none."""
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        whole = not isinstance(value, Policy) or raw.keys() == set(names)
        return whole and all(name in names and _is_ours(inner, getattr(value, name)) for name, inner in raw.items())
    if isinstance(value, dict):
        return all(_is_ours(inner, known) for inner, known in zip(raw.values(), value.values(), strict=True))
    if isinstance(value, tuple):
        return all(_is_ours(inner, known) for inner, known in zip(raw, value, strict=True))
    return True


def _difference(event: Decided, again: Decision, policy_hash: str, record: msgspec.Raw) -> Check:
    expected = told(
        again,
        epoch=event.epoch,
        policy_hash=policy_hash,
        previous_hash=event.previous_hash,
        record=record,
    )
    for name in Decided.__struct_fields__:
        if name not in _NOT_DERIVED and getattr(expected, name) != getattr(event, name):
            return Check(decision=again, field=name, told=getattr(event, name), derived=getattr(expected, name))
    return Check(decision=again)


def unknown_policy(policy: Policy) -> str:
    """Why this version cannot decide as this policy would; "" when it can."""
    ours = Policy()
    if policy.name not in decide.ENGINES:
        return f"it is of engine {policy.name}, this version has {', '.join(sorted(decide.ENGINES))}"
    if policy.version != ours.version:
        return f"it is of policy {policy.name}/{policy.version}, this version has {policy.name}/{ours.version}"
    return ""


class _RawPolicy(msgspec.Struct):
    policy: msgspec.Raw


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
