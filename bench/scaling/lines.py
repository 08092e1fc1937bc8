"""Each policy on each trace as one line of JSON. They are the rows of the tables, and the same policies under the other model of service."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bench.scaling.cases import COLD, NEW, SHARING, TRI
from bench.scaling.compare import WAIT_S, Spread, Summary
from bench.scaling.measured import Measured
from bench.scaling.table import bound_of, rows
from sim.metrics import TARGETS_S


def every(measured: Measured) -> Iterator[str]:
    for tier in (COLD, NEW, TRI):
        for trace, first_h in measured.table.parts(tier):
            bound_h = bound_of(measured, tier, trace, first_h)
            settings = {one.setting: one for _, one in rows(measured, tier, trace, first_h)}
            yield from (line(one, bound_h) for one in settings.values())
    for trace, first_h in measured.table.parts(service=SHARING):
        ours = measured.table.get(trace, service=SHARING, first_h=first_h)
        peers = measured.table.peers(trace, service=SHARING, first_h=first_h, defaults_only=True)
        yield from (line(one, None) for one in [*([ours] if ours else []), *peers])


def line(one: Summary, bound_h: float | None) -> str:
    """`value`, `low` and `high` are the share begun within 5 s; hours and cost in GPU-hours. `bound_h`: None where no bound is known."""
    setting, within = one.setting, _rounded(one.within[WAIT_S])
    found = {
        "bench": "scaling.policy",
        "value": within["mean"],
        "unit": f"share within {WAIT_S:g} s",
        "low": within["low"],
        "high": within["high"],
        "seeds": one.seeds,
        "trace": setting.trace,
        "first_h": setting.first_h or None,
        "tier": setting.tier,
        "service": setting.service,
        "policy": setting.policy,
        "knob": setting.knob,
        "pool": setting.pool or None,
        **{f"within_{target_s:g}_s": _rounded(one.within[target_s]) for target_s in TARGETS_S if target_s != WAIT_S},
        "hot_h": _rounded(one.hot),
        "hot_over_bound": None if bound_h is None else _rounded(Spread(*(hours / bound_h for hours in one.hot))),
        "stopped_h": _rounded(one.stopped),
        "cost": _rounded(one.cost),
        "flaps": _rounded(one.flaps),
    }
    return msgspec.json.encode(found).decode()


def _rounded(spread: Spread) -> dict[str, float]:
    return {name: round(value, 4) for name, value in spread._asdict().items()}
