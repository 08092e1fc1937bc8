"""Who goes first when fewer are needed: what is only asked for, what is on its way (youngest first), the idle, the busy.

Among equals: who gets no traffic, whose group has more than its share, who only helps out, the worst price for its performance, the
longest idle.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from heapq import heapify, heappop

from schemas.ids import GroupId, WorkerId
from schemas.states import COMING, WorkerState

from .groups import Standing
from .shares import Shares
from .types import WorkerFact

#: Among equals of one group: tier, price of its work, age, perf, id. Ids differ, so workers themselves are never compared.
_Entry = tuple[int, float, float, float, WorkerId, WorkerFact]


def in_order(
    workers: Iterable[WorkerFact], standings: Mapping[GroupId, Standing], shares: Shares, *, within_shares: bool = False
) -> Iterator[WorkerFact]:
    """The workers, first victim first. What is taken is told to `shares` by the taker, and the order follows. `within_shares`:
    groups that would be a whole worker short of their share are left out.

    Only shares change on the way, and they are of the group: so each step compares no more than the first of each group.
    """
    found: dict[tuple[int, GroupId], list[WorkerFact]] = defaultdict(list)
    for worker in workers:
        found[progress(worker), worker.group_id].append(worker)
    places: dict[tuple[int, bool], list[GroupId]] = defaultdict(list)
    for how_far, group_id in found:
        has_traffic = group_id in standings and standings[group_id].spec.weight > 0
        places[how_far, has_traffic].append(group_id)
    for place in sorted(places):
        # Few are taken of many, so rows are heaps, and only those whose turn it is.
        rows = {group_id: _heap(found[place[0], group_id], place[0], standings.get(group_id)) for group_id in places[place]}
        while rows:
            if within_shares:
                rows = {group_id: row for group_id, row in rows.items() if not shares.keeps(group_id)}
                if not rows:
                    break
            first = next(iter(rows.values())) if len(rows) == 1 else min(rows.values(), key=lambda row: _turn(row[0], shares))
            worker = heappop(first)[-1]
            if not first:
                del rows[worker.group_id]
            yield worker


def is_busy(worker: WorkerFact) -> bool:
    return worker.inflight + worker.queued > 0


def progress(worker: WorkerFact) -> int:
    """How much is lost when it goes: 0 nothing but an order, 1 part of a start, 2 a warm model, 3 it would still have work to do."""
    if worker.state not in COMING:
        return 3 if is_busy(worker) else 2
    return 0 if worker.state in (WorkerState.PENDING, WorkerState.CREATING) else 1


def _turn(first: _Entry, shares: Shares) -> tuple[int, _Entry]:
    return shares.spares(first[-1]), first


def _heap(row: Iterable[WorkerFact], how_far: int, here: Standing | None) -> list[_Entry]:
    """Workers of one group by the rest of the order."""
    tier, perf = (here.spec.tier, here.perf or math.inf) if here is not None else (0, math.inf)
    is_coming = how_far < 2
    heap = [
        (
            -tier,
            -worker.usd_per_hour / (worker.perf or perf),  # its start is paid; what cannot be told costs nothing
            -worker.launched_at if is_coming else worker.busy_at,
            worker.perf,
            worker.worker_id,
            worker,
        )
        for worker in row
    ]
    heapify(heap)
    return heap
