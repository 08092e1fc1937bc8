"""Which group may start a worker now, and which should.

Tiers are the overflow order: a higher one is used only when no lower one can start anything. Inside a tier the group that
lacks most of its weight's share goes first.
"""

from __future__ import annotations

import msgspec

from schemas.reasons import Why

from . import learning
from .roster import Roster
from .types import EndpointState, GroupMemory, GroupSpec, Policy


class Closed(msgspec.Struct, frozen=True):
    """Why a group may not start anything now."""

    why: Why
    text: str
    until_at: float | None = None


def memory(state: EndpointState, group: GroupSpec) -> GroupMemory:
    return learning.memory_of(state, group.id, group.revision)


def is_halted(state: EndpointState, group: GroupSpec) -> bool:
    """The breaker of the group's present template revision is open."""
    breaker = memory(state, group).breaker
    return breaker is not None and breaker.revision == group.revision


def closed(state: EndpointState, group: GroupSpec, coming: int, policy: Policy, now: float) -> Closed | None:
    """None: it may start one more, with `coming` of its workers on the way already."""
    known = memory(state, group)
    name = group.name or f"g{group.id}"
    if not group.managed:
        return Closed(Why.STEADY, f"{name}: its machines are brought by people")
    if group.weight <= 0:
        return Closed(Why.STEADY, f"{name}: weight 0")
    if known.breaker is not None and known.breaker.revision == group.revision:
        breaker = known.breaker
        text = f"{name}: halted after {breaker.failures} failed starts in a row ({breaker.cause}), ${breaker.cost_usd:.2f} spent on them"
        return Closed(Why.BREAKER_OPEN, text)
    if now < known.backoff_until_at:
        cause = known.last_failure.cause if known.last_failure is not None else "a failure"
        text = f"{name}: last start failed ({cause}), next try in {known.backoff_until_at - now:.0f} s"
        return Closed(Why.REPLACE, text, known.backoff_until_at)
    if known.failed_in_row and coming >= 1:
        return Closed(Why.REPLACE, f"{name}: one start at a time while the last one failed")
    if not known.ready_seen and coming >= policy.breaker_failures:
        return Closed(Why.STEADY, f"{name}: at most {coming} at once until the first of this revision is ready")
    return None


def tiers(roster: Roster) -> list[list[GroupSpec]]:
    """Groups by tier, lowest first."""
    levels = sorted({group.tier for group in roster.groups.values()})
    return [[group for group in roster.groups.values() if group.tier == level] for level in levels]


def quarantined(state: EndpointState, now: float) -> tuple[str, ...]:
    """Hosts where nothing should be started now."""
    return tuple(sorted(name for name, host in state.hosts.items() if host.quarantined_until_at > now))[:32]
