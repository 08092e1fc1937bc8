"""How much work a worker does per second: measured if it was, else as its group's others, else as the user expects."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from schemas.ids import GroupId

from .types import EndpointState, GroupSpec, WorkerFact


def perf_of(state: EndpointState, worker: WorkerFact) -> float | None:
    """Units per second; None: nobody knows."""
    return worker.perf if worker.perf > 0 else group_perf(state, worker.group_id)


def group_perf(state: EndpointState, group_id: GroupId) -> float | None:
    """What one more worker of this group would do; None: nobody knows."""
    memory = state.groups.get(group_id)
    if memory is not None and memory.perf > 0:
        return memory.perf
    spec = _group(state, group_id)
    return spec.expected_perf if spec is not None and spec.expected_perf is not None and spec.expected_perf > 0 else None


def reference_perf(state: EndpointState, hot: Iterable[WorkerFact]) -> float | None:
    """Units per second of the average worker: of the hot ones, or of the groups while there are none."""
    workers = list(hot)
    known = [worker.perf for worker in workers]
    if min(known, default=0.0) <= 0:
        known = [perf for worker in workers if (perf := perf_of(state, worker)) is not None]
    if not known and state.spec is not None:
        known = [perf for group in state.spec.groups if group.weight > 0 and (perf := group_perf(state, group.id)) is not None]
    return sum(known) / len(known) if known else None


def total(state: EndpointState, workers: Iterable[WorkerFact], reference: float) -> float:
    """Units per second of all of them; those of unknown perf count as the average."""
    return sum(perf_of(state, worker) or reference for worker in workers)


def workers_for(units_per_s: float, perf: float, tolerance: float) -> int:
    """Whole workers for this much work; a shortage of less than `tolerance` of a worker is not worth another."""
    return max(0, ceil(units_per_s / perf - tolerance))


def _group(state: EndpointState, group_id: GroupId) -> GroupSpec | None:
    groups = state.spec.groups if state.spec is not None else ()
    return next((group for group in groups if group.id == group_id), None)
