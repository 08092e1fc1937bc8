"""What is asked and served, folded into windows. Counters are totals since a boot, so only differences count and a lost
message loses nothing; gauges count while they are fresh.
"""

from __future__ import annotations

import msgspec

from schemas.records import DemandMark
from schemas.signals import DemandReport
from schemas.states import WorkerState

from . import hearing, window
from .types import EndpointState, Fresh, Liveness, Policy, RouterFact, WorkerFact

_replace = msgspec.structs.replace

_SERVING = frozenset({WorkerState.READY, WorkerState.DRAINING})
_JUST_NOW_S = 2.0
_MOST_ROUTERS = 32


class Present(msgspec.Struct, frozen=True):
    """Requests that are here now."""

    waiting: int = 0  #: at the routers, with no worker
    waiting_units: float = 0.0
    oldest_wait_s: float = 0.0
    inflight: int = 0
    queued: int = 0  #: in workers' own queues
    queued_units: float = 0.0
    oldest_queued_s: float = 0.0
    reserved_units: float = 0.0
    in_hand_units: float = 0.0  #: accepted by workers and not finished, as they count

    @property
    def requests(self) -> int:
        return self.waiting + self.inflight + self.queued


def present(state: EndpointState, now: float, policy: Policy) -> Present:
    """What is here now, as far as fresh reports and heartbeats tell."""
    waiting, waiting_units, oldest_wait_s, reserved = 0, 0.0, 0.0, 0.0
    for router in state.routers.values():
        if now - router.seen_at <= policy.router_fresh_s:
            waiting += router.waiting
            waiting_units += router.waiting_units
            reserved += router.reserved_units
            if router.waiting:
                oldest_wait_s = max(oldest_wait_s, router.oldest_wait_s + now - router.seen_at)
        elif router.marked_at is not None and now - router.marked_at <= policy.mark_fresh_s:
            waiting += 1
            waiting_units += router.mark_units
            oldest_wait_s = max(oldest_wait_s, now - router.marked_at)
    lost = Liveness.LOST
    serving = [worker for worker in state.workers.values() if worker.state in _SERVING and worker.liveness is not lost]
    queueing = [worker for worker in serving if worker.queued]
    return Present(
        waiting=waiting,
        waiting_units=waiting_units,
        oldest_wait_s=oldest_wait_s,
        inflight=sum([worker.inflight for worker in serving]),
        queued=sum([worker.queued for worker in queueing]),
        queued_units=sum([w.load_units * w.queued / (w.inflight + w.queued) for w in queueing], start=0.0),
        oldest_queued_s=max([worker.oldest_queued_s for worker in serving], default=0.0),
        reserved_units=reserved,
        in_hand_units=sum([worker.load_units for worker in serving], start=0.0),
    )


def reported(state: EndpointState, report: DemandReport, at: float, policy: Policy) -> EndpointState:
    """The state after a router's report. Of a router that was never heard before only the gauges count: nobody knows since
    when its totals run.
    """
    known = state.routers.get(report.router)
    if known is not None and known.boot == report.boot and report.seq <= known.seq:
        return state
    demand = state.demand
    was_lost = known is not None and hearing.is_lost(known, policy, at)
    missed_s = hearing.unheard_s(state, known, policy, at) if known is not None else 0.0
    router = RouterFact(
        boot=report.boot,
        seq=report.seq,
        seen_at=at,
        arrivals_total=report.arrivals_total,
        arrived_units_total=report.arrived_units_total,
        routed_units_total=report.routed_units_total,
        waiting=report.waiting,
        waiting_units=report.waiting_units,
        oldest_wait_s=report.oldest_wait_s,
        reserved_units=report.reserved_units,
        sizes=report.sizes,
        ended_total=report.routed_total + report.refused_total,
        late_total=report.late_total + report.refused_total,
        marked_at=None if known is None else known.marked_at,
        mark_units=0.0 if known is None else known.mark_units,
        quiet=hearing.is_quiet(report, known),
        back_at=at if missed_s > policy.router_fresh_s else 0.0 if known is None else known.back_at,
    )
    before = known
    if known is not None and known.boot and known.boot != report.boot:
        before = RouterFact(boot=report.boot)  # it began anew while we listened
    arrivals, units = 0, 0.0
    if before is not None and before.boot == report.boot:
        arrivals = max(report.arrivals_total - before.arrivals_total, 0)
        units = max(report.arrived_units_total - before.arrived_units_total, 0.0)
        recent = 1.0 if known is None or missed_s <= 0 else 1.0 - missed_s / (at - known.seen_at)
        demand = _replace(demand, fresh=_with_report(demand.fresh, before, router, recent))
    if arrivals > 0:
        # A router with news says so within a second, so what is new came just now, unless we could not hear it.
        begin_at = at
        if known is not None and (was_lost or at - known.seen_at < _JUST_NOW_S or hearing.catches_up(state, known, at)):
            begin_at = known.seen_at
        demand = _replace(
            demand,
            arrivals=window.spread(demand.arrivals, begin_at, at, float(arrivals)),
            arrived_units=window.spread(demand.arrived_units, begin_at, at, units),
        )
    if arrivals > 0 or report.waiting > 0 or report.sent_at - report.last_arrival_at < _JUST_NOW_S:
        demand = _replace(demand, last_activity_at=at)
    return _replace(state, routers={**state.routers, report.router: router}, demand=demand)


