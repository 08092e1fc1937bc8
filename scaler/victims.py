"""Who goes first when fewer are needed: what is only asked for, what is on its way (youngest first), the idle, the busy.

Among equals: who gets no traffic, whose group has more than its share, who only helps out, the worst price for its performance, the
longest idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from schemas.ids import GroupId
from schemas.states import COMING, WorkerState

from . import cost
from .groups import Standing
from .shares import Shares
from .types import WorkerFact

#: Among equals of one group: tier, price of its work, age, perf, id.
_Rest = tuple[int, float, float, float, str]


def in_order(
    workers: Iterable[WorkerFact], standings: Mapping[GroupId, Standing], shares: Shares, *, within_shares: bool = False
) -> Iterator[WorkerFact]:
    """The workers, first victim first. What is taken is told to `shares` by the taker, and the order follows. `within_shares`:
    groups that would be a whole worker short of their share are left out.

    Only shares change on the way, and they are of the group: so workers are sorted once, and each step compares no more than the
    first of each group.
    """
    places: dict[tuple[int, bool], dict[GroupId, list[WorkerFact]]] = {}
    traffic = {group_id: here.spec.weight > 0 for group_id, here in standings.items()}
    for worker in workers:
        group_id = worker.group_id
        places.setdefault((progress(worker), traffic.get(group_id, False)), {}).setdefault(group_id, []).append(worker)
    for place in sorted(places):
        # The first victim is at the end of its row. Who comes later is not sorted before it is their turn.
        rows = {
            group_id: sorted(((_rest(w, place[0], standings), w) for w in row), key=_by_rest, reverse=True)
            for group_id, row in places[place].items()
        }
        while rows:
            if within_shares:
                rows = {group_id: row for group_id, row in rows.items() if not shares.keeps(group_id)}
                if not rows:
                    break
            first = next(iter(rows.values())) if len(rows) == 1 else min(rows.values(), key=lambda row: _turn(row[-1], shares))
            worker = first.pop()[1]
            if not first:
                del rows[worker.group_id]
            yield worker


def is_busy(worker: WorkerFact) -> bool:
    return worker.inflight + worker.queued > 0


def progress(worker: WorkerFact) -> int:
    """How much is lost when it goes: 0 nothing but an order, 1 part of a start, 2 a warm model, 3 it would still have work to do."""
    if worker.state in (WorkerState.PENDING, WorkerState.CREATING):
        return 0
    if worker.state in COMING:
        return 1
    return 3 if is_busy(worker) else 2


def _turn(first: tuple[_Rest, WorkerFact], shares: Shares) -> tuple[int, _Rest]:
    return shares.spares(first[1]), first[0]


def _by_rest(entry: tuple[_Rest, WorkerFact]) -> _Rest:
    return entry[0]


def _rest(worker: WorkerFact, how_far: int, standings: Mapping[GroupId, Standing]) -> _Rest:
    here = standings.get(worker.group_id)
    perf: float | None = worker.perf
    tier = 0
    if here is not None:
        perf, tier = perf or here.perf, here.spec.tier
    age = -worker.launched_at if how_far < 2 else worker.busy_at
    return -tier, -cost.usd_per_unit(worker.usd_per_hour, perf), age, worker.perf, worker.worker_id
