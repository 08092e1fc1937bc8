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
    """Of the groups that could start one and get requests. One that never did is taken for no faster than the others of its tier; where a
    whole tier is unknown it is guessed.
    """
    cold = {worker.group_id for worker in scene.roster.kept_cold}
    able = [here for here in scene.standings.values() if here.spec.managed and here.spec.weight > 0 and not here.halted]
    found = [(here.spec.tier, here.spec.id in cold, _known_s(here, from_cold=here.spec.id in cold)) for here in able]
    slowest: dict[int, float] = {}
    for tier, _, known_s in found:
        if known_s is not None:
            slowest[tier] = max(known_s, slowest.get(tier, 0.0))
    guess_s = scene.policy.boot_guess_s
    ways = [Lead(slowest.get(tier, guess_s) if known_s is None else known_s, from_cold) for tier, from_cold, known_s in found]
    best = min(ways, key=lambda way: way.seconds, default=Lead(guess_s, bool(cold)))
    return Lead(max(1.0, best.seconds), best.from_cold)


def _known_s(here: Standing, *, from_cold: bool) -> float | None:
    """Seconds, as half of its starts took at most; None: it never started one that way."""
    seen = here.memory.boot_cold_s if from_cold else here.memory.boot_new_s
    return learning.boot_s(here.memory, from_cold=from_cold, guess_s=0.0) if seen else None
