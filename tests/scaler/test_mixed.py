"""Groups that differ: in slots, in how long they take to start, in whether they get any requests at all."""

import math

import pytest

from scaler import observations
from scaler.engine import memory
from scaler.engine.constants import DEFAULT
from scaler.types import Policy
from schemas.ids import WorkerId
from schemas.records import InstanceRecord
from schemas.signals import Heartbeat
from schemas.states import WorkerState
from tests.scaler.story import EP, G1, G2, T0, Story, group

ENGINES = ("ensemble", "reactive")
ENSEMBLE = Policy(name="ensemble")


class Slots(Story):
    """Workers of each group have their own number of slots."""

    of_group: dict[int, int] = {}

    def _beat(self, machine):
        usual, self.slots = self.slots, self.of_group.get(machine.group_id, self.slots)
        super()._beat(machine)
        self.slots = usual


class Routed(Story):
    """As routers do it: a group of weight 0 gets nothing more, and finishes what it has."""

    def _has_weight(self, machine):
        return any(g.id == machine.group_id and g.weight > 0 for g in self.endpoint.groups)

    def _serve(self):
        shut = {m.id: m.told_drain for m in self.machines.values() if not self._has_weight(m)}
        for worker_id in shut:
            self.machines[worker_id].told_drain = True
        super()._serve()
        for worker_id, told_drain in shut.items():
            self.machines[worker_id].told_drain = told_drain

    def _load_of(self, machine):
        takers = [m for m in self.machines.values() if self._serves(m) and not m.told_drain and self._has_weight(m)]
        return self.rate / len(takers) if machine in takers else 0.0


def test_what_was_learned_outlives_a_pool_whose_mean_number_of_slots_moves():
    story = Slots(policy=ENSEMBLE, max_workers=20, step_s=2.0, groups=(group(G1, weight=1.0), group(G2, weight=1.0)))
    story.of_group = {G1: 16, G2: 4}
    story.asks(450).until(120)
    began, slots = memory.unpack(story.state.engine, DEFAULT).began_s, set()
    for t in range(140, 3600, 20):
        story.asks(450 + 300 * math.sin(t / 600)).until(t)
        mind = memory.unpack(story.state.engine, DEFAULT)
        assert mind.began_s == began
        slots.add(mind.slots)
    assert len(slots) > 2, "or this tells nothing"
    assert story.waiting == 0


def test_the_same_mind_in_other_slots_asks_for_as_many_workers():
    story, twin = (Story(policy=ENSEMBLE, max_workers=20, slots=8).asks(450).until(900) for _ in range(2))
    story.slots = 16
    story.until(960)
    twin.until(960)
    assert abs(story.decisions[-1].hot_wanted - twin.decisions[-1].hot_wanted) <= 1
    assert memory.unpack(story.state.engine, DEFAULT).slots == 16


@pytest.mark.parametrize("engine", ENGINES)
def test_a_group_of_weight_0_is_no_capacity(engine):
    """All traffic is moved at once: the new group is asked for at once, and who served stays until it is there."""
    story = Routed(policy=Policy(name=engine), max_workers=30, create_s=60, groups=(group(G1, weight=1.0), group(G2, weight=0.0)))
    story.asks(300).until(280)
    before = story.count(G1, WorkerState.READY)
    story.changes(groups=(group(G1, weight=0.0), group(G2, weight=1.0)))
    story.until(284)
    assert story.count(G2) == 3, "as many as a revision may start that was never ready"
    kept = story.count(G1, WorkerState.READY)
    assert kept >= min(before, story.decisions[-1].hot_wanted) - 1
    story.until(900)
    assert story.count(G1) == 0
    assert story.count(G2, WorkerState.READY) >= 3
    assert story.waiting == 0


def joined(story, worker_id, seq):
    """A machine that somebody brought says that it is ready."""
    if seq == 1:
        record = InstanceRecord(
            worker_id=worker_id, endpoint_id=EP, group_id=G2, provider="external", state="running", created_at=story.now
        )
        story.fold(observations.InstanceSeen(at=story.now, worker_id=worker_id, instance=record))
    beat = Heartbeat(
        worker_id=worker_id,
        endpoint_id=EP,
        group_id=G2,
        boot="b",
        seq=seq,
        sent_at=story.now,
        state=WorkerState.READY,
        perf=100.0,
        slots=20,
    )
    story.fold(observations.HeartbeatSeen(at=story.now, heartbeat=beat))


@pytest.mark.parametrize("engine", ENGINES)
def test_brought_machines_of_weight_0_let_nobody_go(engine):
    story = Routed(
        policy=Policy(name=engine), max_workers=30, groups=(group(G1, weight=1.0), group(G2, provider="external", weight=0.0))
    )
    story.asks(350).until(600)
    least = story.count(G1, WorkerState.READY)
    for seq in range(1, 240):
        for n in range(6):
            joined(story, WorkerId(f"w{n}77"), seq)
        story.until(600 + seq)
        least = min(least, story.count(G1, WorkerState.READY))
    assert least >= 4, "350 units a second are the work of three and a half"
    assert story.waiting == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_the_lead_is_how_long_a_start_takes_and_not_how_soon_somebody_brings_a_machine(engine):
    story = Story(
        policy=Policy(name=engine),
        create_s=240,
        max_workers=20,
        groups=(group(G1, by_cost=True), group(G2, provider="external", by_cost=True)),
    )
    story.asks(150).until(500)
    for seq in range(1, 30):
        joined(story, WorkerId("w77"), seq)
        story.until(500 + seq)
    leads = {read.value for d in story.decisions if d.at > T0 + 480 for read in d.inputs if read.name == "lead"}
    assert 240.0 in leads
    assert min(leads) >= story.policy.boot_guess_s, "a guess while a start from disk was never seen"
