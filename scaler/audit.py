"""Holds recorded decisions against their inputs, one after the other, and each against the one before it.

    equal        its input gives what was told, and it follows the one before
    different    its input gives something else
    broken       it does not follow the one before: one of the two was changed after it was told
    missing      decisions between the one before and this one are not there
    unchecked    this version cannot say: the input is not there, was written anew, or is of another policy, version or format

A chain may begin anew where a scaler lost its memory (it says so by naming no hash before it), and where the stream forgot what was
before. Both are no faults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from schemas.events import Decided
from schemas.ids import EndpointId

from . import replay

_MAX_SHOWN_CHARS = 300


class Outcome(StrEnum):
    EQUAL = "equal"
    DIFFERENT = "different"
    BROKEN = "broken"
    MISSING = "missing"
    UNCHECKED = "unchecked"


#: What must not be.
WRONG = frozenset({Outcome.DIFFERENT, Outcome.BROKEN, Outcome.MISSING})


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """About one decision."""

    outcome: Outcome
    endpoint_id: EndpointId
    decision_id: str
    generation: int
    at: float
    policy: str = ""
    field: str = ""  #: the first that differs
    told: str = ""  #: as JSON, cut when long
    derived: str = ""
    text: str = ""  #: one sentence; "" when all is well
    anew: bool = False  #: the chain of the endpoint begins here, though there were decisions before


class _Link(msgspec.Struct, frozen=True):
    """What the next decision must follow."""

    generation: int
    decision_id: str
    epoch: int
    hash: str | None  #: None: not known


class Auditor:
    """Feed it the decisions of any endpoints, each endpoint's in the order in which they were told."""

    def __init__(self) -> None:
        self._last: dict[EndpointId, _Link] = {}
        self.counts: Counter[Outcome] = Counter()

    def take(self, event: Decided) -> Finding:
        finding = self._take(event)
        self.counts[finding.outcome] += 1
        return finding

    def _take(self, event: Decided) -> Finding:
        checked = replay.check(event)
        last = self._last.get(event.endpoint_id)
        if last is not None and (last.generation, last.decision_id) == (event.generation, event.decision_id):
            return self._again(event, checked)
        chain = _follows(event, last)
        digest = None
        if checked.decision is not None and event.format == replay.FORMAT:
            digest = replay.hash_of(checked.decision, event.previous_hash)
        self._last[event.endpoint_id] = _Link(event.generation, event.decision_id, event.epoch, digest)
        anew = last is not None and event.previous_hash == ""
        if checked.field:
            return _finding(event, checked, anew=anew)
        if chain is not None:
            return chain
        if not checked.unchecked and event.format != replay.FORMAT:
            text = f"it is of format {event.format}, this version makes chains of format {replay.FORMAT}"
            return _about(event, Outcome.UNCHECKED, text=text, anew=anew)
        return _finding(event, checked, anew=anew)

    @staticmethod
    def _again(event: Decided, checked: replay.Check) -> Finding:
        """A leader that cannot know whether the one before it told a decision tells it again, without the input."""
        if checked.unchecked:
            text = f"told a second time, by the leader of epoch {event.epoch}"
            return _about(event, Outcome.UNCHECKED, text=text)
        return _finding(event, checked, anew=False)


def first_wrong(events: Iterable[Decided]) -> Finding | None:
    """The first that must not be; None when there is none."""
    auditor = Auditor()
    return next((finding for event in events if (finding := auditor.take(event)).outcome in WRONG), None)


def _follows(event: Decided, last: _Link | None) -> Finding | None:
    """None when it follows the one before, or need not."""
    if last is None or event.previous_hash == "":
        return None
    if event.generation > last.generation + 1:
        first, final = last.generation + 1, event.generation - 1
        text = f"generation {first} before it is" if first == final else f"generations {first} to {final} before it are"
        came = f"; the leader of epoch {last.epoch} ended in between" if event.epoch != last.epoch else ""
        return _about(event, Outcome.MISSING, "generation", event.generation, first, f"{text} not there{came}")
    if event.generation <= last.generation:
        text = f"it comes after generation {last.generation}"
        return _about(event, Outcome.BROKEN, "generation", event.generation, last.generation + 1, text)
    if last.hash is not None and event.format == replay.FORMAT and event.previous_hash != last.hash:
        text = f"it does not follow {last.decision_id} as its input gives it"
        return _about(event, Outcome.BROKEN, "previous_hash", event.previous_hash, last.hash, text)
    return None


def _finding(event: Decided, checked: replay.Check, *, anew: bool) -> Finding:
    if checked.field:
        text = f"{checked.field} was told otherwise than its input gives"
        if checked.field == "state_hash":
            text = "its input is not the one it was told with"
        return _about(event, Outcome.DIFFERENT, checked.field, checked.told, checked.derived, text, anew=anew)
    if checked.unchecked:
        return _about(event, Outcome.UNCHECKED, text=checked.unchecked, anew=anew)
    return _about(event, Outcome.EQUAL, text="the chain begins anew: the memory before it was lost" if anew else "", anew=anew)


def _about(
    event: Decided,
    outcome: Outcome,
    field: str = "",
    told: Any = None,
    derived: Any = None,
    text: str = "",
    *,
    anew: bool = False,
) -> Finding:
    return Finding(
        outcome=outcome,
        endpoint_id=event.endpoint_id,
        decision_id=event.decision_id,
        generation=event.generation,
        at=event.at,
        policy=event.policy,
        field=field,
        told=_shown(told) if field else "",
        derived=_shown(derived) if field else "",
        text=text,
        anew=anew,
    )


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
