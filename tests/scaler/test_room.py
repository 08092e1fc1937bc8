"""Room for who is needed: cold workers that may not be started, groups at their own ceiling, machines that people brought."""

import msgspec
import pytest

from scaler import observations
from scaler.types import Breaker, HostMemory, Policy
from schemas.ids import WorkerId
from schemas.reasons import Cause, Why
from schemas.records import Failure, InstanceRecord
from schemas.states import WorkerState
from tests.scaler.story import EP, G1, G2, T0, Machine, Story, group

ENGINES = ("ensemble", "reactive")
replace = msgspec.structs.replace


def asleep(engine: str, *groups, **more) -> Story:
    """Four cold ones fill max_workers; nobody is hot."""
    story = Story(groups=groups, policy=Policy(name=engine), max_workers=4, cold_workers=4, create_s=30, start_s=10, **more)
    story.asks(300).until(400).asks(0).until(900)
    assert (story.hot, story.cold) == (0, 4)
    return story


def loses_its_weight(story: Story) -> None:
    story.changes(groups=(group(G1, weight=0.0), group(G2, weight=1.0)))


def is_halted(story: Story) -> None:
    story.changes(groups=(group(G1, weight=1.0), group(G2, weight=1.0)))
    breaker = Breaker(revision=1, opened_at=story.now, cause=Cause.START_CRASH, failures=3)
    memory = replace(story.state.groups[G1], breaker=breaker, failed_in_row=3)
    story.state = replace(story.state, groups={**story.state.groups, G1: memory})


def has_bad_hosts(story: Story) -> None:
    shut = HostMemory(failures=2, quarantined_until_at=story.now + 3600, failed_at=story.now)
    story.state = replace(story.state, hosts={machine.host: shut for machine in story.machines.values()})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("happens", [loses_its_weight, is_halted, has_bad_hosts])
def test_cold_workers_that_may_not_be_started_make_room_for_one_that_may(engine, happens):
    story = asleep(engine, group(G1), group(G2, weight=0.0))
    happens(story)
    story.asks(100)
    assert story.within(60, lambda story: story.ready > 0) <= 45, "one is destroyed, and one created"
    first = next(decision for decision in story.decisions if decision.at > T0 + 900 and decision.actions)
    assert [action.op for action in first.actions] == ["destroy"], "one for one, and not all that lie there"
    assert "leaves no room while 4 lie cold that may not be started" in first.sentence
    story.until(1300)
    assert story.waiting == 0 and story.existing <= 4


@pytest.mark.parametrize("engine", ENGINES)
def test_while_nobody_needs_the_room_they_lie_where_they_are(engine):
    story = asleep(engine, group(G1), group(G2, weight=0.0))
    loses_its_weight(story)
    story.until(1500)
    assert story.cold == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_where_nobody_could_come_instead_nobody_goes(engine):
    """All groups without weight: the cold ones are of no use now, and may be tomorrow."""
    story = asleep(engine, group(G1))
    story.changes(groups=(group(G1, weight=0.0),))
    story.asks(100).until(1100)
    assert story.cold == 4
    story.changes(groups=(group(G1, weight=1.0),))
    story.until(1130)
    assert story.ready >= 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("groups", "most"),
    [
        ((group(G1, weight=1.0, max_workers=3), group(G2, weight=9.0, max_workers=3)), 6),
        ((group(G1, weight=10.0), group(G2, weight=90.0, max_workers=2)), 6),
        ((group(G1, weight=10.0), group(G2, weight=90.0, max_workers=2)), 8),
    ],
)
def test_a_group_at_its_own_ceiling_draws_nobody_from_another(engine, groups, most):
    story = Story(groups=groups, policy=Policy(name=engine), max_workers=most, create_s=200, slots=4, inactivity_timeout=600)
    story.asks(560).until(1300)
    settled = len(story.decisions)
    story.until(1300 + 1500)
    acts = [action for decision in story.decisions[settled:] for action in decision.actions]
    assert len(acts) <= 2, "the load has been the same all the time"
    assert story.waiting == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rollout_keeps_what_lies_cold_until_the_new_revision_works(engine):
    story = Story(policy=Policy(name=engine), max_workers=8, create_s=60, start_s=10, slots=4, cold_workers=6)
    story.asks(350).until(500).asks(0).until(1300)
    cold = story.cold
    assert cold >= 6
    story.fails = {G1: Failure(cause=Cause.MODEL_DOWNLOAD, message="wrong path", at=T0)}
    story.changes(groups=(group(G1, revision=2),)).until(1400)
    assert story.cold == cold, "nothing of the new one was ever ready"
    story.asks(100).until(2000)
    assert story.state.groups[G1].breaker is not None
    serving = story.workers(WorkerState.READY)
    assert serving and {worker.revision for worker in serving} == {1}, "who worked before works again"
    assert story.waiting == 0
    story.fails = {}
    story.changes(groups=(group(G1, revision=3),)).until(2800)
    assert {worker.revision for worker in story.workers(WorkerState.READY)} == {3}
    assert not [worker for worker in story.workers(WorkerState.STOPPED) if worker.revision < 3], "and then it has had its day"


