"""What a scaling policy is told at each of its ticks. Exact and without delay: the same for every policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Target(NamedTuple):
    """How many workers of a group are wanted."""

    hot: int  #: ready or on their way
    total: int | None = None  #: hot and stopped together; None: as the tier has it


class GroupSeen(NamedTuple):
    """One group of workers, now."""

    ready: int
    coming: int  #: creating, loading or starting
    resuming: int  #: of `coming`: from stopped, seconds away; the rest are being created, minutes away
    draining: int
    evicted: int  #: draining because the provider gave notice
    stopped: int
    price: float  #: per hot hour
    offers: int  #: how many workers the market has, those we hold included
    no_offers: int = 0  #: creations that found no offer since the last tick
    failed_starts: int = 0  #: since the last tick


@dataclass(slots=True)
class Observation:
    now_s: float
    ready: int  #: workers, over all groups
    coming: int
    waiting: int  #: requests
    serving: int  #: requests in slots
    oldest_wait_s: float  #: 0 when nobody waits
    present_s: float  #: integral of (waiting + serving) since the beginning, in request-seconds
    arrived: int  #: requests since the beginning
    arrived_s: float  #: their work since the beginning, in seconds of one slot of the reference worker
    new_units: Sequence[float] = ()  #: sizes of the requests that came since the last tick
    waits_s: Sequence[float] = ()  #: waits of those that started, infinite for those given up, since the last tick
    groups: Sequence[GroupSeen] = ()

    @property
    def hot(self) -> int:
        """Workers that serve or soon will."""
        return self.ready + self.coming

    @property
    def present(self) -> int:
        """Requests in the system."""
        return self.waiting + self.serving
