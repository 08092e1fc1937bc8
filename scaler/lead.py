"""How long it takes until help is there: by the fastest way there is, from asking for a worker to its being ready."""

from __future__ import annotations

import msgspec

from . import learning
from .groups import Standing
from .scene import Scene


class Lead(msgspec.Struct, frozen=True):
    seconds: float
    from_cold: bool  #: a stopped worker would be started


def lead(scene: Scene) -> Lead:
    """Of the groups that could start one and get requests. What was seen counts before what is guessed."""
    cold = {worker.group_id for worker in scene.roster.kept_cold}
    able = [here for here in scene.standings.values() if here.spec.managed and here.spec.weight > 0 and not here.halted]
    ways = [_of(here, scene.policy.boot_guess_s, from_cold=here.spec.id in cold) for here in able]
    known = [way for is_known, way in ways if is_known] or [way for _, way in ways]
    best = min(known, key=lambda way: way.seconds, default=Lead(scene.policy.boot_guess_s, bool(cold)))
    return Lead(max(1.0, best.seconds), best.from_cold)


def _of(here: Standing, guess_s: float, *, from_cold: bool) -> tuple[bool, Lead]:
    memory = here.memory
    is_known = bool(memory.boot_cold_s if from_cold else memory.boot_new_s)
    return is_known, Lead(learning.boot_s(memory, from_cold=from_cold, guess_s=guess_s), from_cold)
