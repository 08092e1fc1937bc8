"""The demand engine in use: what the ensemble of rules (`engine`) wants of an endpoint, by what was measured.

The engine thinks in usual workers and in seconds of service; here its inputs are made from the state, and its opinion becomes a wish.
Until one worker's speed is known there is nothing to compute with, and the reactive engine answers.
"""

from __future__ import annotations

import msgspec

from schemas.events import InputRead
from schemas.reasons import Why
from schemas.states import EndpointState as Activity

from . import belief, capacity, hearing, lead, limits, reactive, readings, window, words
from .engine import leap, memory, pool, worth
from .engine.constants import DEFAULT
from .engine.memory import Memory
from .engine.seen import Arrivals, Opinion, Seen
from .engine.step import step
from .scene import Scene
from .types import Want

#: A lead that differs less than this from the one in use changes nothing.
_SAME_LEAD = 1.5
#: A machine that is bought is not paid for while the provider prepares it, which is the smaller part of its start.
_BILLED_NEW = 0.6
_MOST_SLOTS = 4096
#: Nobody leads for no longer than this, as a rule.
_LONGEST_AWAY_S = 60.0


class _Usual(msgspec.Struct, frozen=True):
    """The endpoint's usual worker."""

    perf: float  #: units per second
    slots: int
    lead_s: float  #: until one more is ready
    billed_share: float  #: of the lead


def want(scene: Scene) -> Want:
    """The engine's opinion. It knows no limits: `limits` has them."""
    usual = _usual(scene)
    if usual is None:
        return reactive.want(scene)
    mind, was_ahead = _mind(scene, usual)
    seen = _seen(scene, usual, mind, was_ahead=was_ahead)
    wished = mind.hot
    opinion, mind = step(mind, seen, used_up=True)
    if 0 < opinion.hot <= seen.least:
        # What the user's floors give anyway is their doing, and `limits` says which it is.
        opinion = msgspec.structs.replace(opinion, hot=min(opinion.hot, 1), because="floor")
    hot = len(scene.roster.hot)
    pool.use(mind, max(opinion.hot, hot), seen.at_s, scene.settings.max_workers, DEFAULT)
    total = pool.total(mind, seen.at_s, _storage_share(scene), DEFAULT)
    load_slots = float(mind.averages[0])  # of some seconds; since the last look may be only a moment
    why = _why(opinion, wished, scene, load_slots)
    return Want(
        asked=opinion.hot,
        hot=opinion.hot,
        total=max(opinion.hot, total),
        why=why,
        sentence=_sentence(opinion, why, usual, scene, load_slots),
        load_units_per_s=window.mean_per_s(scene.state.demand.arrived_units, scene.now, scene.policy.window_s),
        units_per_s=opinion.load_slots * usual.perf / usual.slots,
        candidates=_candidates(opinion, usual),
        inputs=_inputs(scene, usual, load_slots, seen),
        engine=memory.pack(mind, DEFAULT),
    )


def _usual(scene: Scene) -> _Usual | None:
    state, roster = scene.state, scene.roster
    perf = capacity.reference_perf(state, roster.hot)
    if perf is None:
        return None
    known = [worker.slots for worker in roster.hot]
    if min(known, default=0) <= 0:
        known = [slots for slots in known if slots > 0]
    known = known or [group.slots for group in state.groups.values() if group.slots > 0]
    slots = max(1, round(sum(known) / len(known))) if known else 1
    way = lead.lead(scene)
    return _Usual(
        perf=perf,
        slots=min(slots, _MOST_SLOTS),
        lead_s=way.seconds,
        billed_share=1.0 if way.from_cold else _BILLED_NEW,
    )


def _mind(scene: Scene, usual: _Usual) -> tuple[Memory, bool]:
    """What the engine remembers, as of now; and whether it was by a clock ahead of ours, so that nobody knows how long ago it looked."""
    state, now, hot = scene.state, scene.now, len(scene.roster.hot)
    mind = memory.unpack(state.engine, DEFAULT) if state.engine else None
    was_guessed = mind is not None and mind.slots == 1 < usual.slots  # nobody had been ready yet, so nothing was learned either
    if mind is None or was_guessed:
        # The pool that is here was not sized by us if somebody else decided before, or if our memory cannot be read.
        caution_hot = hot if mind is None and (state.last is None or state.engine_format) else 0
        begin_s = now - scene.policy.tick_s
        mind = memory.fresh(DEFAULT, begin_s, hot, usual.lead_s, slots=usual.slots, caution_hot=caution_hot)
        # What is cold was kept because it would be wanted again, so it ages from now on as if it had been used just now.
        pool.use(mind, hot + len(scene.roster.kept_cold), begin_s, scene.settings.max_workers, DEFAULT)
        return mind, False
    was_ahead = 0 < state.demand.fresh.since_at < mind.at_s or mind.at_s >= now
    if was_ahead:
        mind = leap.along(mind, now - scene.policy.tick_s - mind.at_s)  # `skew` has moved all but this
    mind = memory.reslotted(mind, usual.slots)
    if not mind.lead_s / _SAME_LEAD <= usual.lead_s <= mind.lead_s * _SAME_LEAD:
        mind = memory.restaged(mind, usual.lead_s)
    return mind, was_ahead


