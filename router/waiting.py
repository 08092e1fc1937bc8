"""Why a request waits, as a code and a sentence, and when it may be worth while to ask again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

import msgspec

from schemas.ids import GroupId
from schemas.reasons import Cause, WaitReason
from schemas.records import UNMANAGED_PROVIDERS, WorkerGroup
from schemas.states import COMING, EndpointState, WorkerState

from .desk import Desk
from .requests import Request

#: What a client that does not listen is told to wait before it asks again.
RETRY_AT_CAPACITY_S = 0.5
RETRY_STARTING_S = 2.0
RETRY_NOTHING_S = 5.0

#: More groups than this are counted and not named.
_MOST_NAMED = 5
_ON_DISK = frozenset({WorkerState.STOPPED, WorkerState.STOPPING})
_GOING = frozenset({WorkerState.DESTROYING, WorkerState.GONE})


class Wait(msgspec.Struct, frozen=True):
    reason: WaitReason
    sentence: str
    retry_after_s: float
    eta_s: float | None = None  #: until the next worker should be ready


def why(desk: Desk, request: Request, wall: float, halted: Container[GroupId] = ()) -> Wait:
    """The first that is true, from what people decided down to what the machines do. `wall` is unix s."""
    record = desk.record
    if record.state is EndpointState.STOPPED:
        return _nothing(WaitReason.STOPPED, f"Endpoint {desk.name} is stopped; set endpoint_state to active to serve it.")
    if not record.groups:
        return _nothing(WaitReason.NO_GROUP, f"Endpoint {desk.name} has no worker group yet; create one.")
    return _by_workers(desk, request, wall) or _by_settings(desk) or _by_failures(desk, halted) or _by_room(desk) or _asked_for()


def _by_workers(desk: Desk, request: Request, wall: float) -> Wait | None:
    """Some worker that requests can reach is here, or on its way. Those of a group with weight 0 get none."""
    if desk.routable:
        if request.excluded and not desk.others_than(request.excluded):
            text = "Every ready worker has already failed this request; waiting for another."
            return Wait(WaitReason.EXCLUDED, text, RETRY_AT_CAPACITY_S)
        return Wait(WaitReason.AT_CAPACITY, "All ready workers are busy; waiting for a free one.", RETRY_AT_CAPACITY_S)
    fleet, routed = desk.fleet, {group.id for group in desk.record.groups if group.weight > 0}
    coming = sum(worker.record.state in COMING and worker.group_id in routed for worker in fleet.workers.values())
    if not coming:
        return None
    eta_s = fleet.starts.eta_s(wall)
    soon = "" if eta_s is None else f", the first in about {eta_s:.0f} s"
    return Wait(WaitReason.STARTING, f"No worker is ready; {coming} on the way{soon}.", RETRY_STARTING_S, eta_s)


def _by_settings(desk: Desk) -> Wait | None:
    """What people set lets nothing start."""
    record = desk.record
    if record.settings.max_workers == 0:
        return _nothing(WaitReason.MAX_WORKERS, "max_workers is 0, so no worker may start; raise it.")
    if record.state is EndpointState.SUSPENDED:
        text = f"Endpoint {desk.name} is suspended and has no ready worker; nothing will be started until it is active again."
        return _nothing(WaitReason.SUSPENDED, text)
    barred = [_barred(group) for group in record.groups]
    first = min((reason for reason in barred if reason is not None), key=_BARRED.index, default=None)
    if first is None or None in barred:
        return None
    said = [
        f"{group.name or f'g{group.id}'} {_SAYS[reason]}" for group, reason in zip(record.groups, barred, strict=True) if reason
    ]
    if len(said) > _MOST_NAMED:
        said[_MOST_NAMED:] = [f"and {len(said) - _MOST_NAMED} more"]
    return _nothing(first, f"No worker is ready, and none will be started: {'; '.join(said)}. {_DO[first]}")


def _by_failures(desk: Desk, halted: Container[GroupId]) -> Wait | None:
    failures = [w.record.failure for w in desk.fleet.workers.values() if w.record.state is WorkerState.ERROR and w.record.failure]
    able = [group for group in desk.record.groups if _barred(group) is None]
    if all(group.id in halted for group in able) or any(failure.cause is Cause.HALTED for failure in failures):
        return _nothing(WaitReason.HALTED, "The worker group is halted after repeated failures; see its events.")
    if failures:
        return _nothing(WaitReason.FAILING, f"Workers fail to start ({failures[-1].cause}); trying again.")
    return None


def _by_room(desk: Desk) -> Wait | None:
    """As many exist as may, and none of them is on a disk, from where it could be started."""
    record = desk.record
    existing = [worker for worker in desk.fleet.workers.values() if worker.record.state not in _GOING]
    if any(worker.record.state in _ON_DISK for worker in existing):
        return None
    most = record.settings.max_workers
    if len(existing) >= most:
        text = f"No worker is ready, and as many exist as max_workers ({most}) allows; one must go first, or raise it."
        return Wait(WaitReason.FULL, text, RETRY_STARTING_S)
    here = Counter(worker.group_id for worker in existing)
    able = [group for group in record.groups if _barred(group) is None]
    if all(group.max_workers is not None and here[group.id] >= group.max_workers for group in able):
        text = "No worker is ready, and every group has as many as its max_workers allows; one must go first, or raise it."
        return Wait(WaitReason.FULL, text, RETRY_STARTING_S)
    return None


def _asked_for() -> Wait:
    return Wait(WaitReason.NO_WORKER, "No worker is ready; one was asked for.", RETRY_STARTING_S)


def _barred(group: WorkerGroup) -> WaitReason | None:
    """Why nothing of this group is ever started; None: it is, when there is room."""
    if group.weight <= 0:
        return WaitReason.WEIGHT_0
    if group.provider in UNMANAGED_PROVIDERS:
        return WaitReason.EXTERNAL
    return WaitReason.FULL if group.max_workers == 0 else None


#: What is easiest to mend comes first.
_BARRED = (WaitReason.FULL, WaitReason.EXTERNAL, WaitReason.WEIGHT_0)
_SAYS = {
    WaitReason.FULL: "has max_workers 0",
    WaitReason.EXTERNAL: "takes only machines that people bring",
    WaitReason.WEIGHT_0: "has weight 0",
}
_DO = {
    WaitReason.FULL: "Raise max_workers of a group.",
    WaitReason.EXTERNAL: "Bring a machine: `corral worker enroll`.",
    WaitReason.WEIGHT_0: "Give a group a weight above 0.",
}


def _nothing(reason: WaitReason, sentence: str) -> Wait:
    """Nothing will change by itself."""
    return Wait(reason, sentence, RETRY_NOTHING_S)
