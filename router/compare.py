"""Worker groups side by side: what each has, what it delivered, what that cost, how long requests waited. Pure.

What workers served and what they cost is the same at every router: all hear all heartbeats and see all records. What was routed, and how
long requests waited for a worker, is told by the one router that is asked; `router` names it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from schemas.ids import GroupId
from schemas.records import WorkerGroup
from schemas.states import BILLED, COMING, WorkerState

from .demand import WAIT_BOUNDS_S
from .desk import Desk
from .halts import Halt
from .tallies import Sums, Tally
from .view import Worker


class Start(Protocol):
    """One start that came to its end (see grouplog)."""

    @property
    def took_s(self) -> float: ...
    @property
    def from_cold(self) -> bool: ...
    @property
    def failed(self) -> str | None: ...


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One group. None: nothing to measure it by, which is not zero."""

    id: GroupId
    name: str
    template: str
    provider: str
    revision: int
    tier: int
    weight: float
    since_at: float  #: begin of all sums, unix s
    # what it has now
    ready: int
    coming: int
    cold: int
    failed_workers: int
    perf: float | None  #: mean of its ready workers, measured, units/s
    perf_min: float | None
    perf_max: float | None
    usd_per_hour: float | None  #: mean of its workers that run, or else of all
    usd_per_million_units_at_best: float | None  #: at its perf, busy all the time
    # what it delivered, by its workers' own words
    requests: int  #: accepted
    served: int
    failed: int
    cancelled: int
    rejected: int
    error_ratio: float | None  #: failed / (served + failed)
    served_units: float
    service_mean_s: float | None  #: at the model, of those served
    queue_mean_s: float | None  #: in its workers' own queues
    # what that cost
    hot_worker_s: float
    cost_usd: float
    storage_usd: float
    usd_per_million_units: float | None  #: hot and stored, over what was served
    # its part of the traffic
    traffic_share: float | None  #: of the requests its tier accepted
    weight_share: float | None  #: of its tier's weights, as they are now
    weights_changed_at: float | None  #: unix s; until then, within what is looked at, they were others. None: they were not
    # this router's own
    routed: int
    rerouted: int  #: tickets for requests that came back from a worker
    wait_mean_s: float | None  #: for a worker, here
    wait_p50_s: float | None
    wait_p95_s: float | None
    # its starts
    starts_ok: int
    starts_failed: int
    failures: dict[str, int]  #: cause -> how many
    boot_new_p50_s: float | None
    boot_cold_p50_s: float | None
    boot_max_s: float | None
    halted: Halt | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: str
    at: float
    router: str  #: whose `routed` and `wait_*` these are
    groups: tuple[Row, ...]


def compare(
    desk: Desk,
    *,
    since: float,
    now: float,
    wall: float,
    router: str,
    halts: Mapping[GroupId, Halt],
    starts: Callable[[GroupId, float], Sequence[Start]],
) -> Comparison:
    """All groups of an endpoint since `since` (monotonic s, as `now`); `wall` is now in unix s."""
    desk.fleet.pay(now)
    fresh = Tally(now)
    sums = {group.id: (desk.fleet.tallies.get(group.id) or fresh).over(since, now) for group in desk.record.groups}
    requests: dict[int, float] = defaultdict(float)  #: by tier
    weights: dict[int, float] = defaultdict(float)
    begins: dict[int, float] = defaultdict(lambda: now)
    for group in desk.record.groups:
        found, begin = sums[group.id]
        requests[group.tier] += found.requests
        weights[group.tier] += group.weight
        begins[group.tier] = min(begins[group.tier], begin)
    rows = []
    for group in desk.record.groups:
        found, begin = sums[group.id]
        changed = desk.weights.last(group.tier)
        row = _row(
            group,
            [worker for worker in desk.fleet.workers.values() if worker.group_id == group.id],
            found,
            since_at=wall - (now - begin),
            traffic_share=_ratio(found.requests, requests[group.tier]),
            weight_share=_ratio(group.weight, weights[group.tier]),
            weights_changed_at=wall - (now - changed) if changed is not None and changed > begins[group.tier] else None,
            starts=starts(group.id, wall - (now - since)),
            halt=halts.get(group.id),
        )
        rows.append(row)
    return Comparison(endpoint=desk.name, at=wall, router=router, groups=tuple(rows))