def _at_the_pace_of_before(arrivals: tuple[Arrivals, ...], mind: Memory, dt_s: float) -> tuple[Arrivals, ...]:
    """What came while nobody led, where no clock says for how long: for so long as that much work takes to come at the pace of before,
    and this is what of it came in the last `dt_s`. All of it would look like a burst. More work never makes it less.
    """
    flow = float(mind.flows[-1])
    work = sum([group.count * min(group.service_s, mind.lead_s) for group in arrivals])
    if flow <= 0 or work <= flow * dt_s:
        return arrivals
    share = dt_s / min(work / flow, max(_LONGEST_AWAY_S, dt_s))
    return tuple([Arrivals(group.count * share, group.service_s) for group in arrivals])


def _seen(scene: Scene, usual: _Usual, mind: Memory, *, was_ahead: bool) -> Seen:
    now, here, fresh = scene.now, scene.here, scene.state.demand.fresh
    dt_s = now - mind.at_s
    heard_s = now - fresh.since_at if 0 < fresh.since_at < now else dt_s  # the same, but where the memory had to be moved
    is_new = mind.at_s == mind.began_s
    is_complete = hearing.is_complete(scene.state, scene.policy, now)
    believed = belief.of(mind, usual.perf, usual.slots)
    in_hand = believed.in_hand(here.in_hand_units, here.inflight + here.queued)
    if is_complete and not is_new:
        before_s = worth.service_s_per_unit(mind, usual.perf, usual.slots, in_hand, DEFAULT)
        workers = len(scene.roster.serving) + len(scene.roster.draining)
        served = believed.served(fresh.served_units, workers, dt_s)
        worth.remember(mind, believed.routed(fresh, before_s), served, fresh.busy_workers_s, dt_s, DEFAULT)
    per_unit_s = worth.service_s_per_unit(mind, usual.perf, usual.slots, in_hand, DEFAULT)
    arrivals = _all_here(scene, per_unit_s) if is_new else believed.arrivals(fresh, per_unit_s)
    return Seen(
        at_s=now,
        arrivals=_at_the_pace_of_before(arrivals, mind, dt_s) if was_ahead else arrivals,
        present=float(here.requests) if is_new else fresh.present_s / heard_s,
        costs_known=is_complete and (mind.routed_units > 0 or not mind.busy_s),
        waiting=here.waiting + here.queued,
        serving=here.inflight,
        oldest_s=max(here.oldest_wait_s, here.oldest_queued_s),
        settled_s=_settled_s(scene),
        hot=len(scene.roster.hot),
        started=fresh.ended,
        late=fresh.late,
        slots=usual.slots,
        lead_s=mind.lead_s,
        billed_share=usual.billed_share,
        target_wait_s=max(scene.settings.target_queue_time, 0.5),
        target_util=scene.settings.target_util,
        least=limits.least_hot(scene),
        most=max(scene.settings.max_workers, len(scene.roster.brought_ready), 0),
    )


def _settled_s(scene: Scene) -> float:
    """Since the newest worker became ready."""
    return scene.now - max([worker.ready_at or scene.now for worker in scene.roster.serving], default=scene.now)


def _all_here(scene: Scene, per_unit_s: float) -> tuple[Arrivals, ...]:
    """For an engine that begins: whoever is here counts as having just come."""
    here, fresh = scene.here, scene.state.demand.fresh
    if not here.requests:
        return ()
    waiting = here.waiting + here.queued
    known = [(fresh.units, fresh.arrivals), (here.waiting_units + here.queued_units, waiting)]
    mean = next((units / count for units, count in known if units > 0 and count), 0.0)
    return (Arrivals(float(here.requests), mean * per_unit_s),)


def _storage_share(scene: Scene) -> float:
    """Price of a stopped worker over a hot one's."""
    for group in scene.state.groups.values():
        if group.offer_usd_per_hour and group.offer_storage_usd_per_hour:
            return min(group.offer_storage_usd_per_hour / group.offer_usd_per_hour, 1.0)
    return DEFAULT.storage_share


