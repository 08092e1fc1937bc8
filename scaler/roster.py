"""Who is on the list: workers of an endpoint by what they are good for, and the small edits a fold makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from schemas.ids import GroupId, WorkerId
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
        everybody = [worker for worker in state.workers.values() if worker.state in LIVING]
        foreign = [worker for worker in everybody if self._is_foreign(worker)]
        own = [worker for worker in everybody if not self._is_foreign(worker)]
        self.living: list[WorkerFact] = everybody
        self.orphans: list[WorkerFact] = [w for w in own if w.group_id not in groups]
        members = [w for w in own if w.group_id in groups]
        self.ready: list[WorkerFact] = _in(members, lambda w: w.state is WorkerState.READY)
        self.coming: list[WorkerFact] = _in(members, lambda w: w.state in COMING)
        self.draining: list[WorkerFact] = _in(members, lambda w: w.state is WorkerState.DRAINING)
        self.cold: list[WorkerFact] = _in(members, lambda w: w.state is WorkerState.STOPPED)
        self.stopping: list[WorkerFact] = _in(members, lambda w: w.state is WorkerState.STOPPING)
        self.failed: list[WorkerFact] = _in(members, lambda w: w.state is WorkerState.ERROR)
        self.brought_ready: list[WorkerFact] = _in(foreign, lambda w: w.state is WorkerState.READY)

    def _is_foreign(self, worker: WorkerFact) -> bool:
        group = self.groups.get(worker.group_id)
        return worker.provider == "external" if group is None else not group.managed

    def is_stale(self, worker: WorkerFact) -> bool:
        """Of an older template revision than its group has now."""
        group = self.groups.get(worker.group_id)
        return group is not None and worker.revision < group.revision

    @property
    def hot(self) -> list[WorkerFact]:
        """Ready or on the way: capacity that is already paid for. Counted by id, so nothing is bought twice."""
        return [*self.ready, *self.coming, *self.brought_ready]

    @property
    def kept_cold(self) -> list[WorkerFact]:
        """Stopped, or about to be."""
        leaving = [w for w in self.draining if w.drain is not None and w.drain.then == "stop"]
        return [*self.cold, *self.stopping, *leaving]


def _in(workers: Iterable[WorkerFact], belongs: Callable[[WorkerFact], bool]) -> list[WorkerFact]:
    return [worker for worker in workers if belongs(worker)]
