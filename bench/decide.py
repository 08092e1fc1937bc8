"""What a decision costs: `make bench-decide`. One JSON object per line; exit status 1 when a bar is missed.

decide_*      one endpoint of 100 workers in three groups, under a load that goes up and down, so that some decisions act
endpoints_*   1,000 small endpoints in one process: fold the tick, decide, fold the decision, every two seconds
state_bytes   what a leader stores of the large endpoint for the next one

Times are CPU seconds of this thread: on a machine that others use too, the wall clock tells more about them. Even so a neighbour in
the caches can make a minute twice as slow as the next. So each moment is decided anew in several passes over the whole run, a few
times in a row, and of each decision the quickest counts: it was disturbed least. Quantiles are over decisions.

decide_once_p99  over all first tries as they came: with cold caches and whatever else went on
noise            how much slower a fixed loop beside them was on average than at its quickest; a run that was slow all through
                 does not show

ARGS="--engine NAME" takes another engine than the default (`scaler.decide.ENGINES`).
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable

import msgspec

from scaler import decide, memory, observations, state
from scaler.scene import Scene
from scaler.types import Action, Decision, EndpointState, Policy, Telemetry
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.records import EndpointRecord, InstanceRecord, ScalingSettings, Template, WorkerGroup
from schemas.signals import DemandReport, Heartbeat
from schemas.states import WorkerState

T0 = 1_700_000_000.0
TICK_S = 2.0
PASSES, TIMES = 10, 2
PERF = 100.0  #: units per second of a worker
COST = 50.0  #: units of a request
SLOTS = 8
BAR_DECIDE_P99_MS = 1.0
BAR_PLAN_P50_MS = 0.5  #: all but the engine
BAR_CORE = 0.5  #: share of a core for the endpoints
BAR_STATE_BYTES = memory.USUAL_BYTES


class World:
    """One endpoint whose provider obeys within a tick and whose workers share the load."""

    def __init__(self, endpoint_id: int, *, groups: int, max_workers: int, policy: Policy) -> None:
        self.id = EndpointId(endpoint_id)
        self.policy = policy
        self.now = T0
        self.state: EndpointState = state.initial(self.id, T0)
        self.up: dict[WorkerId, tuple[GroupId, int]] = {}  #: group and starts of who runs
        self.arrived = 0.0
        self.seq = 0
        template = Template(name="t", command=("serve",))
        record = EndpointRecord(
            id=self.id,
            name=f"e{endpoint_id}",
            groups=tuple(
                WorkerGroup(id=GroupId(n), template=template, weight=float(n), expected_perf=PERF) for n in range(1, groups + 1)
            ),
            settings=ScalingSettings(max_workers=max_workers, inactivity_timeout=-1.0),
            created_at=T0,
        )
        self.fold(observations.EndpointSeen(at=T0, endpoint=record))
        self.fold(observations.TelemetryJudged(at=T0, telemetry=Telemetry.LIVE))

    def fold(self, observation: observations.Observation) -> None:
        self.state = state.apply(self.state, observation, self.policy)

    def passes(self, units_per_s: float) -> None:
        """A tick's worth of heartbeats and a router's report."""
        self.now += TICK_S
        self.seq += 1
        self.arrived += units_per_s * TICK_S
        used = min(1.0, units_per_s / (PERF * len(self.up))) if self.up else 0.0
        for nth, (worker_id, (group_id, starts)) in enumerate(self.up.items()):
            fact = self.state.workers.get(worker_id)
            drains = fact is not None and fact.drain is not None
            inflight = 0 if drains else int(used * SLOTS + (nth % SLOTS) / SLOTS)
            beat = Heartbeat(
                worker_id=worker_id,
                endpoint_id=self.id,
                group_id=group_id,
                boot=f"{worker_id}-{starts}",
                seq=self.seq,
                sent_at=self.now,
                state=WorkerState.DRAINING if drains else WorkerState.READY,
                url="http://w",
                perf=PERF,
                slots=SLOTS,
                inflight=inflight,
                load=inflight * COST,
                requests_total=self.seq,
                served_units_total=self.seq * used * PERF * TICK_S,
            )
            self.fold(observations.HeartbeatSeen(at=self.now, heartbeat=beat))
        report = DemandReport(
            router="r",
            endpoint_id=self.id,
            boot="b",
            seq=self.seq,
            sent_at=self.now,
            arrivals_total=int(self.arrived / COST),
            arrived_units_total=self.arrived,
            routed_units_total=self.arrived,
        )
        self.fold(observations.DemandSeen(at=self.now, report=report))

    def decides(self) -> Decision:
        """As the service does it."""
        self.fold(observations.Ticked(at=self.now))
        decision = decide.decide(self.state, self.policy, self.now)
        self.fold(observations.DecisionTaken(at=self.now, decision=decision, recorded=bool(decision.actions)))
        return decision

    def obeys(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action.op:
                case "create" | "start" | "reboot":
                    _, starts = self.up.get(action.worker_id, (action.group_id, 0))
                    self.up[action.worker_id] = (action.group_id, starts + 1)
                    self._show(action, "running")
                case "stop" | "destroy":
                    self.up.pop(action.worker_id, None)
                    self._show(action, "stopped" if action.op == "stop" else "gone")
                case "drain":
                    self.fold(observations.DrainShown(at=self.now, worker_id=action.worker_id))
                case _:
                    pass

    def _show(self, action: Action, to: str) -> None:
        assert action.command_id is not None
        record = InstanceRecord(
            worker_id=action.worker_id,
            endpoint_id=self.id,
            group_id=action.group_id,
            provider="process",
            state=to,
            host=f"h-{action.worker_id}",
            usd_per_hour=0.5,
            created_at=T0,
            state_at=self.now,
            command_id=action.command_id,
        )
        self.fold(observations.InstanceSeen(at=self.now, worker_id=action.worker_id, instance=record))


def cpu_s(run: Callable[[], object], *, times: int = 1) -> tuple[float, object]:
    """CPU seconds that it took, and its answer. What is pure may be done several times: the quickest was disturbed least."""
    took = []
    for _ in range(times):
        before = time.thread_time_ns()
        answer = run()
        took.append(time.thread_time_ns() - before)
    return min(took) / 1e9, answer


def large(policy: Policy, ticks: int) -> bool:
    world = World(1, groups=3, max_workers=102, policy=policy)
    for _ in range(60):
        world.passes(6800.0)
        world.obeys(world.decides().actions)
    moments, acting, workers = [], 0, []
    for tick in range(ticks):
        world.passes(6800.0 + 1300.0 * math.sin(tick / 40))
        world.fold(observations.Ticked(at=world.now))
        moments.append((world.state, world.now))
        decision = decide.decide(world.state, policy, world.now)
        acting += bool(decision.actions)
        workers.append(len(world.state.workers))
        world.fold(observations.DecisionTaken(at=world.now, decision=decision, recorded=bool(decision.actions)))
        world.obeys(decision.actions)

    def of_engine(state_then: EndpointState, now: float) -> object:
        return decide.ENGINES[policy.name](Scene(state_then, policy, now))

    whole, engine, once, loop = [math.inf] * ticks, [math.inf] * ticks, [], []
    for _ in range(PASSES):
        for n, (state_then, now) in enumerate(moments):
            decides = functools.partial(decide.decide, state_then, policy, now)
            once.append(cpu_s(decides)[0])
            whole[n] = min(whole[n], once[-1], cpu_s(decides, times=TIMES - 1)[0])
            engine[n] = min(engine[n], cpu_s(functools.partial(of_engine, state_then, now), times=TIMES)[0])
            loop.append(cpu_s(fixed_loop)[0])
    rest = [took - opinion for took, opinion in zip(whole, engine, strict=True)]
    about = {"workers": round(sum(workers) / ticks), "groups": 3, "decisions": ticks, "with_actions": acting}
    good = report("noise", sum(loop) / len(loop) / min(loop), "x", what="a fixed loop, its mean over its quickest")
    good &= report("decide_p50", quantile(whole, 0.5) * 1e3, "ms", **about)
    good &= report("decide_p99", quantile(whole, 0.99) * 1e3, "ms", bar=BAR_DECIDE_P99_MS, **about)
    good &= report("decide_once_p99", quantile(once, 0.99) * 1e3, "ms", what="first tries, cold and disturbed")
    good &= report(
        "decide_engine_p50", quantile(engine, 0.5) * 1e3, "ms", engine=policy.name, what="the engine and what it reads"
    )
    good &= report("decide_rest_p50", quantile(rest, 0.5) * 1e3, "ms", bar=BAR_PLAN_P50_MS, what="all but the engine")
    good &= report("decide_rest_p99", quantile(rest, 0.99) * 1e3, "ms", what="all but the engine")
    size = len(memory.dump(world.state))
    good &= report("state_bytes", size, "bytes", bar=BAR_STATE_BYTES, workers=len(world.state.workers))
    return good


def many(policy: Policy, endpoints: int, ticks: int) -> bool:
    worlds = [World(n, groups=2, max_workers=6, policy=policy) for n in range(endpoints)]
    took = []
    for tick in range(ticks + 20):
        for nth, world in enumerate(worlds):
            world.passes(120.0 + 80.0 * math.sin(tick / 30 + nth))
        if tick < 20:
            for world in worlds:
                world.obeys(world.decides().actions)
            continue
        used_s, decisions = cpu_s(lambda: [world.decides() for world in worlds])
        took.append(used_s)
        assert isinstance(decisions, list)
        for world, decision in zip(worlds, decisions, strict=True):
            world.obeys(decision.actions)
    workers = sum(len(world.state.workers) for world in worlds)
    share = sum(took) / len(took) / TICK_S
    return report("endpoints_core_share", share, "cores", bar=BAR_CORE, endpoints=endpoints, workers=workers)


def fixed_loop() -> int:
    return sum([n * n for n in range(1000)])


def quantile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def report(bench: str, value: float, unit: str, *, bar: float | None = None, **more: float | str) -> bool:
    """Print one figure; whether it is within its bar."""
    line: dict[str, float | str] = {"bench": bench, "value": round(value, 4), "unit": unit}
    if bar is not None:
        line |= {"bar": bar, "ok": value <= bar}
    print(msgspec.json.encode(line | more).decode(), flush=True)
    return bar is None or value <= bar


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default=Policy().name, choices=sorted(decide.ENGINES))
    parser.add_argument("--ticks", type=int, default=600, help="decisions about the large endpoint")
    parser.add_argument("--endpoints", type=int, default=1000)
    args = parser.parse_args()
    policy = Policy(name=args.engine)
    good = large(policy, args.ticks)
    good &= many(policy, args.endpoints, max(5, args.ticks // 60))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
