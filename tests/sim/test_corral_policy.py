"""The benchmark's policy is the engine that production runs: told the same, the simulator's policy and the scaler's decision agree.

Where they may differ is named here. Production learns how long a start takes and what a client's cost is worth; the simulator's policy is given
both, so here nothing is to be learned: the first guess is right, and workers count what clients say. Of sizes production hears the class,
the policy the mean of each class; that alone makes them differ now and then, by one, and by more for no longer than a tick.
"""

import dataclasses
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from scaler import decide, observations, state
from scaler.engine import memory
from scaler.engine.constants import DEFAULT
from scaler.types import EndpointState, Liveness, Policy, Telemetry, WorkerFact
from schemas import sizes
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.records import EndpointRecord, InstanceRecord, ScalingSettings, Template, WorkerGroup
from schemas.signals import DemandReport, Heartbeat
from schemas.states import WorkerState
from sim import synthetic
from sim.corral_policy import CorralEngine
from sim.observation import Observation
from sim.run import run
from sim.workload import SECOND_US, Workload

EP, G = EndpointId(1), GroupId(1)
T0 = 1_700_000_000.0
LEAD_S = 27.3
POLICY = Policy(name="ensemble", boot_guess_s=LEAD_S)
FIRST = WorkerId("first")


def made(shape: str, hours: float) -> Workload:
    """Nobody comes before the first tick, and one worker is kept in any case."""
    workload = synthetic.make(shape, seed=3, hours=hours)
    return dataclasses.replace(workload, arrival_us=workload.arrival_us + 10 * SECOND_US, min_workers=1)


def typical(workload: Workload) -> Workload:
    """The same with every size in the middle of its class."""
    return dataclasses.replace(workload, units=np.array([sizes.units_of(sizes.class_of(size)) for size in workload.units]))


