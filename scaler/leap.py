"""A state after the scaler's clock was set: nothing happened and no time passed, so all that was measured by that clock moves along.

Only what others' clocks said stays: the provider's and the routers' moments, and what people wrote. Where they say how new the newest
word is, they go back with ours: if those clocks were set back too, no word would be new for as long.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from .engine import leap, memory
from .engine.constants import DEFAULT
from .types import (
    Breaker,
    Decision,
    Demand,
    Drain,
    EndpointState,
    Fresh,
    GroupMemory,
    HostMemory,
    Intent,
    RouterFact,
    Targets,
    Window,
    WorkerFact,
)

_replace = msgspec.structs.replace
_T = TypeVar("_T", bound=msgspec.Struct)

#: Moments by our clock. None and 0: never.
MOMENTS: dict[type[msgspec.Struct], tuple[str, ...]] = {
    EndpointState: ("at", "telemetry_at"),
    WorkerFact: ("state_at", "launched_at", "ready_at", "phase_at", "beat_at", "busy_at", "undrained_at", "end_failed_at"),
    Intent: ("issued_at", "deadline_at"),
    Drain: ("since_at", "deadline_at", "shown_at"),
    RouterFact: ("seen_at", "back_at"),
    GroupMemory: ("backoff_until_at",),
    Breaker: ("opened_at",),
    HostMemory: ("quarantined_until_at", "failed_at"),
    Demand: ("last_activity_at", "sampled_at"),
    Fresh: ("since_at",),
    Targets: ("hot_since_at",),
    Decision: ("at",),
}
#: Moments by others' clocks of the newest word: what is older is not heard.
NEWEST: dict[type[msgspec.Struct], tuple[str, ...]] = {WorkerFact: ("instance_at", "beat_sent_at")}
_DEMAND_WINDOWS = ("arrived_units", "arrivals", "served_units", "busy_workers_s", "present_peaks")
_TARGET_WINDOWS = ("hot_peaks", "cold_peaks")


def along(state: EndpointState, by_s: float) -> EndpointState:
    """The state as if all of it had happened `by_s` later; earlier when that is negative."""
    demand = _windows_along(_along(state.demand, by_s), _DEMAND_WINDOWS, state.at, by_s)
    last = state.last
    return _replace(
        _along(state, by_s),
        workers={worker_id: _worker(worker, by_s) for worker_id, worker in state.workers.items()},
        routers={name: _along(router, by_s) for name, router in state.routers.items()},
        demand=_replace(demand, fresh=_along(demand.fresh, by_s)),
        targets=_windows_along(_along(state.targets, by_s), _TARGET_WINDOWS, state.at, by_s),
        groups={group_id: _group(known, by_s) for group_id, known in state.groups.items()},
        hosts={name: _along(host, by_s) for name, host in state.hosts.items()},
        last=None if last is None else _replace(last, decision=_along(last.decision, by_s)),
        engine=_engine(state.engine, by_s),
    )


def _along(value: _T, by_s: float) -> _T:
    names = MOMENTS[type(value)] + (NEWEST.get(type(value), ()) if by_s < 0 else ())
    moments: dict[str, Any] = {name: at + by_s for name in names if (at := getattr(value, name))}
    return _replace(value, **moments)


def _worker(worker: WorkerFact, by_s: float) -> WorkerFact:
    return _replace(
        _along(worker, by_s),
        rebooted_at=tuple([at + by_s for at in worker.rebooted_at]),
        intent=None if worker.intent is None else _along(worker.intent, by_s),
        drain=None if worker.drain is None else _along(worker.drain, by_s),
    )


def _group(known: GroupMemory, by_s: float) -> GroupMemory:
    failure = known.last_failure
    return _replace(
        _along(known, by_s),
        rebooted_at=tuple([at + by_s for at in known.rebooted_at]),
        breaker=None if known.breaker is None else _along(known.breaker, by_s),
        last_failure=None if failure is None else _replace(failure, at=failure.at + by_s),
    )


def _windows_along(value: _T, names: tuple[str, ...], at: float, by_s: float) -> _T:
    """`at`: how far the windows may have been advanced. They move by whole buckets."""
    windows: dict[str, Any] = {}
    for name in names:
        window: Window = getattr(value, name)
        steps = int((at + by_s) // window.bucket_s) - int(at // window.bucket_s)
        windows[name] = _replace(window, last=window.last + steps, since_at=window.since_at + by_s)
    return _replace(value, **windows)


def _engine(data: bytes, by_s: float) -> bytes:
    """What another version of the rules wrote stays as it is: nobody will read it."""
    mind = memory.unpack(data, DEFAULT) if data else None
    return data if mind is None else memory.pack(leap.along(mind, by_s), DEFAULT)
