"""Which groups are halted, since when and for what: the scaler's open breakers, as its events tell them. Pure."""

from __future__ import annotations

import msgspec

from schemas.events import GroupHalted, GroupResumed
from schemas.ids import GroupId
from schemas.reasons import Cause, Phase


class Halt(msgspec.Struct, frozen=True, kw_only=True):
    """An open breaker: nothing more is bought for the group until its template changes or a person says so."""

    since_at: float
    revision: int  #: of the template that failed
    cause: Cause
    message: str
    phase: Phase | None
    failures: int  #: failed starts in a row
    cost_usd: float  #: spent on them


def folded(halts: dict[GroupId, Halt], told: GroupHalted | GroupResumed) -> None:
    """Bring `halts` up to date. A breaker that goes on to cost is told again."""
    if isinstance(told, GroupResumed):
        halts.pop(told.group_id, None)
        return
    known = halts.get(told.group_id)
    same = known is not None and known.revision == told.revision
    halts[told.group_id] = Halt(
        since_at=known.since_at if known is not None and same else told.at,
        revision=told.revision,
        cause=told.failure.cause,
        message=told.failure.message,
        phase=told.failure.phase,
        failures=told.failures,
        cost_usd=told.cost_usd,
    )