class Both:
    """The simulator's policy, which the run follows, and beside it the scaler, which is told the same by its own means."""

    name = "both"

    def __init__(self, workload: Workload) -> None:
        self.policy = CorralEngine(workload, lead_s=LEAD_S)
        self.interval_s = self.policy.interval_s
        # Stages of the lead are counted by the clock, so both have the same one.
        begin = max(workload.initial_workers, workload.min_workers)
        self.policy.memory = memory.fresh(DEFAULT, T0, begin, LEAD_S, slots=workload.slots, caution_hot=begin)
        self.hots: list[tuple[int, int]] = []  #: policy, scaler
        self.worker = WorkerFact(
            worker_id=FIRST,
            group_id=G,
            state=WorkerState.READY,
            liveness=Liveness.ALIVE,
            perf=workload.perf,
            slots=workload.slots,
        )
        record = EndpointRecord(
            id=EP,
            name="e",
            groups=(WorkerGroup(id=G, template=Template(name="t", command=("serve",)), expected_perf=workload.perf),),
            settings=ScalingSettings(max_workers=workload.max_workers, inactivity_timeout=-1.0),
            created_at=T0,
        )
        machine = InstanceRecord(worker_id=FIRST, endpoint_id=EP, group_id=G, provider="process", state="running", created_at=T0)
        self.state: EndpointState = state.initial(EP, T0)
        self.report = DemandReport(router="r", endpoint_id=EP, boot="b", seq=1, sent_at=T0)
        for told in (
            observations.EndpointSeen(at=T0, endpoint=record),
            observations.TelemetryJudged(at=T0, telemetry=Telemetry.LIVE),
            observations.InstanceSeen(at=T0, worker_id=FIRST, instance=machine),
            observations.DemandSeen(at=T0, report=self.report),
        ):
            self.fold(told)

    def fold(self, told: observations.Observation) -> None:
        self.state = state.apply(self.state, told, POLICY)

    def decide(self, seen: Observation) -> int:
        now = T0 + seen.now_s
        hot = self.policy.decide(dataclasses.replace(seen, now_s=now))
        self.reports(seen, now)
        self.beats(seen, now)
        self.fold(observations.Ticked(at=now))
        self.has(seen.hot - 1)
        decision = decide.decide(self.state, POLICY, now)
        # What it would do is left to the simulator.
        self.fold(observations.DecisionTaken(at=now, decision=msgspec.structs.replace(decision, actions=())))
        self.hots.append((hot, decision.hot_asked))
        return hot

    def reports(self, seen: Observation, now: float) -> None:
        before, came = self.report, dict(self.report.sizes)
        for units in seen.new_units:
            came[sizes.class_of(units)] = came.get(sizes.class_of(units), 0) + 1
        gone = sum(wait_s == float("inf") for wait_s in seen.waits_s)
        late = sum(wait_s > 5.0 for wait_s in seen.waits_s)
        units_total = before.arrived_units_total + sum(seen.new_units)
        self.report = msgspec.structs.replace(
            before,
            seq=before.seq + 1,
            sent_at=now,
            arrivals_total=seen.arrived,
            arrived_units_total=units_total,
            routed_units_total=units_total,
            sizes=came,
            waiting=seen.waiting,
            oldest_wait_s=seen.oldest_wait_s,
            routed_total=before.routed_total + len(seen.waits_s) - gone,
            refused_total=before.refused_total + gone,
            late_total=before.late_total + late - gone,
        )
        self.fold(observations.DemandSeen(at=now, report=self.report))

    def beats(self, seen: Observation, now: float) -> None:
        """One speaks for all: it has all that is in service, and counts what came as routed and served, so that costs are worth what clients say."""
        beat = Heartbeat(
            worker_id=FIRST,
            endpoint_id=EP,
            group_id=G,
            boot="first-1",
            seq=self.report.seq,
            sent_at=now,
            state=WorkerState.READY,
            perf=self.worker.perf,
            slots=self.worker.slots,
            inflight=seen.serving,
            served_units_total=self.report.arrived_units_total,
        )
        self.fold(observations.HeartbeatSeen(at=now, heartbeat=beat))

    def has(self, others: int) -> None:
        """So many more are ready or on their way; one rests, so that help comes from a stopped disk."""
        states = [*[WorkerState.READY] * others, WorkerState.STOPPED]
        ids = [WorkerId(f"w{n}") for n in range(len(states))]
        facts = [msgspec.structs.replace(self.worker, worker_id=one, state=it) for one, it in zip(ids, states, strict=True)]
        self.state = msgspec.structs.replace(
            self.state, workers={FIRST: self.state.workers[FIRST], **dict(zip(ids, facts, strict=True))}
        )


SHAPES = pytest.mark.parametrize("shape, hours", [("bursty", 2), ("steady", 1)])


@SHAPES
def test_the_benchmark_and_production_have_one_opinion_at_every_tick(shape, hours):
    workload = typical(made(shape, hours))
    both = Both(workload)
    run(workload, both)
    assert [(tick, *hots) for tick, hots in enumerate(both.hots) if hots[0] != hots[1]] == []
    assert len(both.hots) > 1700 and len({hot for hot, _ in both.hots}) > 3, "there was something to have an opinion about"
    theirs, ours = both.policy.memory, memory.unpack(both.state.engine, DEFAULT)
    for name in (
        "departures",
        "flows",
        "averages",
        "peaks",
        "surprise",
        "shadows",
        "recent_targets",
        "costs",
        "lates",
        "arrived",
    ):
        np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), rtol=1e-3, atol=1e-3, err_msg=name)
    assert theirs.slack == ours.slack


@SHAPES
def test_who_hears_only_classes_of_sizes_is_seldom_of_another_opinion(shape, hours):
    workload = made(shape, hours)
    both = Both(workload)
    run(workload, both)
    apart = [abs(policy - scaler) for policy, scaler in both.hots]
    assert sum(distance > 0 for distance in apart) < 0.1 * len(apart)
    for distances in pairwise(apart):
        assert min(distances) <= 1, "at the end of a hold, or on a steep climb, one of them may be a tick ahead, and no more"
