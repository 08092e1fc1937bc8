"""An endpoint for measuring decisions: traffic, heartbeats and a provider that does at once what it is told."""

from __future__ import annotations

from scaler import decide, observations, state
from scaler.types import Action, Decision, EndpointState, Policy, Telemetry
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.records import EndpointRecord, InstanceRecord, ScalingSettings, Template, WorkerGroup
from schemas.signals import DemandReport, Heartbeat
from schemas.states import WorkerState

T0 = 1_700_000_000.0
TICK_S = 2.0
PERF = 100.0  #: units per second of a worker
COST = 50.0  #: units of a request
SLOTS = 8


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
