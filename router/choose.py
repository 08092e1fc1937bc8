"""Which worker? Policies side by side: plain functions of one signature, so that they can be compared.

`least_expected_wait` is the one in use. A client talks to the worker directly and the router hears of it only once a
second, so what a worker has is estimated: what it last reported, and what was promised to it and not yet reported, less what
it should have finished since. A worker with a free slot makes nobody wait; past its slots, each request in front costs the
endpoint's mean cost divided by the worker's speed.

The estimate is that of a fluid queue with n slots: what is in service shrinks by the worker's speed while all slots are busy, and
exponentially once fewer are (M. Dahlin, "Interpreting stale load information", IEEE TPDS 11, 2000, for reports that grow old). It
holds whatever the sizes are, and goes on without reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp
from typing import Protocol, TypeVar

import msgspec


class Candidate(Protocol):
    """What a policy may look at."""

    @property
    def perf(self) -> float: ...  # work units per second, > 0
    @property
    def slots(self) -> int: ...  # requests served at once, >= 1
    @property
    def inflight(self) -> int: ...  # requests there, by its last report
    @property
    def promised(self) -> int: ...  # sent there, not yet in a report
    @property
    def there(self) -> float: ...  # requests thought to be there at `there_at`
    @property
    def there_at(self) -> float: ...  # monotonic s
    @property
    def standing(self) -> int: ...  # 0 is best
    @property
    def tie(self) -> int: ...  # the router's own order among equals


C = TypeVar("C", bound=Candidate)


class Ask(msgspec.Struct, frozen=True, gc=False):
    """The request, as far as a policy cares."""

    salt: int  #: of this request; breaks ties, feeds the policies of chance
    mean_cost: float  #: work units of a usual request of this endpoint, > 0
    now: float  #: monotonic s


Policy = Callable[[Sequence[C], Ask], C | None]


def backlog(c: Candidate, mean_cost: float, now: float) -> float:
    """Requests thought to be there now."""
    there, slots = c.there, c.slots
    if there > 0:
        finished = (now - c.there_at) * c.perf / mean_cost  # with all slots busy
        if there > slots:
            if finished <= there - slots:
                return there - finished
            finished -= there - slots
            there = float(slots)
        return there * exp(-finished / slots)
    return 0.0


def expected_wait_s(c: Candidate, mean_cost: float, now: float) -> float:
    """Seconds until one more request would get a slot; 0 while one is free."""
    over = backlog(c, mean_cost, now) + 1 - c.slots
    return over * mean_cost / c.perf if over > 0 else 0.0


def mix(salt: int, tie: int) -> int:
    """A cheap hash of request and worker: equal workers take turns, differently at every router."""
    return ((salt ^ tie) * 0x9E3779B97F4A7C15 >> 29) & 0xFFFFFFFF


def least_expected_wait(candidates: Sequence[C], ask: Ask) -> C | None:
    """The shortest wait; among those without any, the one that would be fastest with this request added."""
    best: C | None = None
    best_standing, best_wait, best_rate, best_tie = 0, 0.0, 0.0, 0
    mean_cost, now, salt = ask.mean_cost, ask.now, ask.salt
    for c in candidates:
        # backlog(), written out: this runs for every request.
        perf, slots, there = c.perf, c.slots, c.there
        if there > 0:
            finished = (now - c.there_at) * perf / mean_cost
            if there > slots:
                if finished <= there - slots:
                    there -= finished
                    finished = 0.0
                else:
                    finished -= there - slots
                    there = slots
            there *= exp(-finished / slots)
        standing, over = c.standing, there + 1 - slots
        wait = over / perf if over > 0 else 0.0
        rate = perf / (there + 1)
        if best is not None:
            if standing != best_standing:
                better = standing < best_standing
            elif wait != best_wait:
                better = wait < best_wait
            elif rate != best_rate:
                better = rate > best_rate
            else:
                better = mix(salt, c.tie) < best_tie
            if not better:
                continue
        best, best_standing, best_wait, best_rate, best_tie = c, standing, wait, rate, mix(salt, c.tie)
    return best


def least_requests(candidates: Sequence[C], ask: Ask) -> C | None:
    """Fewest requests by report and promise, whatever the worker's speed."""
    return min(candidates, key=lambda c: (c.standing, c.inflight + c.promised, mix(ask.salt, c.tie)), default=None)


def power_of_two(candidates: Sequence[C], ask: Ask) -> C | None:
    """The better of two drawn by the request's salt."""
    if not candidates:
        return None
    n = len(candidates)
    first = mix(ask.salt, 0x5DEECE66D) % n
    second = (first + 1 + mix(ask.salt, 0xB5026F5AA) % (n - 1)) % n if n > 1 else first
    return least_requests([candidates[first], candidates[second]], ask)


def round_robin(candidates: Sequence[C], ask: Ask) -> C | None:
    """In turn, when salts are consecutive numbers."""
    return candidates[ask.salt % len(candidates)] if candidates else None


def uniform(candidates: Sequence[C], ask: Ask) -> C | None:
    """Any, drawn by the request's salt."""
    return candidates[mix(ask.salt, 0x2545F4914F6CDD1D) % len(candidates)] if candidates else None
