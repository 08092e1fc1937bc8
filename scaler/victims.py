"""Who goes first when fewer are needed: what is only asked for, what is on its way (youngest first), the idle, the busy.

Among equals: who gets no traffic, whose group has more than its share, the worst price for its performance, the longest idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from schemas.states import COMING, WorkerState

from . import capacity
from .roster import Roster
from .shares import Shares
from .types import EndpointState, WorkerFact

Rank = tuple[int, bool, bool, float, float, float, str]


def in_order(workers: Iterable[WorkerFact], state: EndpointState, roster: Roster, shares: Shares) -> Iterator[WorkerFact]:
    """The workers, first victim first. What is taken is told to `shares` by the taker, and the order follows."""
    left = list(workers)
    while left:
        victim = min(left, key=lambda worker: rank(worker, state, roster, shares))
        left.remove(victim)
        yield victim


def is_busy(worker: WorkerFact) -> bool:
    return worker.inflight + worker.queued > 0


def rank(worker: WorkerFact, state: EndpointState, roster: Roster, shares: Shares) -> Rank:
    """Smaller goes earlier."""
    if worker.state in (WorkerState.PENDING, WorkerState.CREATING):
        progress, age = 0, -worker.launched_at
    elif worker.state in COMING:
        progress, age = 1, -worker.launched_at
    else:
        progress, age = (3 if is_busy(worker) else 2), worker.busy_at
    group = roster.groups.get(worker.group_id)
    has_traffic = group is not None and group.weight > 0
    keeps_share = not shares.has_too_much(worker)
    return progress, has_traffic, keeps_share, -capacity.usd_per_unit(state, worker), age, worker.perf, worker.worker_id