def _row(
    group: WorkerGroup,
    workers: list[Worker],
    sums: Sums,
    *,
    since_at: float,
    traffic_share: float | None,
    weight_share: float | None,
    weights_changed_at: float | None,
    starts: Sequence[Start],
    halt: Halt | None,
) -> Row:
    states = Counter(worker.record.state for worker in workers)
    perfs = [w.record.perf for w in workers if w.record.state is WorkerState.READY and w.record.perf > 0]
    running = [w.record.usd_per_hour for w in workers if w.record.state in BILLED]
    price = _mean(running or [w.record.usd_per_hour for w in workers])
    price = group.usd_per_hour if price is None else price
    perf = _mean(perfs)
    boots = [start for start in starts if start.failed is None]
    return Row(
        id=group.id,
        name=group.name,
        template=group.template.name,
        provider=group.provider,
        revision=group.revision,
        tier=group.tier,
        weight=group.weight,
        since_at=since_at,
        ready=states[WorkerState.READY],
        coming=sum(count for state, count in states.items() if state in COMING),
        cold=states[WorkerState.STOPPED],
        failed_workers=states[WorkerState.ERROR],
        perf=perf,
        perf_min=min(perfs, default=None),
        perf_max=max(perfs, default=None),
        usd_per_hour=price,
        usd_per_million_units_at_best=None if not perf or price is None else price / 3600 / perf * 1e6,
        requests=sums.requests,
        served=sums.served,
        failed=sums.failed,
        cancelled=sums.cancelled,
        rejected=sums.rejected,
        error_ratio=_ratio(sums.failed, sums.served + sums.failed),
        served_units=sums.served_units,
        service_mean_s=_ratio(sums.service_s, sums.served),
        queue_mean_s=_ratio(sums.queue_s, sums.served + sums.failed),
        hot_worker_s=sums.hot_s,
        cost_usd=sums.cost_usd,
        storage_usd=sums.storage_usd,
        usd_per_million_units=_ratio((sums.cost_usd + sums.storage_usd) * 1e6, sums.served_units),
        traffic_share=traffic_share,
        weight_share=weight_share,
        weights_changed_at=weights_changed_at,
        routed=sums.routed,
        rerouted=sums.rerouted,
        wait_mean_s=_ratio(sums.wait_s, sums.routed + sums.rerouted),
        wait_p50_s=quantile(sums.waits, 0.5),
        wait_p95_s=quantile(sums.waits, 0.95),
        starts_ok=len(boots),
        starts_failed=len(starts) - len(boots),
        failures=dict(Counter(str(start.failed) for start in starts if start.failed is not None)),
        boot_new_p50_s=_median(start.took_s for start in boots if not start.from_cold),
        boot_cold_p50_s=_median(start.took_s for start in boots if start.from_cold),
        boot_max_s=max((start.took_s for start in boots), default=None),
        halted=halt,
    )


def quantile(counts: Sequence[int], q: float) -> float | None:
    """Of a histogram by WAIT_BOUNDS_S, straight between two bounds; what is above the last bound counts as that bound. None: empty."""
    rank = q * sum(counts)
    if rank <= 0:
        return None
    below, lower = 0, 0.0
    for count, upper in zip(counts, WAIT_BOUNDS_S, strict=False):
        if count and below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below, lower = below + count, upper
    return WAIT_BOUNDS_S[-1]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _median(values: Iterable[float]) -> float | None:
    ranked = sorted(values)
    return ranked[len(ranked) // 2] if ranked else None
