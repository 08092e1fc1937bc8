"""What a unit of work costs once it is delivered: the price of a machine is not the price of its work.

                        usd_per_hour / 3600 * (horizon_s + boot_s / (1 - failure_rate))
    usd per unit   =   ---------------------------------------------------------------
                                        perf * horizon_s

A worker is paid from the begin of its start, and of use for `horizon_s` after it. To have one that works takes 1 / (1 - p) starts on
average when each fails with probability p (the mean of a geometric distribution), and a start that fails is paid for about as long
as one that succeeds. So a cheap machine that boots slowly or often fails can cost more than a dear one.
"""

from __future__ import annotations

import msgspec

#: A group of which everything fails is no better known than this; its breaker is what stops it.
_MOST_FAILURES = 0.95


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What one more worker of a group would be like."""

    usd_per_hour: float | None  #: None: no price is known
    perf: float | None  #: units per second; None: nobody knows
    boot_s: float = 0.0
    failure_rate: float = 0.0  #: 0..1


def delivered_usd_per_unit(group: Delivery, horizon_s: float) -> float | None:
    """Dollars per unit of work of one more worker that will be of use for `horizon_s` seconds (> 0); None when price or perf
    is not known. Raises ValueError for a horizon of nothing.
    """
    if horizon_s <= 0:
        raise ValueError(f"a horizon of {horizon_s} s leaves no time to be of use")
    if group.usd_per_hour is None or group.perf is None or group.perf <= 0:
        return None
    starts = 1.0 / (1.0 - min(max(group.failure_rate, 0.0), _MOST_FAILURES))
    paid_s = horizon_s + max(group.boot_s, 0.0) * starts
    return group.usd_per_hour / 3600.0 * paid_s / (group.perf * horizon_s)


def usd_per_unit(usd_per_hour: float, perf: float | None) -> float:
    """Dollars per unit of a worker that is there already: its start is paid. 0 where it is free or nothing is known."""
    return usd_per_hour / 3600.0 / perf if perf else 0.0
