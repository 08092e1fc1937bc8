"""The reactive engine: how many hot workers the load asks for, by what is measured now and was in the last minutes.

    by load      arrived units/s over a minute / target_util / perf           what the endpoint's settings mean
    by use       whole workers' worth of busy slots / target_util             holds where costs are guessed wrong
    by queue     newest load + backlog / (time until help could be there)            only when waits exceed target_queue_time
    at least 1   while anybody is here

The largest wins, but never more workers than requests were here at once: a request uses one worker.
Down is slower than up: only when the load of the last minute and of the last five, with a margin, fits fewer, and no more was asked
for or in use at any moment of the last `down_hold_s`. So constant load never flaps.
"""

from __future__ import annotations

from math import ceil

import msgspec

from schemas.events import InputRead
from schemas.reasons import Why

from . import capacity, lead, readings, traffic, window, words
from .roster import Roster
from .scene import Scene
from .types import EndpointState, Policy, Want

#: While a queue stands, load is what arrived within this.
_NEWEST_S = 10.0


class _Signal(msgspec.Struct, frozen=True):
    """What is measured. None: not yet."""

    here: traffic.Present
    load_units_per_s: float | None
    calm_units_per_s: float | None
    busy_workers: float | None
    calm_busy_workers: float | None
    most_present: float
    arrivals: float  #: behind load_units_per_s
    calm_arrivals: float
    perf: float | None
    capacity_units_per_s: float
    lead_s: float


def want(scene: Scene) -> Want:
    """The engine's opinion, monotone in load. It knows no limits: `limits` has them."""
    state, policy, now, roster = scene.state, scene.policy, scene.now, scene.roster
    signal = _measure(scene)
    asked, why, sentence, candidates = _ask(scene, signal)
    committed = len(roster.hot)
    hot = asked
    if asked < committed:
        floor, held_by = _keep(scene, signal)
        hot = min(committed, max(asked, floor))
        if hot > asked:
            sentence, why = f"{sentence}; {hot} kept: {held_by}", Why.STEADY if hot == committed else Why.LOAD_DOWN
    elif asked == committed:
        why = Why.STEADY
    units = None if signal.load_units_per_s is None else signal.load_units_per_s / scene.settings.target_util
    kept_cold = window.peak(state.targets.cold_peaks, now, policy.cold_keep_s)
    return Want(
        asked=asked,
        hot=hot,
        total=max(hot, int(kept_cold)),
        why=why,
        sentence=sentence,
        load_units_per_s=signal.load_units_per_s,
        units_per_s=units,
        candidates=candidates,
        inputs=_inputs(scene, signal),
    )


def _measure(scene: Scene) -> _Signal:
    state, policy, now, roster = scene.state, scene.policy, scene.now, scene.roster
    demand = state.demand
    perf = capacity.reference_perf(state, roster.hot)
    over_s = _averaging_s(state, roster, perf, policy, now)
    arrived = window.mean_per_s(demand.arrived_units, now, over_s)
    served = window.mean_per_s(demand.served_units, now, policy.window_s)
    known = [rate for rate in (arrived, served) if rate is not None]
    calm = window.mean_per_s(demand.arrived_units, now, policy.calm_window_s)
    return _Signal(
        here=scene.here,
        load_units_per_s=max(known) if known else None,
        calm_units_per_s=calm,
        busy_workers=window.mean_per_s(demand.busy_workers_s, now, policy.window_s),
        calm_busy_workers=window.mean_per_s(demand.busy_workers_s, now, policy.calm_window_s),
        arrivals=(window.mean_per_s(demand.arrivals, now, over_s) or 0.0) * over_s,
        calm_arrivals=(window.mean_per_s(demand.arrivals, now, policy.calm_window_s) or 0.0) * policy.calm_window_s,
        most_present=window.peak(demand.present_peaks, now, policy.calm_window_s),
        perf=perf,
        capacity_units_per_s=capacity.total(state, roster.hot, perf) if perf else 0.0,
        lead_s=lead.lead(scene).seconds,
    )