def _with_report(fresh: Fresh, before: RouterFact, now: RouterFact, recent: float) -> Fresh:
    """`before` is of the same boot. `recent`: the share of the arrivals that came since the engine last looked."""
    sizes = fresh.sizes
    if now.sizes != before.sizes:
        news = {size: round((count - before.sizes.get(size, 0)) * recent) for size, count in now.sizes.items()}
        sizes = {size: sizes.get(size, 0) + max(news.get(size, 0), 0) for size in sorted(sizes.keys() | news.keys())}
    return _replace(
        fresh,
        sizes={size: count for size, count in sizes.items() if count},
        arrivals=fresh.arrivals + max(round((now.arrivals_total - before.arrivals_total) * recent), 0),
        units=fresh.units + max((now.arrived_units_total - before.arrived_units_total) * recent, 0.0),
        routed_units=fresh.routed_units + _routed_units(before, now) * recent,
        ended=fresh.ended + max(now.ended_total - before.ended_total, 0),
        late=fresh.late + max(now.late_total - before.late_total, 0),
    )


def _routed_units(before: RouterFact, now: RouterFact) -> float:
    is_known = before.routed_units_total > 0 or not before.ended_total  # else a scaler stored it that did not keep this total
    return max(now.routed_units_total - before.routed_units_total, 0.0) if is_known else 0.0


def forgotten(router: RouterFact) -> RouterFact:
    """The router without its gauges: who waited when a leader stored this may have been served since. Totals and marks stay."""
    return _replace(router, waiting=0, waiting_units=0.0, oldest_wait_s=0.0, reserved_units=0.0)


def marked(state: EndpointState, name: str, mark: DemandMark | None, at: float) -> EndpointState:
    """The state after a router's durable mark changed."""
    known = state.routers.get(name)
    if mark is None:
        if known is None:
            return state
        return _replace(state, routers={**state.routers, name: _replace(known, marked_at=None, mark_units=0.0)})
    router = _replace(known or RouterFact(boot=""), marked_at=mark.waiting_since_at, mark_units=mark.cost)
    return _replace(state, routers={**state.routers, name: router}, demand=_replace(state.demand, last_activity_at=at))


def heard(state: EndpointState, before: WorkerFact, after: WorkerFact, at: float) -> EndpointState:
    """The state's demand after a worker spoke: work served, and whether it was busy at all."""
    demand = state.demand
    if before.boot == after.boot and after.served_units_total > before.served_units_total:
        served = after.served_units_total - before.served_units_total
        begin_at = at if before.beat_at is None else before.beat_at
        fresh = _replace(demand.fresh, served_units=demand.fresh.served_units + served)
        demand = _replace(demand, served_units=window.spread(demand.served_units, begin_at, at, served), fresh=fresh)
    if after.busy_at > before.busy_at:
        demand = _replace(demand, last_activity_at=at)
    return state if demand is state.demand else _replace(state, demand=demand)


def sampled(state: EndpointState, at: float, policy: Policy) -> EndpointState:
    """The state after time passed: how busy workers were meanwhile, how many requests were here at once."""
    demand = state.demand
    elapsed_s = min(max(at - demand.sampled_at, 0.0), 5 * policy.tick_s)
    busy = sum(
        min(1.0, worker.inflight / max(worker.slots, 1))
        for worker in state.workers.values()
        if worker.state in _SERVING and worker.inflight > 0 and worker.liveness is Liveness.ALIVE
    )
    here = present(state, at, policy)
    routers = state.routers
    if len(routers) > _MOST_ROUTERS:
        newest = sorted(routers, key=lambda name: routers[name].seen_at)[-_MOST_ROUTERS:]
        routers = {name: routers[name] for name in newest}
    busy_workers_s, fresh = demand.busy_workers_s, demand.fresh
    if elapsed_s > 0:
        busy_workers_s = window.spread(busy_workers_s, at - elapsed_s, at, busy * elapsed_s)
        fresh = _replace(
            fresh,
            present_s=fresh.present_s + here.requests * elapsed_s,
            busy_workers_s=fresh.busy_workers_s + busy * elapsed_s,
        )
    demand = _replace(
        demand,
        fresh=fresh,
        sampled_at=at,
        busy_workers_s=busy_workers_s,
        present_peaks=window.raised(demand.present_peaks, at, float(here.requests)),
        last_activity_at=at if here.requests > 0 else demand.last_activity_at,
    )
    return _replace(state, demand=demand, routers=routers)
