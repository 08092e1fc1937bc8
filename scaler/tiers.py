"""The overflow order. Tier 0 first; a higher tier helps out

    when no lower one can start anything: full, sold out, halted, backing off; or
    when its own threshold is passed: the tiers below are used above `overflow_util`, or somebody has waited `overflow_queue_s`.

While a threshold is passed the next worker comes from that tier, and what is still coming below counts only if it will be there
before it. A tier that has one on its way stays open a little below its threshold, so a queue around it does not order and cancel in
turn. Who helped out is released first, or moved home when the lower tier can take over (`moves`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from schemas.ids import GroupId

from .groups import Standing
from .scene import Scene

#: Part of its threshold above which a tier stays open while something of it is on its way.
_STAYS_OPEN_UTIL = 0.9
_STAYS_OPEN_QUEUE = 0.5


def levels(groups: Iterable[Standing]) -> list[list[Standing]]:
    """Groups by tier, lowest first."""
    found: dict[int, list[Standing]] = {}
    for here in groups:
        found.setdefault(here.spec.tier, []).append(here)
    return [found[tier] for tier in sorted(found)]


def lowest(groups: Iterable[Standing]) -> int:
    """The tier that serves the load; 0 while no group has a weight."""
    return min((here.spec.tier for here in groups if here.spec.weight > 0), default=0)


def goes_by_cost(level: Iterable[Standing]) -> bool:
    """Whether nobody gave a weight to a group of this tier, so that cost decides. One weight makes all of them count."""
    weighted = [here.spec.by_cost for here in level if here.spec.weight > 0]
    return bool(weighted) and all(weighted)


def opened(scene: Scene, standings: Mapping[GroupId, Standing]) -> list[Standing]:
    """Groups whose threshold is passed, in the order of their tiers."""
    found = []
    for here in standings.values():
        spec = here.spec
        if spec.overflow_util is None and spec.overflow_queue_s is None:
            continue
        util, queue_s = spec.overflow_util, spec.overflow_queue_s
        if here.coming:
            util, queue_s = util and util * _STAYS_OPEN_UTIL, queue_s and queue_s * _STAYS_OPEN_QUEUE
        used = util is not None and used_below(scene, standings, spec.tier) >= util
        waits = queue_s is not None and 0 < waited_s(scene) >= queue_s
        if used or waits:
            found.append(here)
    return sorted(found, key=lambda here: (here.spec.tier, here.spec.id))


def used_below(scene: Scene, standings: Mapping[GroupId, Standing], tier: int) -> float:
    """Share of the slots of ready workers in lower tiers that is taken, 0..1. Of nobody nothing is used: the first worker comes
    from below.
    """
    busy, ready = 0.0, 0
    for worker in scene.roster.serving:
        here = standings.get(worker.group_id)
        if here is not None and here.spec.tier < tier:
            ready += 1
            busy += min(1.0, (worker.inflight + worker.queued) / max(worker.slots, 1))
    return busy / ready if ready else 0.0


def waited_s(scene: Scene) -> float:
    """How long the longest waiting request has waited, at a router or in a worker's queue."""
    return max(scene.here.oldest_wait_s, scene.here.oldest_queued_s)
