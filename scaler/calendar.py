"""The floor by the calendar: what schedules ask for now, early enough that workers are ready when one begins.

      begin - 2 leads       begin - lead        begin                      end
    --------|-------------------|-----------------|--------------------------|-------->
     who is hot anyway stays    workers start     at least hot_min are hot    as the load asks

The lead is how long starts take here: from a stopped disk when as many as needed lie there, else anew. Keeping who is hot from two
leads on means that what was started early is never let go again when the lead is learned to be shorter.
"""

from __future__ import annotations

import msgspec

from schemas import schedules
from schemas.records import Schedule
from schemas.schedules import ScheduleError

from . import learning
from .roster import Roster
from .scene import Scene

#: Nine of ten starts take no longer.
_QUANTILE = 0.9
_MAX_LEAD_S = 3600.0


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """What the calendar asks for at one moment."""

    hot_min: int = 0
    sentence: str = ""
    until_at: float | None = None  #: when to look again: the next begin or end
    unreadable: tuple[str, ...] = ()  #: schedules that this machine cannot follow, and why


def floor(scene: Scene) -> Floor:
    """The highest of all that hold now."""
    spec = scene.state.spec
    found = Floor()
    for schedule in spec.schedules if spec is not None else ():
        try:
            asked, edge_at = _asked(schedule, scene)
        except ScheduleError as error:  # its time zone may be known where it was set, and not here
            found = msgspec.structs.replace(found, unreadable=(*found.unreadable, f"schedule not followed: {error}"))
            continue
        if edge_at is not None and (found.until_at is None or edge_at < found.until_at):
            found = msgspec.structs.replace(found, until_at=edge_at)
        if asked is not None and schedule.hot_min > found.hot_min:
            found = msgspec.structs.replace(found, hot_min=schedule.hot_min, sentence=asked)
    return found


def _asked(schedule: Schedule, scene: Scene) -> tuple[str | None, float | None]:
    """(in words what it asks for now, if anything; the next moment at which that changes)."""
    now = scene.now
    span = schedules.span(schedule, now)
    if span is None:
        return None, None
    named = f"schedule {schedule.cron} ({schedule.time_zone}): at least {schedule.hot_min} hot"
    if span.holds(now):
        return f"{named} for another {_rough(span.end_at - now)}", span.end_at
    lead_s, longest_s = _lead_s(scene, schedule.hot_min)
    start_at = span.begin_at - lead_s
    if now >= start_at:
        return f"{named} in {_rough(span.begin_at - now)}, and a start takes up to {lead_s:.0f} s", span.begin_at
    if now >= span.begin_at - 2 * longest_s and scene.state.targets.hot >= schedule.hot_min:
        return f"{named} in {_rough(span.begin_at - now)}: who is hot stays", start_at
    return None, start_at


def _lead_s(scene: Scene, hot_min: int) -> tuple[float, float]:
    """How long before the begin to start; the longest that a start of any kind takes."""
    state, roster = scene.state, scene.roster
    groups = [state.groups[group.id] for group in roster.groups.values() if group.managed and group.weight > 0]
    guess_s = scene.policy.boot_guess_s
    cold_s, new_s = (
        max((learning.boot_s(memory, from_cold=cold, guess_s=guess_s, quantile=_QUANTILE) for memory in groups), default=guess_s)
        for cold in (True, False)
    )
    longest_s = min(max(cold_s, new_s), _MAX_LEAD_S)
    return (min(cold_s, _MAX_LEAD_S) if _on_disk(roster) >= hot_min else longest_s), longest_s


def _on_disk(roster: Roster) -> int:
    """Workers whose model is on their disk: they serve, or are back soon."""
    return len(roster.serving) + len(roster.kept_cold) + sum(worker.from_cold for worker in roster.coming)


def _rough(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
