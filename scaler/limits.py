"""The user's settings are law. Each limit is a plain function Want -> Want; one that changes a number says so in the sentence.

Order, weakest first, so that the later word wins: the endpoint's rest (idle), floors (in flight, unheard, never zero, min_load,
schedule and override floors), one for each weighted group, the cold pool's floors, override ceiling, max_workers.
"""

from __future__ import annotations

from math import ceil

import msgspec

from schemas.events import InputRead
from schemas.reasons import Why
from schemas.records import Override
from schemas.states import WorkerState

from . import calendar, capacity, shares, window
from .scene import Scene
from .types import Want, WorkerFact

_replace = msgspec.structs.replace

#: Past the point of cheap return: what is this far on its way becomes ready before the endpoint may rest.
_UNDER_WAY = frozenset({WorkerState.LOADING, WorkerState.MODEL_LOADING, WorkerState.BENCHMARKING, WorkerState.STARTING})


def apply(wanted: Want, scene: Scene) -> Want:
    """The wish within the law."""
    for limit in (
        _rest,
        _present,
        _unheard,
        _min_load,
        _schedule,
        _override_up,
        _each_group,
        _cold_pool,
        _override_down,
        _max_workers,
    ):
        wanted = limit(wanted, scene)
    return wanted


def least_hot(scene: Scene) -> int:
    """Hot workers that the settings ask for whatever the load."""
    never_zero = scene.settings.inactivity_timeout_s() is None
    by_load = _count_for(scene.settings.min_load, scene, scene.roster.hot) if scene.settings.min_load > 0 else 0
    override = _override(scene)
    by_hand = (override.hot_min or 0) if override is not None else 0
    return min(max(int(never_zero), by_load, calendar.floor(scene).hot_min, by_hand), scene.settings.max_workers)


def idle_since_at(scene: Scene) -> float:
    """When the endpoint fell silent: after the last request, and not before the newest worker could serve one."""
    ready = [worker.ready_at for worker in scene.roster.serving if worker.ready_at is not None]
    begin = scene.state.spec.created_at if scene.state.spec is not None else 0.0
    return max(scene.state.demand.last_activity_at, begin, max(ready, default=0.0))


def _rest(wanted: Want, scene: Scene) -> Want:
    """inactivity_timeout: positive waits that long, 0 rests at once, negative never rests. None waits a minute, and then for as long
    as an engine that learns wants.
    """
    state, roster = scene.state, scene.roster
    timeout_s = scene.settings.inactivity_timeout_s()
    if timeout_s is None:
        return _at_least(wanted, 1, Why.MIN_WORKERS, "inactivity_timeout is negative: at least 1 stays hot")
    if scene.here.requests:
        return wanted
    under_way = any(worker.state in _UNDER_WAY for worker in roster.coming)
    if under_way and state.demand.last_activity_at > 0:
        return _at_least(wanted, 1, Why.DEMAND_WAITING, "a worker is nearly there: it may become ready first")
    silent_s = scene.now - idle_since_at(scene)
    if not roster.hot and (silent_s < timeout_s or not wanted.hot):
        return wanted
    if silent_s < timeout_s:
        text = f"last request {silent_s:.0f} s ago, inactivity_timeout is {timeout_s:.0f} s: 1 stays hot"
        return _at_least(wanted, 1, Why.STEADY, text)
    if wanted.hot == 0 and wanted.asked == 0:
        return _replace(
            wanted, why=Why.IDLE, sentence=f"no request for {silent_s:.0f} s (inactivity_timeout is {timeout_s:.0f} s)"
        )
    if scene.settings.inactivity_timeout is None and wanted.engine is not None:
        return wanted
    text = f"{wanted.sentence}; no request for {silent_s:.0f} s (inactivity_timeout is {timeout_s:.0f} s): 0"
    return _replace(wanted, hot=0, asked=0, units_per_s=0.0, why=Why.IDLE, sentence=text)


def _present(wanted: Want, scene: Scene) -> Want:
    if scene.here.requests:
        return _at_least(wanted, 1, Why.DEMAND_WAITING, "requests are here: at least 1")
    return wanted


def _unheard(wanted: Want, scene: Scene) -> Want:
    """No data is not zero: while a router is lost nobody is let go, hot or cold."""
    recent = _fell_silent(scene)
    if not recent:
        return wanted
    hot = len(scene.roster.hot)
    wanted = _replace(wanted, total=max(wanted.total, hot + len(scene.roster.kept_cold)))
    silent_s = scene.now - scene.state.routers[recent[0]].seen_at
    text = f"router {recent[0]} fell silent {silent_s:.0f} s ago in the middle of traffic: nobody is let go"
    return _at_least(wanted, hot, Why.NO_DATA, text)


def _fell_silent(scene: Scene) -> list[str]:
    """Routers that were lost so recently that their traffic may go on unseen."""
    routers = scene.state.routers
    return [name for name in scene.lost if scene.now - routers[name].seen_at <= scene.policy.router_lost_s]


def _min_load(wanted: Want, scene: Scene) -> Want:
    units_per_s = scene.settings.min_load
    if units_per_s <= 0:
        return wanted
    floor = _count_for(units_per_s, scene, scene.roster.hot)
    wanted = _replace(wanted, units_per_s=max(wanted.units_per_s or 0.0, units_per_s))
    return _at_least(wanted, floor, Why.MIN_LOAD, f"min_load {units_per_s:.4g}/s: at least {floor} hot")


