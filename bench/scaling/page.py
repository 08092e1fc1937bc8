"""docs/benchmarks.md and its plots, written by a complete run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.scaling.bar import Bar, verdict
from bench.scaling.bars import BURSTS, NEW_TRACES, OPTIONAL, PATIENCE_S
from bench.scaling.cases import COLD, DOCUMENTED, LEARNED, NEW, OURS, POOL_TRACE, TRI
from bench.scaling.compare import GOAL, Spread, Summary, geometric_mean
from bench.scaling.measured import Measured
from bench.scaling.rivals import oracle
from bench.scaling.table import one_knob_for_all, rankings, rows
from scaler.engine import constants

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "img"
#: Products whose code is closed: what is compared is our model of what their documents say.
CLOSED = ("Baseten-like", "Modal-like", "Runpod queue-delay", "Runpod request-count", "SageMaker TT (hi-res)", "Vast-like (docs)")


def write(measured: Measured, bars: Sequence[Bar]) -> None:
    """The page and its plots. Needs matplotlib."""
    from bench.scaling import plots

    PAGE.write_text("\n".join(lines(measured, bars)) + "\n")
    for trace in measured.table.traces():
        plots.plot(measured, trace, IMAGES / f"scaling-{trace}.svg")


def lines(measured: Measured, bars: Sequence[Bar]) -> Iterator[str]:
    seeds = f"seeds 1 to {len(measured.seeds)}" if len(measured.seeds) > 1 else "seed 1"
    yield from _HEAD.format(verdict=_verdict(bars)).splitlines()
    yield from _section("Bars", _BARS.format(seeds=seeds))
    yield from _table(("", "bar", "value", "asked", "unit", "against"), (_of_bar(bar) for bar in bars))
    yield from _section("At documented defaults", _DEFAULTS.format(seeds=seeds))
    yield from _defaults(measured)
    yield from _section("One knob for all traces, chosen in hindsight", _ONE_KNOB)
    yield from _one_knob(measured)
    yield from _section("Any peer, any knob, chosen per trace in hindsight", _ORACLE.format(seeds=seeds))
    yield from _oracle(measured, COLD)
    yield from _section(
        "Ours in detail",
        f"Mean of {seeds}, range in brackets; given up, and late (begun over {PATIENCE_S:g} s after arrival, see *Patience* below): requests of all seeds.\n"
        "Stopped hours and cost include everything up to the maximum.",
    )
    yield from _detail(measured)
    yield from _section("Plots", "Cost against attainment. The line is the frontier of all peers at all knobs.")
    for trace in measured.table.traces():
        yield f"![{trace}](img/scaling-{trace}.svg)"
        yield ""
    yield from _section("New workers only", "\n".join((_NEW, *_where_new_workers_miss(measured))))
    yield from _oracle(measured, NEW)
    yield from _section("Three tiers", _TRI)
    yield from _pools(measured)
    yield from _what_pools_attain(measured)
    yield from _section("Another model of service", _SHARING)
    header = (
        "trace",
        "service",
        "seeds",
        "ours, 5 s",
        "ours, hot h",
        "our place among those ≥ .95, by hours",
        "order of hours",
        "order of attainment",
    )
    yield from _table(header, rankings(measured))
    yield from _METHOD.splitlines()


def _section(title: str, text: str) -> Iterator[str]:
    yield from ("", f"### {title}", "", *text.splitlines(), "")


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in body:
        yield f"| {' | '.join(row)} |"


def _verdict(bars: Sequence[Bar]) -> str:
    text = verdict(bars)
    return f"**{text}**" if any(bar.ok is False for bar in bars) else text


def _of_bar(bar: Bar) -> tuple[str, ...]:
    mark = "not judged" if bar.not_judged else {True: "ok", False: "**missed**", None: ""}[bar.ok]
    value = "" if bar.value is None else f"{bar.value:g}"
    spread = "" if bar.low is None or bar.low == bar.high else f" ({bar.low:g} to {bar.high:g})"
    return (mark, f"`{bar.bench}`", f"{value}{spread}", "" if bar.bar is None else f"{bar.bar:g}", bar.unit, bar.vs)


def _named(policy: str) -> str:
    return f"{policy} †" if policy in CLOSED else policy


def _cell(one: Summary | None) -> str:
    """Share within 5 s / hot hours, and in the same order their ranges where there are several seeds."""
    if one is None:
        return ""
    text = f"{one.attainment:.3f} / {one.hot_h:.4g}"
    marked = f"**{text}**" if one.attainment >= GOAL else text
    return marked if one.seeds == 1 else f"{marked} ({_range(one.attained, '.3f')} / {_range(one.hot, '.4g')})"


def _ranged(one: Summary, figure: Spread, form: str) -> str:
    return f"{figure.mean:{form}}" + (f" ({_range(figure, form)})" if one.seeds > 1 else "")


def _range(figure: Spread, form: str) -> str:
    return f"{figure.low:{form}}–{figure.high:{form}}"


def _seeds(found: Iterable[Summary | None]) -> str:
    """How many seeds each of them was played under: "5", or "1, 5" where they differ."""
    return ", ".join(str(count) for count in sorted({one.seeds for one in found if one is not None}))


def _defaults(measured: Measured) -> Iterator[str]:
    table, traces = measured.table, measured.table.traces()
    ours = {trace: table.get(trace) for trace in traces}
    names = [OURS, *(one.setting.policy for one in table.peers(traces[0], defaults_only=True))]

    def row(name: str) -> list[str]:
        found = [table.get(trace, name) for trace in traces]
        there = [(one, ours[trace]) for trace, one in zip(traces, found, strict=True) if one is not None]
        ratio = geometric_mean([one.hot_h / mine.hot_h for one, mine in there])
        reached = sum(one.attainment >= GOAL for one, _ in there)
        return [_named(name), _seeds(found), *(_cell(one) for one in found), f"{reached}", f"{ratio:.2f}"]

    bounds = [f"{measured.bounds[trace]:.4g}" if trace in measured.bounds else "" for trace in traces]
    header = ("policy", "seeds", *traces, "traces ≥ .95", "hot h / ours")
    yield from _table(header, [*(row(name) for name in names), ["*offline bound for .95*", "", *bounds, "", ""]])


def _one_knob(measured: Measured) -> Iterator[str]:
    traces = measured.table.traces()
    body = []
    for policy, knob, found, ratio in one_knob_for_all(measured):
        of = {one.setting.trace: one for one in found}
        label = f"{_named(policy)}, {'default' if knob is None else f'{knob:g}'}"
        reached = sum(one.attainment >= GOAL for one in found)
        body.append([label, _seeds(found), *(_cell(of[trace]) for trace in traces), f"{reached}", f"{ratio:.2f}"])
    yield from _table(("policy, knob", "seeds", *traces, "traces ≥ .95", "hot h / ours"), body)


def _oracle(measured: Measured, tier: str) -> Iterator[str]:
    header = (
        "trace", "ours", "× bound", "p99, s", "starts/h", "cheapest with at least our attainment", "difference", "cheapest with .95", "difference",
    )  # fmt: skip

    def against(ours: Summary, best: Summary | None) -> tuple[str, str]:
        if best is None:
            return ("nobody", "")
        knob = "default" if best.setting.knob is None else f"{best.setting.knob:g}"
        return (f"{_named(best.setting.policy)}, {knob}: {_cell(best)}", f"{ours.hot_h / best.hot_h - 1:+.1%}")

    def row(trace: str) -> tuple[str, ...]:
        ours = measured.table.get(trace, tier=tier)
        bound_h = measured.bounds.get(trace) if tier == COLD else None
        mine = (_cell(ours), f"{ours.hot_h / bound_h:.2f}" if bound_h else "", f"{ours.p99_s:.1f}", f"{ours.starts_per_hour:.1f}")
        best, good_enough = oracle(measured, trace, tier), oracle(measured, trace, tier, at=GOAL)
        return (trace, *mine, *against(ours, best), *against(ours, good_enough))

    traces = [trace for trace in measured.table.traces(tier) if measured.table.get(trace, tier=tier)]
    yield from _table(header, (row(trace) for trace in traces))


def _detail(measured: Measured) -> Iterator[str]:
    header = (
        "trace",
        "2 s",
        "5 s",
        "15 s",
        "p95, s",
        "given up",
        "late",
        "hot h",
        "× bound",
        "stopped h",
        "cost",
        "used slots",
        "flaps",
        "starts/h",
    )

    def row(trace: str, one: Summary) -> tuple[str, ...]:
        bound_h = measured.bounds.get(trace)
        return (
            trace,
            f"{one.within[2.0].mean:.3f}",
            _ranged(one, one.attained, ".3f"),
            f"{one.within[15.0].mean:.3f}",
            f"{one.p95_s:.1f}",
            f"{one.rejected}",
            f"{one.overdue}",
            _ranged(one, one.hot, ".4g"),
            f"{one.hot_h / bound_h:.2f}" if bound_h else "",
            f"{one.stopped.mean:.0f}",
            f"{one.cost.mean:.4g}",
            f"{one.utilisation:.0%}",
            f"{one.flaps.mean:.0f}",
            f"{one.starts_per_hour:.1f}",
        )

    found = [(trace, measured.table.get(trace)) for trace in measured.table.traces()]
    yield from _table(header, (row(trace, one) for trace, one in found if one is not None))


def _pools(measured: Measured) -> Iterator[str]:
    header = ("policy, rule of the stopped pool", "seeds", "5 s", "hot h", "stopped h", "cost", "creations")

    def row(label: str, one: Summary) -> tuple[str, ...]:
        return (
            label,
            f"{one.seeds}",
            _ranged(one, one.attained, ".3f"),
            _ranged(one, one.hot, ".4g"),
            _ranged(one, one.stopped, ".0f"),
            _ranged(one, one.cost, ".4g"),
            f"{one.creations:.0f}",
        )

    yield from _table(header, (row(label, one) for label, one in rows(measured, TRI, POOL_TRACE, 0.0)))


def _where_new_workers_miss(measured: Measured) -> Iterator[str]:
    """Why some traces have no bar here."""
    for trace in measured.table.traces(NEW):
        ours = measured.table.get(trace, tier=NEW)
        if ours is None or trace in NEW_TRACES:
            continue
        attained = f"ours attains {ours.attainment:.3f} there" + (", less than the goal" if ours.attainment < GOAL else "")
        yield f"`{trace}` has no bar: {attained}, and few hours then prove nothing. `new.vs_oracle.mean` is without it."


def _what_pools_attain(measured: Measured) -> Iterator[str]:
    learned, literal = (measured.table.get(POOL_TRACE, tier=TRI, pool=pool) for pool in (LEARNED, DOCUMENTED))
    yield ""
    if learned is not None and learned.attainment < GOAL:
        also = (
            "" if literal is None or literal.attainment >= GOAL else f", and by the literal rule ({literal.attainment:.3f}) too"
        )
        yield f"**The goal of {GOAL:g} is missed here by the learned pool ({learned.attainment:.3f}){also}.** The bar asks for total cost at"
        yield "no less attainment than the literal rule's, not for the goal."
    worth_s, half_life_h = constants.DEFAULT.creation_worth_s, constants.DEFAULT.pool_half_life_s / 3600
    yield f"The learned rule takes an avoided creation to be worth {worth_s:g} s of a hot worker, and remembers uses with a half-life of"
    yield f"{half_life_h:g} h. The design it follows had 900 s and 3 days, which keep more workers stopped. Like all constants these were chosen on these traces."


_HEAD = """\
<!-- Written by `make bench-scaling`. Do not edit. -->
# Benchmarks

