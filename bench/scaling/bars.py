"""What the engine must reach, one configuration for all traffic, on the mean of the seeds: each bar with its figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bench.scaling import cases
from bench.scaling.cases import DOCUMENTED, LEARNED, NEW, POOL_TRACE, TRI
from bench.scaling.compare import GOAL, Summary, Table, cheapest, geometric_mean
from bench.scaling.decision import Times
from sim.traces import SIZING

#: Nobody catches its first bursts: reported, and asked for a little less.
BURSTS = "azure_code_2023"
DENSE = ("azure_conv_2023", "mooncake_conv", "alibaba_r1_day")
#: Not everybody has it.
OPTIONAL = "burstgpt_week"
USUAL = tuple(trace for trace in SIZING if trace != OPTIONAL)

BURSTS_GOAL, HELD_OUT_GOAL = 0.93, 0.93
OVER_BOUND = {
    "azure_conv_2023": 0.30,
    "mooncake_conv": 0.30,
    "alibaba_r1_day": 0.30,
    "alibaba_tenant_diurnal_week": 0.80,
    "alibaba_tenant_bursty_week": 1.80,
    OPTIONAL: 1.10,
}
DEFAULTS_MEAN, DEFAULTS_EACH = -0.10, 0.0
ORACLE_MEAN, ORACLE_EACH = -0.05, 0.03
NEW_MEAN, NEW_EACH = -0.03, 0.03
POOL_COST = 0.75
DECISION_MS = 1.0

HOT = "hot GPU-h, ours / theirs - 1"


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    bench: str
    value: float
    unit: str
    vs: str = ""
    bar: float | None = None  #: None: reported only
    ok: bool | None = None
    low: float | None = None  #: lowest and ...
    high: float | None = None  #: ... highest of the seeds

    def line(self) -> str:
        """As JSON; the range only where there is one."""
        found = {name: value for name, value in msgspec.structs.asdict(self).items() if name not in {"low", "high"}}
        if self.low is not None and self.low != self.high:
            found |= {"low": self.low, "high": self.high}
        return msgspec.json.encode({**found, "bench": f"scaling.{self.bench}"}).decode()


class Measured(NamedTuple):
    table: Table
    bounds: Mapping[str, float]  #: trace -> hot hours
    seeds: Sequence[int]
    decision: Times | None


def at_least(bench: str, value: float, bar: float | None, unit: str, **more: str | float) -> Bar:
    return Bar(bench=bench, value=round(value, 4), unit=unit, bar=bar, ok=None if bar is None else value >= bar, **more)


def at_most(bench: str, value: float, bar: float | None, unit: str, **more: str | float) -> Bar:
    return Bar(bench=bench, value=round(value, 4), unit=unit, bar=bar, ok=None if bar is None else value <= bar, **more)


def every(measured: Measured) -> list[Bar]:
    """All bars for which there are figures."""
    parts = (
        _attainment,
        _over_bound,
        _against_defaults,
        _against_oracle,
        _held_out,
        _new_workers,
        _stopped_pool,
        _starts,
        _decision,
    )
    return [bar for part in parts for bar in part(measured)]


def _ours(measured: Measured, tier: str = cases.COLD) -> Iterator[tuple[str, Summary]]:
    """(trace, ours) for the traces that everybody knows."""
    for trace in measured.table.traces(tier):
        found = measured.table.get(trace, tier=tier)
        if found is not None and trace in SIZING:
            yield trace, found


def _attainment(measured: Measured) -> Iterator[Bar]:
    for trace, ours in _ours(measured):
        goal = BURSTS_GOAL if trace == BURSTS else GOAL
        spread = {"low": round(ours.attained.low, 4), "high": round(ours.attained.high, 4)}
        yield at_least(f"attainment.{trace}", ours.attainment, goal, "share within 5 s", **spread)
        if trace != BURSTS:
            yield at_most(f"rejected.{trace}", ours.rejected, 0, f"requests of {ours.seeds} runs")


def _over_bound(measured: Measured) -> Iterator[Bar]:
    for trace, ours in _ours(measured):
        bound_h = measured.bounds.get(trace)
        if bound_h is not None:
            spread = {"low": round(ours.hot.low / bound_h - 1, 4), "high": round(ours.hot.high / bound_h - 1, 4)}
            over = ours.hot_h / bound_h - 1
            yield at_most(f"over_bound.{trace}", over, OVER_BOUND.get(trace), HOT, vs=f"offline bound {bound_h:.2f} h", **spread)


def _against_defaults(measured: Measured) -> Iterator[Bar]:
    ratios = {}
    for trace, ours in _ours(measured):
        peers = measured.table.peers(trace, defaults_only=True)
        best = cheapest(peers, ours.attainment, len(measured.seeds))
        if best is not None:
            ratios[trace] = ours.hot_h / best.hot_h
            yield at_most(f"vs_defaults.{trace}", ratios[trace] - 1, DEFAULTS_EACH, HOT, vs=described(best))
    yield from _mean("vs_defaults", ratios, DEFAULTS_MEAN, "cheapest peer at its default that attains as much")


def _against_oracle(measured: Measured) -> Iterator[Bar]:
    ratios = {}
    at_goal = {}
    for trace, ours in _ours(measured):
        best = oracle(measured, trace)
        if best is not None:
            ratios[trace] = ours.hot_h / best.hot_h
            yield at_most(f"vs_oracle.{trace}", ratios[trace] - 1, ORACLE_EACH, HOT, vs=described(best))
        good_enough = oracle(measured, trace, at=GOAL)
        if good_enough is not None:
            at_goal[trace] = ours.hot_h / good_enough.hot_h
    yield from _mean("vs_oracle", ratios, ORACLE_MEAN, "cheapest peer and knob per trace that attains as much")
    yield from _mean(
        "vs_oracle_at_goal", at_goal, None, "cheapest peer and knob per trace that attains .95, whatever ours attains"
    )


def oracle(measured: Measured, trace: str, tier: str = cases.COLD, at: float = 1.0) -> Summary | None:
    """The cheapest of all peers and knobs, in hindsight, that attains as much as ours, or as `at` if that is less; None when nobody does or
    knobs were not played."""
    ours = measured.table.get(trace, tier=tier)
    peers = measured.table.peers(trace, tier=tier)
    if ours is None or all(one.setting.knob is None for one in peers):
        return None
    return cheapest(peers, min(ours.attainment, at), len(measured.seeds))


def _mean(bench: str, ratios: Mapping[str, float], bar: float | None, vs: str) -> Iterator[Bar]:
    """Geometric means without and with the trace of bursts. The bar holds for all traces together, not for a selection."""
    usual = {trace: ratio for trace, ratio in ratios.items() if trace != BURSTS}
    if usual:
        whole = set(USUAL) - {BURSTS} <= set(usual)
        yield at_most(
            f"{bench}.mean", geometric_mean(usual.values()) - 1, bar if whole else None, HOT, vs=f"{vs}, {len(usual)} traces"
        )
    if BURSTS in ratios:
        yield at_most(
            f"{bench}.mean_with_bursts", geometric_mean(ratios.values()) - 1, None, HOT, vs=f"{vs}, {len(ratios)} traces"
        )


def _held_out(measured: Measured) -> Iterator[Bar]:
    """Traces that nobody tuned to: whatever else lies in the folder."""
    ratios = []
    for trace in measured.table.traces():
        ours = measured.table.get(trace)
        if ours is None or trace in SIZING:
            continue
        yield at_least(f"held_out.attainment.{trace}", ours.attainment, HELD_OUT_GOAL, "share within 5 s")
        best = oracle(measured, trace)
        if best is not None:
            ratios.append(ours.hot_h / best.hot_h)
            yield at_most(f"held_out.vs_oracle.{trace}", ratios[-1] - 1, None, HOT, vs=described(best))
    if ratios:
        yield at_most("held_out.vs_oracle.mean", geometric_mean(ratios) - 1, ORACLE_MEAN, HOT, vs=f"{len(ratios)} traces")


def _new_workers(measured: Measured) -> Iterator[Bar]:
    ratios = {}
    for trace, ours in _ours(measured, NEW):
        spread = {"low": round(ours.attained.low, 4), "high": round(ours.attained.high, 4)}
        yield at_least(f"new.attainment.{trace}", ours.attainment, None, "share within 5 s", **spread)
        best = oracle(measured, trace, NEW)
        if best is not None:
            ratios[trace] = ours.hot_h / best.hot_h
            yield at_most(f"new.vs_oracle.{trace}", ratios[trace] - 1, NEW_EACH, HOT, vs=described(best))
    if ratios:
        whole = len(ratios) > 1
        yield at_most(
            "new.vs_oracle.mean",
            geometric_mean(ratios.values()) - 1,
            NEW_MEAN if whole else None,
            HOT,
            vs=f"{len(ratios)} traces",
        )


def _stopped_pool(measured: Measured) -> Iterator[Bar]:
    learned = measured.table.get(POOL_TRACE, tier=TRI, pool=LEARNED)
    literal = measured.table.get(POOL_TRACE, tier=TRI, pool=DOCUMENTED)
    if learned and literal:
        vs = "the same engine with cold_mult 3, min_workers 5"
        yield at_most(
            f"pool.cost.{POOL_TRACE}", learned.cost.mean / literal.cost.mean, POOL_COST, "total cost, learned / literal", vs=vs
        )
        yield at_least(
            f"pool.attainment.{POOL_TRACE}", learned.attainment - literal.attainment, 0, "share within 5 s, difference", vs=vs
        )


def _starts(measured: Measured) -> Iterator[Bar]:
    for trace, ours in _ours(measured):
        best = oracle(measured, trace) if trace in DENSE else None
        if best is not None:
            yield at_most(
                f"starts.{trace}", ours.starts_per_hour, round(best.starts_per_hour, 4), "starts per hour", vs=described(best)
            )


def _decision(measured: Measured) -> Iterator[Bar]:
    if measured.decision is not None:
        p99_ms = measured.decision.p99_s * 1e3
        yield at_most(
            "decision.p99", p99_ms, DECISION_MS, "ms of CPU, 100 workers", vs=f"{measured.decision.decisions} decisions"
        )


def described(one: Summary) -> str:
    """Who, at which setting, with which figures."""
    knob = "" if one.setting.knob is None else f" at {one.setting.knob:g}"
    return f"{one.setting.policy}{knob}: {one.attainment:.4f}, {one.hot_h:.2f} h"