def _schedule(wanted: Want, scene: Scene) -> Want:
    asked = calendar.floor(scene)
    if asked.until_at is not None or asked.unreadable:
        until_at, candidates = _sooner(wanted.until_at, asked.until_at), (*wanted.candidates, *asked.unreadable)
        wanted = _replace(wanted, until_at=until_at, candidates=candidates)
    if not asked.hot_min:
        return wanted
    wanted = _seen(wanted, "schedule_floor", asked.hot_min)
    return _at_least(wanted, asked.hot_min, Why.SCHEDULE, asked.sentence)


def _override(scene: Scene) -> Override | None:
    """The one that holds now."""
    override = scene.state.spec.override if scene.state.spec is not None else None
    return override if override is not None and override.expires_at > scene.now else None


def _override_up(wanted: Want, scene: Scene) -> Want:
    override = _override(scene)
    if override is None:
        return wanted
    wanted = _replace(wanted, until_at=_sooner(wanted.until_at, override.expires_at))
    if override.hot_min is None:
        return wanted
    text = f"{override.owner} asks for at least {override.hot_min} ({override.reason or 'no reason given'})"
    return _at_least(_seen(wanted, "override_floor", override.hot_min), override.hot_min, Why.MANUAL, text)


def _each_group(wanted: Want, scene: Scene) -> Want:
    """A weight is a share of the traffic, and a group without a worker gets none of it: each keeps one while the endpoint is awake."""
    hot = shares.one_each(scene.standings, wanted.hot)
    if hot <= wanted.hot:
        return wanted
    text = f"each weighted group keeps at least one worker: {hot}"
    return _replace(_at_least(wanted, hot, wanted.why, text), pooled=wanted.hot)


def _cold_pool(wanted: Want, scene: Scene) -> Want:
    """Explicit settings replace what was learned about the cold pool; cold_workers is a floor in any case."""
    settings = scene.settings
    total, floor = max(wanted.total, wanted.hot), 0
    parts = []
    none_cold = settings.cold_mult is not None and settings.cold_mult < 1 and not settings.min_cold_load
    if none_cold:
        total = floor = wanted.hot  # at once, and not when the load of the last half hour has passed
    elif settings.cold_mult is not None or settings.min_cold_load is not None:
        active = wanted.load_units_per_s or 0.0
        pool: list[WorkerFact] = []  # by what groups are known to do: who is here now must not change what a pool is worth
        by_mult = _count_for(active * settings.cold_mult, scene, pool) if settings.cold_mult and active > 0 else 0
        by_load = _count_for(settings.min_cold_load, scene, pool) if settings.min_cold_load else 0
        floor = max(wanted.hot, by_mult, by_load)
        # The load breathes, and a pool that is bought and destroyed with every breath costs more than one that waits.
        total = max(floor, int(window.peak(scene.state.targets.cold_peaks, scene.now, scene.policy.cold_settle_s)))
        if total > wanted.hot:
            parts.append(f"cold_mult and min_cold_load ask for {total} in all")
    if settings.cold_workers is not None and settings.cold_workers > floor:
        floor = settings.cold_workers
        if floor > max(total, wanted.hot):
            parts.append(f"cold_workers: {floor} in all")
    if _fell_silent(scene):
        total = max(total, wanted.total)
    if total <= wanted.total and not floor and not parts and not none_cold:
        return wanted
    return _replace(wanted, total=max(total, floor), floor=floor, sentence="; ".join([wanted.sentence, *parts]))


def _override_down(wanted: Want, scene: Scene) -> Want:
    override = _override(scene)
    if override is None or override.hot_max is None:
        return wanted
    wanted = _seen(wanted, "override_ceiling", override.hot_max)
    if wanted.hot <= override.hot_max:
        return wanted
    text = f"{wanted.sentence}; {override.owner} allows at most {override.hot_max} ({override.reason or 'no reason given'})"
    return _replace(wanted, hot=override.hot_max, units_per_s=None, why=Why.MANUAL, sentence=text)


def _max_workers(wanted: Want, scene: Scene) -> Want:
    ceiling = scene.settings.max_workers
    if max(wanted.hot, wanted.total, wanted.floor) <= ceiling:
        return wanted
    capped = _replace(wanted, hot=min(wanted.hot, ceiling), total=min(wanted.total, ceiling), floor=min(wanted.floor, ceiling))
    if wanted.hot <= ceiling:
        return capped
    return _replace(capped, units_per_s=None, why=Why.MAX_WORKERS, sentence=f"{wanted.sentence}; max_workers allows {ceiling}")


def _count_for(units_per_s: float, scene: Scene, pool: list[WorkerFact]) -> int:
    """Workers like those of the pool that do this much; while no perf is known one is started to be measured."""
    perf = capacity.reference_perf(scene.state, pool)
    return max(1, ceil(units_per_s / perf - 1e-9)) if perf is not None else 1


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _seen(wanted: Want, name: str, workers: int) -> Want:
    """The wish, and what people asked for among the things it looked at."""
    return _replace(wanted, inputs=(*wanted.inputs, InputRead(name=name, value=float(workers), unit="workers")))


def _at_least(wanted: Want, floor: int, why: Why, text: str) -> Want:
    if wanted.hot >= floor:
        return wanted
    return _replace(wanted, hot=floor, total=max(wanted.total, floor), why=why, sentence=f"{wanted.sentence}; {text}")