def _why(opinion: Opinion, wished: int, scene: Scene, load_slots: float) -> Why:
    """`wished`: the opinion at the last look. Who wants more than there are need not want more than before."""
    state, hot = scene.state, len(scene.roster.hot)
    if opinion.hot == hot:
        return Why.STEADY
    if opinion.hot < hot:
        return Why.LOAD_DOWN
    if scene.here.waiting and not scene.roster.serving:
        return Why.DEMAND_WAITING
    if opinion.because == "queue":
        return Why.QUEUE_TIME
    if opinion.hot > wished:
        return Why.LOAD_UP
    if state.last is not None and state.last.decision.activity is not Activity.ACTIVE:
        return Why.MANUAL
    return Why.REPLACE if _has_lost(scene) or load_slots < DEFAULT.asleep_slots else Why.LOAD_UP


def _has_lost(scene: Scene) -> bool:
    """Whether a worker failed since as many are wanted as now."""
    if scene.roster.failed or any(worker.failure is not None for worker in scene.roster.ending):
        return True
    failures = [group.last_failure for group in scene.state.groups.values() if group.last_failure is not None]
    return any(failure.at >= scene.state.targets.hot_since_at for failure in failures)


def _sentence(opinion: Opinion, why: Why, usual: _Usual, scene: Scene, load_slots: float) -> str:
    here, hot = scene.here, len(scene.roster.hot)
    over_s = DEFAULT.average_s[0]
    load = f"load of {load_slots:.1f} requests at once over {over_s:.0f} s, {here.requests} here, {words.slots(usual.slots)} a worker"
    if here.waiting and not scene.roster.serving:
        load = f"{words.wait(here.waiting)} and no worker is ready; {load}"
    text = f"{load}: {_reckoning(opinion)}"
    if why is Why.MANUAL:
        return f"{text}; the endpoint was resumed and has {hot}"
    if why is Why.REPLACE:
        return f"{text}; as many were wanted before, {hot} are left"
    return text


def _reckoning(opinion: Opinion) -> str:
    """How the engine came to its number."""
    match opinion.because:
        case "prior":
            return f"{opinion.hot} by {opinion.rule}, until rules can be compared"
        case "floor":
            return "no more than is kept in any case"
        case "caution":
            return f"{opinion.hot} kept, as many as there were before this engine began"
        case "target_util":
            return f"{opinion.hot} by target_util; the rules' mean is {opinion.asked:.1f}"
        case "queue":
            return f"the queue will not be gone before help can be there: {opinion.hot}"
        case "present":
            return f"requests are here: {opinion.hot}"
        case _:
            return f"{opinion.hot} by the rules' mean of {opinion.asked:.1f}; the best of them: {opinion.rule}"


def _candidates(opinion: Opinion, usual: _Usual) -> tuple[str, ...]:
    share = f"{opinion.share:.1%}" if opinion.share >= 0.001 else "less than 0.1%"
    return (
        f"best rule: {opinion.rule} ({share} of the weight)",
        f"rules of some weight: {opinion.low} to {opinion.high}, the mean of all {opinion.asked:.2f}",
        f"late requests allowed in shadows: {opinion.slack:.2f} of the share; lead {usual.lead_s:.0f} s",
    )


def _inputs(scene: Scene, usual: _Usual, load_slots: float, seen: Seen) -> tuple[InputRead, ...]:
    state, now = scene.state, scene.now
    router_s, beat_s = readings.router_age_s(scene), readings.beat_age_s(scene)
    since_s = now - state.demand.fresh.since_at if state.demand.fresh.since_at else None
    arrivals = None if scene.lost else sum(group.count for group in seen.arrivals)
    load_age_s = router_s if seen.costs_known else beat_s
    silent_s = max([now - state.routers[name].seen_at for name in scene.lost], default=None)
    silent = (InputRead(name="silent_routers", value=float(len(scene.lost)), age_s=silent_s, unit="routers"),)
    return (
        InputRead(name="arrivals", value=arrivals, age_s=since_s, unit="requests"),
        InputRead(name="load", value=load_slots if state.routers else None, age_s=load_age_s, unit="slots"),
        InputRead(name="perf", value=usual.perf, age_s=beat_s, unit="units/s per worker"),
        InputRead(name="slots", value=float(usual.slots), age_s=beat_s, unit="per worker"),
        InputRead(name="ended", value=float(seen.started), age_s=since_s, unit="requests"),
        InputRead(name="late", value=float(seen.late), age_s=since_s, unit="requests"),
        InputRead(name="lead", value=seen.lead_s, unit="s"),
        *readings.here(scene),
        *(silent if scene.lost else ()),
    )
