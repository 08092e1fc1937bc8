"""The boundary of the engine: what it is told at each step, what it answers."""

from __future__ import annotations

import msgspec


class Arrivals(msgspec.Struct, frozen=True):
    """Requests of about one size."""

    count: float
    service_s: float  #: how long each will hold a slot of a usual worker


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint since the step before. A *worker* is the endpoint's usual one: `slots` requests at once."""

    at_s: float  #: any clock that goes forward
    arrivals: tuple[Arrivals, ...] = ()
    present: float | None = None  #: requests here now; only needed when sizes are not known (see costs_known)
    costs_known: bool = True  #: False: service times of arrivals are not to be trusted, count who is here instead
    waiting: int = 0  #: requests without a slot
    serving: int = 0  #: requests in slots
    oldest_s: float = 0.0  #: who has waited longest of those without a slot; 0 where nobody tells
    settled_s: float = 0.0  #: since the newest worker became ready
    hot: int = 0  #: workers ready or on their way
    started: int = 0  #: requests that began since the step before
    late: int = 0  #: of these, after more than target_wait_s; those given up count as well
    slots: int = 1
    lead_s: float = 27.3  #: from asking for a worker to its being ready, by the fastest way there is
    billed_share: float = 1.0  #: of that time that is paid for
    target_wait_s: float = 5.0
    target_util: float = 1.0  #: a pool is not planned to be busier than this, on average over the longest `average_s`
    least: int = 0  #: hot workers that are kept whatever the load
    most: int = 1  #: hot workers that there may be


class Opinion(msgspec.Struct, frozen=True, kw_only=True):
    """How many hot workers, and how the engine came to it."""

    hot: int  #: before the floors and ceilings of the user
    asked: float  #: mean of the rules' targets, by weight, before rounding and floors
    load_slots: float  #: requests in service, had there been room for all
    rule: str  #: the best rule now
    share: float  #: its part of the weight
    low: int  #: the smallest and ...
    high: int  #: ... the largest target among rules of some weight
    because: str  #: what decided: rules, prior, caution, target_util, queue, present; floor: the user
    slack: float  #: calibration: how much of the late share shadows may use
