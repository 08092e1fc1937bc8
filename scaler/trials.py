"""Learning what groups are worth: where cost decides and nobody has measured a group, one worker of it is tried.

    rides on need    a worker that is needed anyway comes from a group that nobody has measured (`buying`)
    above need       else one is started in addition: a few groups at the same time, within a share of the pool
    up to a price    a group whose try would cost more than learn_usd is left until nobody else can help; while no price is known,
                     the number of tries is their bound
    ends by itself   once it was ready its perf and price are known; if it cannot be started, the group's breaker says stop

What is tried above need does not count as one too many while it is on its way. Ready, it is measured, and the worst of all may go.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor

from schemas.ids import GroupId

from .buying import Buyer
from .groups import Standing
from .scene import Scene
from .shares import Shares
from .types import Policy, Want


def unmeasured(standings: Mapping[GroupId, Standing], shares: Shares) -> list[Standing]:
    """Groups whose worth nobody knows, among those that cost chooses from. A group alone has nobody to be compared with."""
    free = [here for here in standings.values() if shares.is_free(here.spec.id)]
    return [here for here in free if not here.is_measured] if len(free) > 1 else []


def under_way(standings: Mapping[GroupId, Standing], shares: Shares) -> int:
    """Workers of such groups that are on their way."""
    return sum(here.coming for here in unmeasured(standings, shares))


def allowance(wanted: Want, policy: Policy) -> int:
    """How many may be tried above need."""
    return max(1, floor(policy.learn_share * wanted.hot)) if wanted.hot > 0 else 0


def due(
    scene: Scene, wanted: Want, standings: Mapping[GroupId, Standing], shares: Shares, buyer: Buyer, above: float
) -> Standing | None:
    """The group to be tried now, with `above` hot workers above need already; None: none, or not now."""
    policy = scene.policy
    waiting = unmeasured(standings, shares)
    if not waiting or under_way(standings, shares) >= policy.learn_workers or above + 1 > allowance(wanted, policy):
        return None
    for here in waiting:
        if not here.hot and here.is_worth_a_try and buyer.can(here):
            return here
    return None


def words(here: Standing, standings: Mapping[GroupId, Standing], shares: Shares) -> str:
    """Why it is tried."""
    left = len(unmeasured(standings, shares))
    return f"{here.name} is not measured yet: one of it is tried above need, so that costs can be compared ({left} to go)"
