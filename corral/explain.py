"""A decision in words: what was seen, considered and done, why, and what is different from the one before. Pure."""

from __future__ import annotations

import re

import msgspec

from .replaying import Finding
from .wire import events

_ID = re.compile(r"e(\d{1,16})\.g(\d{1,16})")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One input."""

    name: str
    value: float | None  #: None: nothing was known
    unit: str = ""
    age_s: float | None = None
    before: float | None = None  #: at the decision before
    changed: bool = False
    is_new: bool = False  #: the decision before did not look at it


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    decision_id: str
    endpoint: str
    endpoint_id: int
    at: float
    why: str
    sentence: str
    hot_before: int
    hot_wanted: int
    cold_before: int
    cold_wanted: int
    endpoint_state: str
    seen: tuple[Seen, ...]
    considered: tuple[str, ...]
    done: tuple[events.Action, ...]
    policy: str
    policy_hash: str
    epoch: int
    generation: int
    look_again_s: float
    read: tuple[events.StreamRead, ...]
    before_id: str = ""  #: the decision before; "": it is not there
    before_s: float = 0.0  #: how long before
    changes: tuple[str, ...] = ()  #: since then, apart from inputs
    check: Finding | None = None  #: whether its input gives it again


def ids_of(decision_id: str) -> tuple[int, int] | None:
    """(endpoint id, generation); None when it is not the id of a decision."""
    match = _ID.fullmatch(decision_id.strip())
    return None if match is None else (int(match[1]), int(match[2]))


def explain(event: events.Decided, before: events.Decided | None, *, endpoint: str, check: Finding | None = None) -> Explanation:
    """`before` is the decision with the generation before, if it is there."""
    return Explanation(
        decision_id=event.decision_id,
        endpoint=endpoint,
        endpoint_id=event.endpoint_id,
        at=event.at,
        why=str(event.why),
        sentence=event.reason,
        hot_before=event.hot_before,
        hot_wanted=event.hot_wanted,
        cold_before=event.cold_before,
        cold_wanted=event.cold_wanted,
        endpoint_state=str(event.endpoint_state),
        seen=_seen(event, before),
        considered=event.candidates,
        done=event.actions,
        policy=event.policy,
        policy_hash=event.policy_hash,
        epoch=event.epoch,
        generation=event.generation,
        look_again_s=event.look_again_s,
        read=event.read,
        before_id=before.decision_id if before is not None else "",
        before_s=event.at - before.at if before is not None else 0.0,
        changes=_changes(event, before) if before is not None else (),
        check=check,
    )


def _seen(event: events.Decided, before: events.Decided | None) -> tuple[Seen, ...]:
    earlier = {read.name: read.value for read in before.inputs} if before is not None else {}
    return tuple(
        Seen(
            name=read.name,
            value=read.value,
            unit=read.unit,
            age_s=read.age_s,
            before=earlier.get(read.name),
            changed=before is not None and (read.name not in earlier or earlier[read.name] != read.value),
            is_new=before is not None and read.name not in earlier,
        )
        for read in event.inputs
    )


def _changes(event: events.Decided, before: events.Decided) -> tuple[str, ...]:
    found = []
    for name, then, now in (
        ("the reason", before.why, event.why),
        ("hot workers wanted", before.hot_wanted, event.hot_wanted),
        ("cold workers wanted", before.cold_wanted, event.cold_wanted),
        ("hot workers there", before.hot_before, event.hot_before),
        ("cold workers there", before.cold_before, event.cold_before),
        ("the endpoint's state", before.endpoint_state, event.endpoint_state),
        ("the policy", before.policy, event.policy),
        ("the leader's epoch", before.epoch, event.epoch),
    ):
        if then != now:
            found.append(f"{name}: {then} -> {now}")
    if before.policy_hash != event.policy_hash:
        found.append("the scaler's constants are others")
    gone = {read.name for read in before.inputs} - {read.name for read in event.inputs}
    if gone:
        found.append(f"no longer looked at: {', '.join(sorted(gone))}")
    return tuple(found)