How much does it cost to start requests in time, with this project's scaling engine and with others? **Everything on this page is
simulated**: real or derived traffic is replayed in virtual time, every policy meets the same requests, machines, boot times and
failures, and no GPU and no real product took part. The engine is the function that production calls, not a copy. The peers are
re-implementations from sources and documents (`sim/peers`, one file each, with what had to be assumed); those marked † are closed
products, and what is compared is *our model of the product's documented policy*.

The goal is 95 % of the requests begun within 5 s; the price is hot GPU-hours, which are billed from the start of a boot to the end of a drain.

{verdict}
"""

_BARS = """\
One configuration for all traffic, mean of {seeds}. A line without a figure asked for is reported only; one that is *not judged* says why.
Routing has bars on [its own page](benchmarks-routing.md): at least .95 within 5 s and within .04 of a central queue at 85 % load with reports
of 5 s ago, .94 with three routers. Scale-up that creates workers is judged on traces of a day or more, below."""

_DEFAULTS = """\
Share begun within 5 s / hot GPU-hours, mean of {seeds}, in brackets the ranges over them; bold: at least .95. The last column is a geometric
mean: below 1 means cheaper than ours, which is worth nothing where the goal is missed. Defaults that a product lacks or gives as an absolute number
had to be translated: Ray Serve's 2 of 5 ongoing requests to .4 of the slots, HPA/KEDA, SkyServe and SageMaker to .7; Runpod's request count keeps its
literal 4. Dynamo's planner is played with the Kalman forecaster that it offers, at that one's own settings; the forecaster it documents as its
default is ARIMA, which was not played."""

_ONE_KNOB = """\
Each peer at the one setting that reaches .95 on most traces, and is then cheapest. Nobody can know that setting beforehand. Knobs are played
under seed 1, and under all seeds where they may win elsewhere on this page: a cell with ranges is a mean over seeds, one without is seed 1."""

_ORACLE = """\
The hardest comparison: whoever of thirteen peers at any knob is cheapest and attains at least as much as ours, chosen anew for each trace
after the fact; ours has one configuration. All knobs are tried under seed 1, whatever may win under {seeds}. The last two columns ask
less of the peers where ours attains more than .95."""

_NEW = """\
Nothing is kept stopped: scaling up is creating, two to ten minutes. Traces of a day or more. Ours is told the mean time of a creation
and the share of it that is billed, and decides every 5 s."""

_TRI = """\
The policy also says how many workers are kept stopped, at a twentieth of the price of a hot one. Total cost in GPU-hours, storage included.
*documented*: total = max(5, 3 × active), as Vast's documents say it, without hysteresis (which the real engine surely has).
*learned*: the engine's own rule, by what each level is used for. A row without ranges is seed 1 alone."""

