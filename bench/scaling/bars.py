"""What the engine must reach, one configuration for all traffic, on the mean of the seeds: each bar with its figure.

A bar of what was played is never left out: where there is no figure, it says why.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.scaling import cases, rivals
from bench.scaling.bar import Bar, at_least, at_most, without
from bench.scaling.cases import DOCUMENTED, LEARNED, NEW, POOL_TRACE, TRI
from bench.scaling.compare import GOAL, Summary
from bench.scaling.measured import Measured
from bench.scaling.rivals import HOT, Rival, described
from sim.simulation import GIVE_UP_US
from sim.traces import SIZING
from sim.workload import SECOND_US

#: Nobody catches its first bursts: reported, and asked for a little less.
BURSTS = "azure_code_2023"
DENSE = ("azure_conv_2023", "mooncake_conv", "alibaba_r1_day")
#: Not everybody has it.
OPTIONAL = "burstgpt_week"
USUAL = tuple(trace for trace in SIZING if trace != OPTIONAL)
#: On these the bars for new workers hold. On the bursty week ours attains less than is asked, and few hours then prove nothing.
NEW_TRACES = ("alibaba_r1_day", "alibaba_tenant_diurnal_week", OPTIONAL)

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

PATIENCE_S = GIVE_UP_US / SECOND_US
NO_BOUND = "no bound is known for just this workload: make bench-bounds"
NOT_HELD_OUT = "the folder has no trace but the usual ones"


def every(measured: Measured) -> list[Bar]:
    """All bars of what was played."""
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
            unit = f"requests of {ours.seeds} runs, given up, or begun over {PATIENCE_S:g} s after arrival"
            yield at_most(f"rejected.{trace}", ours.rejected + ours.overdue, 0, unit)


def _over_bound(measured: Measured) -> Iterator[Bar]:
    for trace, ours in _ours(measured):
        bound_h, asked = measured.bounds.get(trace), OVER_BOUND.get(trace)
        if bound_h is not None:
            spread = {"low": round(ours.hot.low / bound_h - 1, 4), "high": round(ours.hot.high / bound_h - 1, 4)}
            over = ours.hot_h / bound_h - 1
            yield at_most(f"over_bound.{trace}", over, asked, HOT, vs=f"offline bound {bound_h:.2f} h", **spread)
        elif asked is not None:
            yield without(f"over_bound.{trace}", asked, HOT, NO_BOUND)


def _against_defaults(measured: Measured) -> Iterator[Bar]:
    found = [
        rival
        for trace, ours in _ours(measured)
        for rival in rivals.find(measured, ours, measured.table.peers(trace, defaults_only=True))
    ]
    yield from (rival.bar("vs_defaults", DEFAULTS_EACH) for rival in found)
    yield from _means("vs_defaults", found, DEFAULTS_MEAN, "cheapest peer at its default that attains as much")


def _against_oracle(measured: Measured) -> Iterator[Bar]:
    found = _oracles(measured)
    yield from (rival.bar("vs_oracle", ORACLE_EACH) for rival in found)
    yield from _means("vs_oracle", found, ORACLE_MEAN, "cheapest peer and knob per trace that attains as much")
    vs = "cheapest peer and knob per trace that attains .95, whatever ours attains"
    yield from _means("vs_oracle_at_goal", _oracles(measured, at=GOAL), None, vs)


def _oracles(measured: Measured, tier: str = cases.COLD, at: float = 1.0) -> list[Rival]:
    return [
        rival
        for trace, ours in _ours(measured, tier)
        for rival in rivals.find(measured, ours, rivals.with_knobs(measured, trace, tier), at)
    ]


def _means(bench: str, found: list[Rival], bar: float | None, vs: str) -> Iterator[Bar]:
    """Without and with the trace of bursts."""
    usual = [rival for rival in found if rival.trace != BURSTS]
    yield from rivals.mean(f"{bench}.mean", usual, bar, set(USUAL) - {BURSTS}, vs)
    if any(rival.best for rival in found if rival.trace == BURSTS):
        yield from rivals.mean(f"{bench}.mean_with_bursts", found, None, (), vs)


def _held_out(measured: Measured) -> Iterator[Bar]:
    """Traces that nobody tuned to: whatever else lies in the folder."""
    others = [trace for trace in measured.table.traces() if trace not in SIZING and measured.table.get(trace)]
    found: list[Rival] = []
    for trace in others:
        ours = measured.table.get(trace)
        assert ours is not None
        yield at_least(f"held_out.attainment.{trace}", ours.attainment, HELD_OUT_GOAL, "share within 5 s")
        for rival in rivals.find(measured, ours, rivals.with_knobs(measured, trace)):
            found.append(rival)
            yield rival.bar("held_out.vs_oracle", None)
    if found:
        yield from rivals.mean("held_out.vs_oracle.mean", found, ORACLE_MEAN, others)
    elif not others and set(USUAL) <= set(measured.table.traces()):
        yield without("held_out.vs_oracle.mean", ORACLE_MEAN, HOT, NOT_HELD_OUT)


def _new_workers(measured: Measured) -> Iterator[Bar]:
    for trace, ours in _ours(measured, NEW):
        spread = {"low": round(ours.attained.low, 4), "high": round(ours.attained.high, 4)}
        yield at_least(f"new.attainment.{trace}", ours.attainment, None, "share within 5 s", **spread)
    found = _oracles(measured, NEW)
    asked = [rival for rival in found if rival.trace in NEW_TRACES]
    yield from (rival.bar("new.vs_oracle", NEW_EACH if rival.trace in NEW_TRACES else None) for rival in found)
    yield from rivals.mean("new.vs_oracle.mean", asked, NEW_MEAN, set(NEW_TRACES) - {OPTIONAL})
    if any(rival.best for rival in found if rival.trace not in NEW_TRACES):
        yield from rivals.mean("new.vs_oracle.mean_with_bursty", found, None, ())


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
    for rival in _oracles(measured):
        if rival.trace not in DENSE:
            continue
        bench, unit = f"starts.{rival.trace}", "starts per hour"
        if rival.best is None:
            yield without(bench, None, unit, rival.why_none)
        else:
            most = round(rival.best.starts_per_hour, 4)
            yield at_most(bench, rival.ours.starts_per_hour, most, unit, vs=described(rival.best))


def _decision(measured: Measured) -> Iterator[Bar]:
    whole, step = measured.decision, measured.engine_step
    if whole is not None:
        yield at_most("decision.p99", whole.p99_s * 1e3, DECISION_MS, "ms of CPU", vs=whole.of)
    if step is not None:
        yield at_most("engine_step.p99", step.p99_s * 1e3, None, "ms of CPU", vs=step.of)
