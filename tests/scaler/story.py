"""A small world for stories in virtual time: the pure core, a provider that obeys and workers that serve. No bus, no sleeping.

    story = Story(min_load=0, max_workers=5)
    story.asks(rate=250).until(600)
    assert story.ready == 3

Every second workers beat and routers report; every two seconds (and at once when somebody begins to wait) the scaler decides. Work
is a fluid that ready workers share.
"""

from __future__ import annotations

import random

import msgspec
import pytest

from scaler import decide, limits, observations, state
from scaler.types import Decision, EndpointState, Liveness, Policy, Telemetry, WorkerFact
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.reasons import Cause
from schemas.records import EndpointRecord, Failure, InstanceRecord, ScalingSettings, Template, WorkerGroup
from schemas.signals import DemandReport, Heartbeat
from schemas.states import HOT, WorkerState
from schemas.states import EndpointState as Activity

EP = EndpointId(42)
G1, G2, G3 = GroupId(1), GroupId(2), GroupId(3)
T0 = 1_700_000_000.0
TEMPLATE = Template(name="t", command=("serve",), start_timeout_s=600.0)


def group(group_id: GroupId = G1, **fields) -> WorkerGroup:
    return WorkerGroup(**{"id": group_id, "template": TEMPLATE, "expected_perf": 100.0, **fields})


#: Where nothing else is said. Many stories count workers to the last one, so it is the engine that simply divides load by speed; pains
#: and the stories of the scaler's day are told with each (see conftest).
ENGINE = "reactive"
#: Of these, one that counts what only that engine wants: the one in use may have one more for what may come.
COUNTS = pytest.mark.parametrize("engine", [ENGINE], indirect=True)


class Machine:
    """One worker as it really is."""

    def __init__(self, worker_id: WorkerId, group_id: GroupId, revision: int, at: float) -> None:
        self.id, self.group_id, self.revision = worker_id, group_id, revision
        self.instance = "creating"
        self.instance_at = at
        self.launched_at = at
        self.created_at = at
        self.starts = 1
        self.beats = True
        self.seq = 0
        self.backlog = 0.0
        self.served = 0.0
        self.requests = 0
        self.error: Failure | None = None
        self.told_drain = False
        self.command = ""
        self.host = f"host-{worker_id}"
        self.usd_per_hour = 0.0
        self.perf: float | None = None
        self.rest = 0.0
        self.boot_s: float | None = None  # of its present start; None: as the story says
        self.rebooting = False
        self.gone_at: float | None = None


def poisson(chance: random.Random, mean: float) -> int:
    """How many of a random stream come in a time in which `mean` are expected."""
    count, left = 0, chance.expovariate(1.0)
    while left < mean:
        count, left = count + 1, left + chance.expovariate(1.0)
    return count


