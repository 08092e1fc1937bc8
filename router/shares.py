"""Weights of the groups of one tier, kept exactly: after any number of requests each group is within one of its share.

Tijdeman's rule for the chairman assignment problem (R. Tijdeman, "The chairman assignment problem", Discrete Mathematics
32, 1980): among the groups that have earned a request, serve the one whose deadline is nearest. No rule can do better
than its bound of 1 - 1/(2n - 2).

A group that can take nothing at the moment earns nothing, so it comes back without a claim on the past.
"""

from __future__ import annotations

from collections.abc import Sequence


class Share:
    """One group's account. `credit` is what it earned less what it got, in requests."""

    __slots__ = ("credit", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.credit = 0.0


def next_turn(shares: Sequence[Share]) -> int:
    """Whose turn it is, as an index; books the turn. `shares` are those that can take a request now, each with a
    weight above 0. Raises ValueError when there is none.
    """
    if not shares:
        raise ValueError("no group can take a request")
    n = len(shares)
    if n == 1:
        return 0
    total = sum(share.weight for share in shares)
    slack = 1 / (2 * n - 2)
    chosen, nearest = -1, 0.0
    for index, share in enumerate(shares):
        rate = share.weight / total
        share.credit += rate
        if share.credit >= slack - 1e-12:
            deadline = (1 - slack - share.credit) / rate
            if chosen < 0 or deadline < nearest:
                chosen, nearest = index, deadline
    if chosen < 0:
        # Only possible after the set of groups has changed: nobody has earned enough, the best paid goes first.
        chosen = max(range(n), key=lambda index: shares[index].credit)
    shares[chosen].credit -= 1
    return chosen