def _ask(scene: Scene, signal: _Signal) -> tuple[int, Why, str, tuple[str, ...]]:
    """How many the load asks for now, why, in words, and what else was considered."""
    settings, roster, policy = scene.settings, scene.roster, scene.policy
    here, perf = signal.here, signal.perf
    opinions: list[tuple[int, Why, str]] = []
    load = signal.load_units_per_s or 0.0
    if perf is not None and load > 0:
        count = _planned(load / perf, (signal.calm_units_per_s or 0.0) / perf, scene, signal)
        opinions.append(
            (count, Why.LOAD_UP, f"load {load:.4g}/s at {perf:.4g}/s per worker and {settings.target_util:.0%} use: {count}")
        )
    if signal.busy_workers:
        count = _planned(signal.busy_workers, signal.calm_busy_workers or 0.0, scene, signal)
        opinions.append(
            (count, Why.LOAD_UP, f"{signal.busy_workers:.2f} workers' slots busy at {settings.target_util:.0%} use: {count}")
        )
    waited_s = max(here.oldest_wait_s, here.oldest_queued_s)
    backlog = here.waiting_units + here.queued_units
    expected_s = backlog / signal.capacity_units_per_s if signal.capacity_units_per_s > 0 else 0.0
    late = max(waited_s, expected_s) > settings.target_queue_time
    if late and perf is not None:
        clear_s = max(settings.target_queue_time, signal.lead_s, 1.0)
        newest = max(load, window.mean_per_s(scene.state.demand.arrived_units, scene.now, _NEWEST_S) or 0.0)
        count = max(1, capacity.workers_for(newest + backlog / clear_s, perf, policy.up_tolerance))
        opinions.append((count, Why.QUEUE_TIME, f"{backlog:.4g} units wait, to be gone in {clear_s:.0f} s: {count}"))
    if waited_s > settings.target_queue_time and roster.serving and not roster.coming:
        count = len(roster.hot) + 1
        opinions.append(
            (
                count,
                Why.QUEUE_TIME,
                f"a request waits {waited_s:.1f} s (target {settings.target_queue_time:.3g} s): one more, {count}",
            )
        )
    if here.waiting and not roster.serving:
        opinions.append((1, Why.DEMAND_WAITING, f"{words.wait(here.waiting)} and no worker is ready: at least 1"))
    elif here.requests:
        opinions.append((1, Why.LOAD_UP, f"{words.are_here(here.requests)}: at least 1"))
    if not opinions:
        return 0, Why.LOAD_DOWN, "no load", ()
    count, why, sentence = max(opinions, key=lambda opinion: opinion[0])
    most = max(int(signal.most_present), here.requests, 1)
    if count > most:
        sentence, count = f"{sentence}; at most {most} requests were here at once", most
    if why is Why.LOAD_UP and not roster.serving and here.waiting:
        why = Why.DEMAND_WAITING
    if why is Why.LOAD_UP and count < len(roster.hot):
        why = Why.LOAD_DOWN
    return count, why, sentence, tuple(text for _, _, text in opinions)


def _planned(busy: float, calm_busy: float, scene: Scene, signal: _Signal) -> int:
    """Whole workers for this many fully busy ones. The last minute may exceed the plan by its noise, as far as half of the
    headroom of target_util covers it; the last five minutes may not.
    """
    util, tolerance = scene.settings.target_util, scene.policy.up_tolerance
    grain = min(_noise(signal.arrivals), (1.0 - util) / 2)
    return max(0, ceil(busy * (1.0 - grain) / util - tolerance), ceil(calm_busy / util - tolerance))


def _noise(arrivals: float) -> float:
    """N random arrivals make a rate that is known to one part in sqrt(N): a smaller change is no change."""
    return float(arrivals**-0.5) if arrivals > 0 else 0.0


def _keep(scene: Scene, signal: _Signal) -> tuple[int, str]:
    """How many to keep although fewer are asked for, and why."""
    policy, util = scene.policy, scene.settings.target_util
    most = max(int(signal.most_present), signal.here.requests, 1)
    band = min(max(policy.down_band, _noise(signal.calm_arrivals)), 0.25)
    load = max(signal.load_units_per_s or 0.0, signal.calm_units_per_s or 0.0) * (1 + band)
    busy = max(signal.busy_workers or 0.0, signal.calm_busy_workers or 0.0) * (1 + band)
    by_load = capacity.workers_for(load / util, signal.perf, policy.up_tolerance) if signal.perf is not None else 0
    by_busy = max(0, ceil(busy / util - policy.up_tolerance))
    by_calm = min(max(by_load, by_busy), most)
    asked = int(window.peak(scene.state.targets.hot_peaks, scene.now, policy.down_hold_s))
    used = ceil(window.busiest_per_s(scene.state.demand.busy_workers_s, scene.now, policy.down_hold_s) - policy.up_tolerance)
    by_hold = max(asked, min(used, most))
    if by_hold >= by_calm:
        return by_hold, f"needed within {policy.down_hold_s:.0f} s"
    return by_calm, f"load of the last {policy.calm_window_s:.0f} s with a margin"


def _averaging_s(state: EndpointState, roster: Roster, perf: float | None, policy: Policy, now: float) -> float:
    """Few or long requests are averaged over longer, or one of them would look like a flood."""
    demand = state.demand
    arrivals = window.mean_per_s(demand.arrivals, now, policy.calm_window_s)
    units = window.mean_per_s(demand.arrived_units, now, policy.calm_window_s)
    if not arrivals or not units:
        return policy.window_s
    enough_s = policy.sure_arrivals / arrivals
    slots = [worker.slots for worker in roster.hot if worker.slots > 0]
    service_s = units / arrivals / perf * (sum(slots) / len(slots) if slots else 1.0) if perf else 0.0
    return min(max(policy.window_s, enough_s, 2 * service_s), policy.calm_window_s)


def _inputs(scene: Scene, signal: _Signal) -> tuple[InputRead, ...]:
    router_s, beat_s = readings.router_age_s(scene), readings.beat_age_s(scene)
    return (
        InputRead(name="load", value=signal.load_units_per_s, age_s=router_s, unit="units/s"),
        InputRead(name="load_5m", value=signal.calm_units_per_s, age_s=router_s, unit="units/s"),
        InputRead(name="busy", value=signal.busy_workers, age_s=beat_s, unit="workers"),
        InputRead(name="perf", value=signal.perf, age_s=beat_s, unit="units/s per worker"),
        InputRead(name="lead", value=signal.lead_s, unit="s"),
        *readings.here(scene),
    )