class Story:
    def __init__(
        self,
        *,
        groups: tuple[WorkerGroup, ...] = (),
        policy: Policy | None = None,
        perf: float = 100.0,
        slots: int = 20,
        cost: float = 50.0,
        create_s: float = 60.0,
        start_s: float = 15.0,
        step_s: float = 1.0,
        chance: random.Random | None = None,
        **settings,
    ) -> None:
        self.now = T0
        self.step_s = step_s  # coarser for long stories
        self.chance = chance  # requests come at random instead of evenly
        self.policy = policy or Policy(name=ENGINE)
        self.perf, self.slots, self.cost = perf, slots, cost
        self.create_s, self.start_s = create_s, start_s
        self.endpoint = EndpointRecord(
            id=EP, name="story", groups=groups or (group(),), settings=ScalingSettings(**settings), created_at=T0
        )
        self.state: EndpointState = state.initial(EP, T0)
        self.machines: dict[WorkerId, Machine] = {}
        self.decisions: list[Decision] = []
        self.commands: list[tuple[float, str, WorkerId, str]] = []  # at, op, worker, command id
        self.rate = 0.0
        self.waiting = 0.0  # units at the router, with no worker
        self.waiting_since: float | None = None
        self.arrived_units = 0.0
        self.arrivals = 0
        self.coming = 0.0  # of the next request
        self.report_seq = 0
        self.fails: dict[GroupId, Failure] = {}  # starts of these groups fail
        self.fails_after_s = 5.0
        self.undying: Failure | None = None  # what the provider says to every destroy
        self.host = ""  # where all new machines are; "": each on its own
        self.refuses: set[GroupId] = set()  # creates of these groups find no offer
        self.mends = True  # a reboot brings a broken model server back
        self.perfs: dict[GroupId, float] = {}  # of workers of these groups
        self.prices: dict[GroupId, float] = {}  # $ per hour
        self.boots_s: dict[GroupId, float] = {}  # creations of these groups take this long
        self.silent = False  # heartbeats and reports do not reach us
        self.no_provider = False  # commands stay in the queue
        self.told: list[tuple[float, str, WorkerId]] = []
        self.fold(observations.EndpointSeen(at=self.now, endpoint=self.endpoint))
        self.fold(observations.TelemetryJudged(at=self.now, telemetry=Telemetry.LIVE))

    # --- what the test says ---

    def asks(self, rate: float) -> Story:
        """Clients ask for this many units per second from now on."""
        self.rate = rate
        return self

    def until(self, t_s: float) -> Story:
        """Let the world run until this many seconds after its begin."""
        while self.now < T0 + t_s - 1e-9:
            self._second()
        return self

    def within(self, t_s: float, reached) -> float:
        """Run until it is so; how long that took. Fails after t_s."""
        begin = self.now
        while not reached(self):
            assert self.now - begin < t_s, f"not so within {t_s} s; last decision: {self.decisions[-1].sentence}"
            self._second()
        return self.now - begin

    def changes(self, **fields) -> Story:
        """An operator edits the endpoint."""
        self.endpoint = msgspec.structs.replace(self.endpoint, **fields)
        self.fold(observations.EndpointSeen(at=self.now, endpoint=self.endpoint))
        return self

    def sets(self, **settings) -> Story:
        return self.changes(settings=msgspec.structs.replace(self.endpoint.settings, **settings))

    def telemetry(self, telemetry: Telemetry) -> Story:
        self.fold(observations.TelemetryJudged(at=self.now, telemetry=telemetry))
        return self

    def someone_waits(self) -> Story:
        """One request arrives where nothing is ready: said and decided at once."""
        self._arrive(self.cost)
        self._report()
        self.decide()
        return self

    def breaks(self, worker_id: WorkerId, cause: Cause = Cause.MODEL_OOM) -> Story:
        """The model server of a worker dies."""
        machine = self.machines[worker_id]
        machine.error = Failure(cause=cause, message="the model server died", at=self.now)
        self._beat(machine)
        return self

    def loses(self, worker_id: WorkerId) -> Story:
        """A worker falls silent, and the vigil has judged it lost."""
        self.machines[worker_id].beats = False
        self.fold(observations.LivenessJudged(at=self.now, worker_id=worker_id, liveness=Liveness.LOST, silent_s=10.0))
        return self

    def warns(self, worker_id: WorkerId, notice_s: float) -> Story:
        """The provider will take a machine back."""
        machine = self.machines[worker_id]
        machine.gone_at = self.now + notice_s
        self._show(machine)
        return self

    # --- what the test sees ---

    def workers(self, *states: WorkerState) -> list[WorkerFact]:
        return [w for w in self.state.workers.values() if w.state in states]

    @property
    def ready(self) -> int:
        return len(self.workers(WorkerState.READY))

    @property
    def cold(self) -> int:
        return len(self.workers(WorkerState.STOPPED))

    @property
    def existing(self) -> int:
        return len([m for m in self.machines.values() if m.instance != "gone"])

    @property
    def hot(self) -> int:
        """Machines that cost money now."""
        return len([m for m in self.machines.values() if m.instance in ("creating", "starting", "running", "stopping")])

    def count(self, group_id: GroupId, *states: WorkerState) -> int:
        """Workers of this group in these states; without any, hot ones."""
        return sum(1 for w in self.state.workers.values() if w.group_id == group_id and w.state in (states or HOT))

    def ops(self, op: str) -> list[tuple[float, WorkerId]]:
        """(seconds since the begin, worker) of every command of this kind."""
        return [(at - T0, worker_id) for at, name, worker_id, _ in self.commands if name == op]

    def acts(self) -> list[tuple[float, str]]:
        """(seconds, op) of everything that was decided."""
        return [(d.at - T0, action.op) for d in self.decisions for action in d.actions]

    # --- the world ---

    def fold(self, observation: observations.Observation) -> None:
        self.state = state.apply(self.state, observation, self.policy)

    def decide(self) -> Decision:
        self.fold(observations.Ticked(at=self.now))
        decision = decide.decide(self.state, self.policy, self.now)
        assert decision.inputs, f"{decision.why} says nothing of what it looked at"
        recorded = bool(decision.actions)
        self.fold(observations.DecisionTaken(at=self.now, decision=decision, recorded=recorded))
        self.decisions.append(decision)
        for action in decision.actions:
            self._act(action)
        return decision

    def _second(self) -> None:
        self.now += self.step_s
        self._machines_move()
        was_waiting = self.waiting > 0
        if self.rate > 0:
            units = self.rate * self.step_s
            self._arrive(units if self.chance is None else self.cost * poisson(self.chance, units / self.cost))
        self._serve()
        if not self.silent:
            for machine in list(self.machines.values()):
                self._beat(machine)
            self._report()
        if round(self.now - T0) % 2 == 0 or self.step_s > 1 or (self.waiting > 0 and not was_waiting):
            self.decide()

    def _arrive(self, units: float) -> None:
        self.coming += units / self.cost
        came = int(self.coming + 1e-9)
        if came <= 0:
            return
        self.coming = max(0.0, self.coming - came)
        self.arrived_units += came * self.cost
        self.arrivals += came
        self.waiting += came * self.cost
        if self.waiting_since is None:
            self.waiting_since = self.now

    def _serve(self) -> None:
        takers = [m for m in self.machines.values() if self._serves(m) and not m.told_drain]
        if takers:
            total = sum(self._perf(m) for m in takers)
            for machine in takers:
                share = self.waiting * self._perf(machine) / total
                machine.backlog += share
                machine.requests += 1 if share > 0 else 0
            self.waiting, self.waiting_since = 0.0, None
        for machine in self.machines.values():
            if self._serves(machine):
                done = min(machine.backlog, self._perf(machine) * self.step_s)
                machine.backlog -= done
                machine.served += done

    def _perf(self, machine: Machine) -> float:
        return machine.perf or self.perf

    def _serves(self, machine: Machine) -> bool:
        return machine.instance == "running" and self._inside(machine) is WorkerState.READY

    def _inside(self, machine: Machine) -> WorkerState:
        if machine.error is not None:
            return WorkerState.ERROR
        boot_s = machine.boot_s or (self.create_s if machine.starts == 1 else self.start_s)
        age = self.now - machine.launched_at
        if machine.group_id in self.fails and machine.revision >= self._revision(machine.group_id) and age >= self.fails_after_s:
            return WorkerState.ERROR
        if age >= boot_s:
            return WorkerState.READY
        return WorkerState.MODEL_LOADING if age >= boot_s / 2 else WorkerState.LOADING

    def _revision(self, group_id: GroupId) -> int:
        return next((g.revision for g in self.endpoint.groups if g.id == group_id), 0)

    def _beat(self, machine: Machine) -> None:
        if machine.instance != "running" or not machine.beats:
            return
        machine.seq += 1
        inside = self._inside(machine)
        failure = machine.error or (self.fails.get(machine.group_id) if inside is WorkerState.ERROR else None)
        present = machine.backlog / self.cost
        # Work that came and went within the second was here too: a fluid has no instants.
        busy = min(1.0, self._load_of(machine) / self._perf(machine)) * self.slots
        exact = max(present, busy) + machine.rest
        whole = int(exact + 1e-6)
        inflight = min(self.slots, whole) if inside is WorkerState.READY else 0
        machine.rest = max(0.0, exact - whole)  # whole requests on each beat, the exact number on average
        self.fold(
            observations.HeartbeatSeen(
                at=self.now,
                heartbeat=Heartbeat(
                    worker_id=machine.id,
                    endpoint_id=EP,
                    group_id=machine.group_id,
                    boot=f"{machine.id}-{machine.starts}",
                    seq=machine.seq,
                    sent_at=self.now,
                    state=WorkerState.DRAINING if machine.told_drain and inside is WorkerState.READY else inside,
                    revision=machine.revision,
                    url=f"http://{machine.id}",
                    perf=self._perf(machine) if inside is WorkerState.READY else 0.0,
                    slots=self.slots,
                    load=machine.backlog,
                    inflight=inflight,
                    queued=max(0, round(present) - inflight),
                    oldest_queued_s=max(
                        0.0, machine.backlog / self._perf(machine) - self.slots * self.cost / self._perf(machine)
                    ),
                    requests_total=machine.requests,
                    served_units_total=machine.served,
                    failure=failure,
                ),
            )
        )

    def _load_of(self, machine: Machine) -> float:
        takers = sum(1 for m in self.machines.values() if self._serves(m) and not m.told_drain)
        return self.rate / takers if takers and not machine.told_drain else 0.0

    def _report(self) -> None:
        self.report_seq += 1
        self.fold(
            observations.DemandSeen(
                at=self.now,
                report=DemandReport(
                    router="r1",
                    endpoint_id=EP,
                    boot="b",
                    seq=self.report_seq,
                    sent_at=self.now,
                    arrivals_total=self.arrivals,
                    arrived_units_total=self.arrived_units,
                    routed_units_total=max(0.0, self.arrived_units - self.waiting),
                    waiting=int(self.waiting / self.cost + 0.999),
                    waiting_units=self.waiting,
                    oldest_wait_s=0.0 if self.waiting_since is None else self.now - self.waiting_since,
                ),
            )
        )

    def _act(self, action) -> None:
        if action.command_id is None:
            machine = self.machines[action.worker_id]
            machine.told_drain = action.op == "drain"
            self.told.append((self.now - T0, action.op, action.worker_id))
            if action.op == "drain":
                self.fold(observations.DrainShown(at=self.now, worker_id=action.worker_id))
                self.fold(observations.DrainTold(at=self.now, worker_id=action.worker_id, draining=True))
            return
        self.commands.append((self.now, action.op, action.worker_id, action.command_id))
        if not self.no_provider:
            self._carry_out(action)

    def _carry_out(self, action) -> None:
        machine = self.machines.get(action.worker_id)
        match action.op:
            case "create" if action.group_id in self.refuses:
                failure = Failure(cause=Cause.NO_OFFER, message="nothing on offer", at=self.now)
                self.fold(observations.CommandFailed(at=self.now, command_id=action.command_id, failure=failure))
                return
            case "create":
                assert machine is None, f"{action.worker_id} is created twice"
                machine = self.machines[action.worker_id] = Machine(action.worker_id, action.group_id, action.revision, self.now)
                machine.host = self.host or machine.host
                machine.perf = self.perfs.get(action.group_id)
                machine.usd_per_hour = self.prices.get(action.group_id, 0.0)
                machine.boot_s = self.boots_s.get(action.group_id)
            case "start":
                machine.instance, machine.launched_at, machine.starts = "starting", self.now, machine.starts + 1
                machine.seq, machine.told_drain, machine.error, machine.beats = 0, False, None, True
                machine.boot_s = None
            case "reboot":
                machine.instance, machine.rebooting, machine.backlog = "stopping", True, 0.0
            case "stop":
                machine.instance = "stopping"
            case "destroy":
                if machine is None:
                    return
                machine.instance = "failed" if self.undying is not None else "destroying"
        machine.instance_at, machine.command = self.now, action.command_id
        self._show(machine)

    def _machines_move(self) -> None:
        follows = {"creating": "running", "starting": "running", "stopping": "stopped", "destroying": "gone"}
        for machine in self.machines.values():
            if machine.instance in follows:
                if machine.rebooting:
                    machine.rebooting, machine.instance = False, "running"
                    machine.launched_at, machine.starts, machine.seq, machine.boot_s = self.now, machine.starts + 1, 0, None
                    machine.error, machine.beats = (None, True) if self.mends else (machine.error, machine.beats)
                else:
                    machine.instance = follows[machine.instance]
                machine.instance_at = self.now
                self._show(machine)

    def _show(self, machine: Machine) -> None:
        record = InstanceRecord(
            worker_id=machine.id,
            endpoint_id=EP,
            group_id=machine.group_id,
            provider="process",
            state=machine.instance,
            revision=machine.revision,
            host=machine.host,
            usd_per_hour=machine.usd_per_hour,
            created_at=machine.created_at,
            state_at=machine.instance_at,
            starts=machine.starts,
            command_id=machine.command,
            gone_at=machine.gone_at,
            failure=self.undying if machine.instance == "failed" else None,
        )
        self.fold(observations.InstanceSeen(at=self.now, worker_id=machine.id, instance=record))


__all__ = ["EP", "G1", "G2", "G3", "T0", "TEMPLATE", "Activity", "Machine", "Story", "group", "limits"]
