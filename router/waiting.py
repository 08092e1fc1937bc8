"""Why a request waits, as a code and a sentence, and when it may be worth while to ask again."""

from __future__ import annotations

from collections.abc import Container

import msgspec

from schemas.ids import GroupId
from schemas.reasons import Cause
from schemas.states import EndpointState, WorkerState

from .desk import Desk
from .requests import Request

#: What a client that does not listen is told to wait before it asks again.
RETRY_AT_CAPACITY_S = 0.5
RETRY_STARTING_S = 2.0
RETRY_NOTHING_S = 5.0


class Wait(msgspec.Struct, frozen=True):
    reason: str
    sentence: str
    retry_after_s: float
    eta_s: float | None = None  #: until the next worker should be ready


def why(desk: Desk, request: Request, wall: float, halted: Container[GroupId] = ()) -> Wait:
    """The first that is true, from what people decided down to what the machines do. `wall` is unix s."""
    record, fleet = desk.record, desk.fleet
    if record.state is EndpointState.STOPPED:
        return Wait("stopped", f"Endpoint {desk.name} is stopped; set endpoint_state to active to serve it.", RETRY_NOTHING_S)
    if not record.groups:
        return Wait("no_group", f"Endpoint {desk.name} has no worker group yet; create one.", RETRY_NOTHING_S)
    if fleet.routable:
        if request.excluded and not fleet.others_than(request.excluded):
            return Wait(
                "excluded", "Every ready worker has already failed this request; waiting for another.", RETRY_AT_CAPACITY_S
            )
        return Wait("at_capacity", "All ready workers are busy; waiting for a free one.", RETRY_AT_CAPACITY_S)
    coming = fleet.coming
    if coming:
        eta_s = fleet.starts.eta_s(wall)
        soon = "" if eta_s is None else f", the first in about {eta_s:.0f} s"
        return Wait("starting", f"No worker is ready; {coming} on the way{soon}.", RETRY_STARTING_S, eta_s)
    failures = [w.record.failure for w in fleet.workers.values() if w.record.state is WorkerState.ERROR and w.record.failure]
    if all(group.id in halted for group in record.groups) or any(failure.cause is Cause.HALTED for failure in failures):
        return Wait("halted", "The worker group is halted after repeated failures; see its events.", RETRY_NOTHING_S)
    if failures:
        return Wait("failing", f"Workers fail to start ({failures[-1].cause}); trying again.", RETRY_NOTHING_S)
    if record.settings.max_workers == 0:
        return Wait("max_workers", "max_workers is 0, so no worker may start.", RETRY_NOTHING_S)
    if record.state is EndpointState.SUSPENDED:
        return Wait(
            "suspended", f"Endpoint {desk.name} is suspended and has no ready worker; nothing will be started.", RETRY_NOTHING_S
        )
    return Wait("no_worker", "No worker is ready; one was asked for.", RETRY_STARTING_S)