_SHARING = """\
Above, a request holds one slot at a fixed speed. Here workers share their speed among requests, and a lone request runs four times
faster, which is nearer to continuous batching. Sharing is played under seed 1 alone. Orders: Kendall's tau between the two models over all
policies at their defaults, each at the mean of its seeds; 1 is the same order."""

_METHOD = f"""
### Method

- **Traffic.** Two Azure LLM services and Mooncake's conversations (an hour each, real), a day of DeepSeek-R1 and two single customers
  for a week (derived from the rates, burstiness and lengths that ServeGen publishes). `{BURSTS}` is near-empty stretches and bursts of
  300 requests; nobody catches their beginnings, so less is asked there. Speeds are set so that the mean load is 2 to 8 workers. `sim.convert` reads
  the public data sets: Azure's two come out verbatim, the others are drawn or spread anew, with like statistics but not the same requests, so run
  `make bench-bounds` for them. `{OPTIONAL}` and traces that had no part in tuning are judged where the folder has them.
- **Patience.** A request that waits is given up after {PATIENCE_S:g} s. One in service when its worker crashes waits anew, for everybody. By the
  letter it should have been given up {PATIENCE_S:g} s after its arrival; `rejected` counts for ours, and for ours alone, also those that began
  later than that. Of peers only who was given up is counted.
- **Machines.** Resuming takes 25 s (median, log-normal, 10 to 60 s) and fails in 2 %; creating 240 s (120 to 600 s) and fails in 5 %;
  a crash each 48 h. Draws are hashes of (seed, worker, start), so all policies meet the same ones.
- **Dispatch.** One queue, first come first served, late binding: better than any real router, and the same for all.
- **Peers are mostly flattered.** Exact metrics without delay; they may cancel boots and take back draining workers, begin with the same
  pool, and have min and max workers set as ours. Where a reading holds one back instead, it is by about a hundredth of its hours: Ray Serve
  acts after 31 s of ticks, the product after 30.1 s; who goes on from the hot workers it sees forgets one that crashed.
- **Decisions.** `decision.p99` is the whole decision of production, as `make bench-decide` measures it: an endpoint's state in, a decision out.
  CPU time of one thread; each decision is tried many times and its quickest try counts, then the 99th percentile over decisions is taken.
  `engine_step.p99` is the engine alone, as the simulator calls it.
- **Offline bound.** What a clairvoyant must pay: a linear program and a covering bound (`sim/bound.py`), solved once (`make bench-bounds`).
  The gap to it is mostly the price of not knowing the future.

### What this hides

- Service is cost at a fixed rate per slot (or shared, above). Real engines differ: prefill and decode cost differ, long contexts
  are slower, KV memory caps the slots.
- Costs are exactly known on arrival, to ours by classes of a quarter octave. Workers are alike; boots are independent, the market is never short.
- Closed products are our reading of their documents; windows and thresholds they do not publish are guesses.
- Three of the six traces are derived, the other three are real logs, and those last an hour each. Weekly patterns are weakly tested.
- The engine's constants were chosen on these traces. Traces that had no part in it, when there are any in the folder, appear as `held_out`.
- Pools are small. With a hundred workers relative headroom shrinks for everybody.
- On smooth traffic a proportional rule with a knob tuned in hindsight is within a few percent of anything online, ours included.

### Run it

```
make bench-scaling TRACES=folder                                          # everything, then this page
make bench-scaling TRACES=folder ARGS="--quick"                           # minutes
make bench-scaling TRACES=folder ARGS="--traces azure_conv_2023 --seeds 1"
make bench-scaling-gate                                                   # made-up traffic, under a minute; also part of make test
```

Besides tables it prints JSON, a line for each policy on each trace (`scaling.policy`; `value` is the share begun within 5 s) and for each bar:

```
make bench-scaling TRACES=folder | grep '^{{' | jq -c 'select(.bench == "scaling.policy" and .tier == "cold") | [.trace, .policy, .value, .hot_h.mean]'
```

Results are kept in `out/scaling` by content (workload, setting, source), so that after a change of the engine only ours is played again."""
