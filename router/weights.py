"""What is due to each group of the traffic, by weight within its tier, and since when. Pure."""

from __future__ import annotations

from collections import defaultdict

from schemas.ids import GroupId
from schemas.records import EndpointRecord

#: Weights that are all multiplied by the same are the same shares.
_DIGITS = 9


def due(record: EndpointRecord) -> dict[int, dict[GroupId, float]]:
    """Tier -> group -> its part of the tier's traffic. Groups of weight 0 are due nothing and are left out."""
    weights: dict[int, dict[GroupId, float]] = defaultdict(dict)
    for group in record.groups:
        if group.weight > 0:
            weights[group.tier][group.id] = group.weight
    return {
        tier: {group_id: round(weight / sum(groups.values()), _DIGITS) for group_id, weight in groups.items()}
        for tier, groups in weights.items()
    }


class Changes:
    """When what is due in a tier was last changed, as far as this router has seen it. Times are monotonic s."""

    def __init__(self, record: EndpointRecord) -> None:
        self._due = due(record)
        self._at: dict[int, float] = {}

    def follow(self, record: EndpointRecord, now: float) -> None:
        """People changed the endpoint, perhaps its weights, its groups or their tiers."""
        before, self._due = self._due, due(record)
        self._at = {tier: at for tier, at in self._at.items() if tier in self._due}
        self._at |= {tier: now for tier, shares in self._due.items() if before.get(tier) != shares}

    def last(self, tier: int) -> float | None:
        """None: never."""
        return self._at.get(tier)
