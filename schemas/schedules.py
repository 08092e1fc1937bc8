"""When a schedule holds. Pure: the moment is an argument, and the same moment gives the same answer everywhere.

    cron     |         |         |          every moment of `cron` in the schedule's time zone
    floor    |=====|   |=====|   |=====|    from each of them for lasts_s

Moments are as Debian's cron has them: one that falls into the hour that is skipped in spring comes right after it, one in the hour
that comes twice in autumn comes once.

Cron's arithmetic is cronsim's. The rules of time zones are those of the machine's tz database or, where it has none, of the package tzdata.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from .records import ScalingSettings, Schedule

MAX_SCHEDULES = 32
MAX_LASTS_S = 7 * 86400.0
_MAX_CRON_CHARS = 256
_MINUTE_S = 60


class ScheduleError(ValueError):
    """A schedule that cannot be followed; one sentence says why."""


class Span(msgspec.Struct, frozen=True):
    """A stretch of time in which a schedule holds, unix seconds."""

    begin_at: float
    end_at: float

    def holds(self, now: float) -> bool:
        return self.begin_at <= now < self.end_at


def next_after(schedule: Schedule, at: float) -> float | None:
    """The first moment of `cron` after `at`, unix seconds; None when there is none within 50 years. Raises ScheduleError."""
    # Moments are whole minutes, so all of one minute has the same next one.
    return _next_after(schedule.cron, schedule.time_zone, int(at // _MINUTE_S) * _MINUTE_S)


def span(schedule: Schedule, now: float) -> Span | None:
    """The stretch that holds now, or else the next one; None when there will be none. Where moments come so close that their
    stretches meet, the end is that of the earliest stretch that still holds. Raises ScheduleError.
    """
    begin_at = next_after(schedule, now - schedule.lasts_s)
    return None if begin_at is None else Span(begin_at, begin_at + schedule.lasts_s)


def problems(schedules: Iterable[Schedule], settings: ScalingSettings) -> tuple[str, ...]:
    """What is wrong with these schedules, each as one sentence for the user that names the schedule; empty when all are good."""
    found: list[str] = []
    for number, schedule in enumerate(schedules):
        where = f"schedules[{number}]"
        if number >= MAX_SCHEDULES:
            return (*found, f"{where}: an endpoint has at most {MAX_SCHEDULES} schedules")
        try:
            if next_after(schedule, 0.0) is None:
                found.append(f"{where}: cron {schedule.cron!r} never comes")
        except ScheduleError as error:
            found.append(f"{where}: {error}")
        if not _MINUTE_S <= schedule.lasts_s <= MAX_LASTS_S:
            found.append(f"{where}: lasts_s must be from {_MINUTE_S} to {MAX_LASTS_S:.0f}")
        if schedule.hot_min < 1:
            found.append(f"{where}: hot_min must be at least 1")
        elif schedule.hot_min > settings.max_workers:
            found.append(
                f"{where}: hot_min ({schedule.hot_min}) is more than max_workers ({settings.max_workers}): lower the first or raise the second"
            )
    return tuple(found)


@lru_cache(maxsize=4096)
def _next_after(cron: str, time_zone: str, at: int) -> float | None:
    zone = _zone(time_zone)
    if len(cron) > _MAX_CRON_CHARS or len(cron.split()) != 5:
        raise ScheduleError(f"cron {cron[:40]!r} must have five fields: minute, hour, day of month, month, day of week")
    try:
        moments = CronSim(cron, datetime.fromtimestamp(at, zone))
    except CronSimError as error:
        raise ScheduleError(f"cron {cron!r}: {str(error).lower()}") from error
    # In the hour that comes twice the first answer may lie in its first pass, and that is over.
    return next((found for moment in moments if (found := moment.timestamp()) > at), None)


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # needs no database
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ScheduleError(f"unknown time zone {name[:40]!r}; it is a name such as UTC or Europe/Berlin") from error
