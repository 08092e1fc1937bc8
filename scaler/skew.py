"""A memory by another clock: the leader who stored it was ahead of us, so what it saw last lies in our future."""

from __future__ import annotations

import msgspec

from . import window
from .types import Demand, EndpointState, RouterFact, Targets

_replace = msgspec.structs.replace

#: Whoever leads now has waited for the lease, so nothing was stored more recently than this.
_STORED_AGO_S = 2.0


def by_our_clock(state: EndpointState, now: float) -> EndpointState:
    """The state with what was seen and wanted moved into the past. How long ago it was nobody knows: at least a moment.

    Workers and what was learned of groups stay as they are: what is due for them comes later by as much. So does the engine's own
    memory, which it moves itself.
    """
    if state.at <= now:
        return state
    by_s = state.at - now + _STORED_AGO_S
    demand, targets = _demand(state.demand, state.at, by_s), _targets(state.targets, state.at, by_s)
    routers = {name: _router(router, by_s) for name, router in state.routers.items()}
    return _replace(state, at=now, demand=demand, targets=targets, routers=routers)


def _demand(demand: Demand, at: float, by_s: float) -> Demand:
    return _replace(
        demand,
        arrived_units=window.shifted(demand.arrived_units, at, by_s),
        arrivals=window.shifted(demand.arrivals, at, by_s),
        served_units=window.shifted(demand.served_units, at, by_s),
        busy_workers_s=window.shifted(demand.busy_workers_s, at, by_s),
        present_peaks=window.shifted(demand.present_peaks, at, by_s),
        last_activity_at=_earlier(demand.last_activity_at, by_s),
        sampled_at=_earlier(demand.sampled_at, by_s),
        fresh=_replace(demand.fresh, since_at=_earlier(demand.fresh.since_at, by_s)),
    )


def _targets(targets: Targets, at: float, by_s: float) -> Targets:
    return _replace(
        targets,
        hot_since_at=_earlier(targets.hot_since_at, by_s),
        hot_peaks=window.shifted(targets.hot_peaks, at, by_s),
        cold_peaks=window.shifted(targets.cold_peaks, at, by_s),
    )


def _router(router: RouterFact, by_s: float) -> RouterFact:
    """Its mark is by the router's clock."""
    return _replace(router, seen_at=_earlier(router.seen_at, by_s), back_at=_earlier(router.back_at, by_s))


def _earlier(at: float, by_s: float) -> float:
    """0 is no moment: never."""
    return at - by_s if at else 0.0
