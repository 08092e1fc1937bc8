"""A change must leave an endpoint whose parts make sense together (`schemas.whole`).

Only what a change brings is held against it: an endpoint that was contradictory before can still be renamed, stopped and mended one
thing at a time. Whoever takes several steps and has checked the whole, as `corral apply` has, says `rest_follows`: what is between two
of its steps need not make sense. Deleting a group asks for nothing, so it is not checked.
"""

from __future__ import annotations

from schemas import whole
from schemas.records import EndpointRecord

from . import problems


def checked(before: EndpointRecord, after: EndpointRecord, now: float) -> EndpointRecord:
    """`after`. Raises HttpProblem 422 with every contradiction between its parts that was not there before; `now` unix s."""
    known = _wrong(before, now)
    brought = tuple(sentence for sentence in _wrong(after, now) if sentence not in known)
    if brought:
        raise problems.contradiction(brought)
    return after


def _wrong(record: EndpointRecord, now: float) -> tuple[str, ...]:
    override = record.override if record.override is not None and record.override.expires_at > now else None
    return whole.problems(record.settings, record.groups, record.schedules, override)
