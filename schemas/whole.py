"""An endpoint as a whole: what its settings, schedules and override ask for, held against what its worker groups may have. Pure.

    floor      cold_workers, hot_min of each schedule and of the override
    together   the sum of the groups' max_workers

Only groups that can start workers count: with a weight above 0, and not brought by people. Where one of them sets no max_workers,
or where people bring machines, of which there may be any number, the groups have no limit of their own. So it is while there is no
group yet, and while all have weight 0, which is how an endpoint is paused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .records import UNMANAGED_PROVIDERS, Override, ScalingSettings, Schedule, WorkerGroup


def together(groups: Iterable[WorkerGroup]) -> int | None:
    """Workers that all groups may have in all; None: no limit."""
    routed = [group for group in groups if group.weight > 0]
    if not routed or any(group.provider in UNMANAGED_PROVIDERS for group in routed):
        return None
    limits = [group.max_workers for group in routed if group.max_workers is not None]
    return sum(limits) if len(limits) == len(routed) else None


def problems(
    settings: ScalingSettings,
    groups: Sequence[WorkerGroup],
    schedules: Iterable[Schedule] = (),
    override: Override | None = None,
) -> tuple[str, ...]:
    """Contradictions between the parts, each as one sentence for the user that begins with what asks for too much; empty when they make
    sense together. `override`: one that holds.
    """
    most = together(groups)
    if most is None:
        return ()
    routed = [group for group in groups if group.weight > 0]
    alone = routed[0].name if len(routed) == 1 else ""
    whose = f"worker group {alone} may have" if alone else "the worker groups may have together"
    mend = "raise max_workers of a group"
    found = []
    if settings.cold_workers is not None and settings.cold_workers > most:
        found.append(f"cold_workers ({settings.cold_workers}) is more than {whose} ({most}): {mend}, or lower cold_workers")
    if most == 0:
        none = f"worker group {alone} may have no worker" if alone else "no worker group may have a worker"
        found += [f"{says}, and {none}: {mend}, or {other}" for says, other in _never_zero(settings)]
    for number, schedule in enumerate(schedules):
        if schedule.hot_min > most:
            found.append(
                f"schedules[{number}]: hot_min ({schedule.hot_min}) is more than {whose} ({most}): {mend}, or lower hot_min"
            )
    if override is not None and (override.hot_min or 0) > most:
        found.append(
            f"hot_min ({override.hot_min}) of the override of {override.owner} is more than {whose} ({most}): {mend}, lower hot_min, "
            "or clear the override"
        )
    return tuple(found)


def _never_zero(settings: ScalingSettings) -> list[tuple[str, str]]:
    """(which setting always wants workers, how it would want none)."""
    found = []
    if settings.min_load > 0:
        found.append((f"min_load ({settings.min_load:g}) keeps some hot", "set min_load to 0"))
    if (settings.min_cold_load or 0) > 0:
        found.append((f"min_cold_load ({settings.min_cold_load:g}) keeps some in reserve", "set min_cold_load to 0"))
    if settings.inactivity_timeout is not None and settings.inactivity_timeout < 0:
        never = f"inactivity_timeout ({settings.inactivity_timeout:g}) says never to go to zero"
        found.append((never, "set inactivity_timeout to 0 or more"))
    return found
