"""Who is on the list: workers of an endpoint by what they are good for, and the small edits a fold makes."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.ids import GroupId, WorkerId
from schemas.records import UNMANAGED_PROVIDERS
from schemas.states import COMING, WorkerState

from .types import EndpointState, GroupSpec, WorkerFact

_replace = msgspec.structs.replace

#: Exists or soon will, and costs something.
LIVING = frozenset(WorkerState) - {WorkerState.DESTROYING, WorkerState.GONE}


def put(state: EndpointState, worker: WorkerFact) -> EndpointState:
    return _replace(state, workers={**state.workers, worker.worker_id: worker})


def without(state: EndpointState, worker_id: WorkerId) -> EndpointState:
    if worker_id not in state.workers:
        return state
    return _replace(state, workers={wid: worker for wid, worker in state.workers.items() if wid != worker_id})


def changed(state: EndpointState, worker_id: WorkerId, **fields: Any) -> EndpointState:
    worker = state.workers.get(worker_id)
    return state if worker is None else put(state, _replace(worker, **fields))


class Roster:
    """The workers of one state, sorted once per decision. `managed` ones only: what people bring is theirs to end."""

    def __init__(self, state: EndpointState) -> None:
        groups = {group.id: group for group in state.spec.groups} if state.spec is not None else {}
        self.groups: dict[GroupId, GroupSpec] = groups
        self.living: list[WorkerFact] = []
        self.orphans: list[WorkerFact] = []  #: of a group that was deleted
        self.ready: list[WorkerFact] = []
        self.coming: list[WorkerFact] = []
        self.draining: list[WorkerFact] = []
        self.cold: list[WorkerFact] = []
        self.stopping: list[WorkerFact] = []
        self.failed: list[WorkerFact] = []
        self.ending: list[WorkerFact] = []  #: to be destroyed; they cost something until they are gone
        self.brought_ready: list[WorkerFact] = []  #: machines that people brought
        self.unrouted: list[WorkerFact] = []  #: ready or on the way, and of a group to which routers give nothing
        places = {
            WorkerState.READY: self.ready,
            WorkerState.DRAINING: self.draining,
            WorkerState.STOPPED: self.cold,
            WorkerState.STOPPING: self.stopping,
            WorkerState.ERROR: self.failed,
            **dict.fromkeys(COMING, self.coming),
        }
        brought_groups = self._brought_groups = {group_id for group_id, group in groups.items() if not group.managed}
        routed = {group_id for group_id, group in groups.items() if group.weight > 0}
        shut = groups.keys() - routed if routed else frozenset()
        for worker in state.workers.values():
            place = places.get(worker.state)
            if place is None:
                if worker.state is WorkerState.DESTROYING:
                    self.ending.append(worker)
                continue
            self.living.append(worker)
            provider, group_id = worker.provider, worker.group_id
            brought = (
                provider in UNMANAGED_PROVIDERS if provider else group_id in brought_groups
            )  # as is_brought, without the call
            if brought:
                if place is self.ready and group_id not in shut:
                    self.brought_ready.append(worker)
            elif group_id not in groups:
                self.orphans.append(worker)
            elif group_id in shut and (place is self.ready or place is self.coming):
                self.unrouted.append(worker)
            else:
                place.append(worker)
        #: Ready for requests, whoever they belong to.
        self.serving = [*self.ready, *self.brought_ready]
        #: Ready or on the way: capacity that is already paid for. Counted by id, so nothing is bought twice.
        self.hot = [*self.ready, *self.coming, *self.brought_ready]
        #: Stopped, or about to be.
        self.kept_cold = [
            *self.cold,
            *self.stopping,
            *[w for w in self.draining if w.drain is not None and w.drain.then == "stop"],
        ]

    def is_brought(self, worker: WorkerFact) -> bool:
        """A machine that somebody brought, whatever its group buys otherwise: theirs to end, not ours."""
        return worker.provider in UNMANAGED_PROVIDERS if worker.provider else worker.group_id in self._brought_groups

    def is_stale(self, worker: WorkerFact) -> bool:
        """Of an older template revision than its group has now, or still puts up with."""
        group = self.groups.get(worker.group_id)
        return group is not None and worker.revision < (group.oldest_revision or group.revision)