class Brought(Story):
    """The machines of G1 are people's."""

    def _show(self, machine: Machine) -> None:
        if machine.group_id != G1:
            super()._show(machine)
            return
        record = InstanceRecord(
            worker_id=machine.id,
            endpoint_id=EP,
            group_id=G1,
            provider="external",
            state=machine.instance,
            host=str(machine.id),
            created_at=machine.created_at,
            state_at=machine.instance_at,
            starts=1,
        )
        self.fold(observations.InstanceSeen(at=self.now, worker_id=machine.id, instance=record))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_machine_that_people_brought_makes_way_for_nobody(engine):
    story = Brought(
        groups=(group(G1, weight=1.0, provider="external"), group(G2, weight=9.0)),
        policy=Policy(name=engine),
        max_workers=4,
        slots=4,
        inactivity_timeout=600,
    )
    for number in range(3):
        worker_id = WorkerId(f"x{number}")
        machine = story.machines[worker_id] = Machine(worker_id, G1, 1, story.now)
        machine.instance = "running"
        story._show(machine)
    story.asks(350).until(1500)
    done = [action for decision in story.decisions for action in decision.actions if action.worker_id.startswith("x")]
    assert not done
    assert story.ready == 4


def test_a_perf_that_is_off_by_a_billion_costs_no_time():
    """A worker's first word about its perf is absurd, the next one right: its group then seems to have a billion workers too many."""

    class Absurd(Story):
        def _perf(self, machine: Machine) -> float:
            known = self.state.workers.get(machine.id)
            is_first = machine.group_id == G2 and (known is None or known.ready_at is None)
            return 1e-9 if is_first else 100.0

    story = Absurd(groups=(group(G1, weight=9.0, expected_perf=None), group(G2, weight=1.0, expected_perf=None)), slots=4)
    story.asks(1200).until(300).asks(100).until(600)
    assert story.state.groups[G2].perf == pytest.approx(1e-9)
    assert story.waiting == 0


@pytest.mark.parametrize("wanted", [1000, 10_000])
def test_a_pool_is_filled_no_faster_than_any_other_purchase(wanted):
    story = Story(policy=Policy(name="ensemble"), max_workers=10_000).asks(100).until(300)
    story.sets(cold_workers=wanted)
    bought = [action for action in story.decide().actions if action.op == "create"]
    assert len(bought) == story.policy.burst_workers
    story.no_provider = True
    for _ in range(20):
        story.now += 2.0
        story.decide()
    under_way = [worker for worker in story.state.workers.values() if worker.intent is not None]
    assert len(under_way) <= story.policy.unsettled_workers
    assert all(action.why is Why.MIN_WORKERS for action in bought)
