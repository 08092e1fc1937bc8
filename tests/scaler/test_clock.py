"""A clock that is set: no time passed, so nobody's time is up, and nothing waits for a moment that went away."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from structlog.testing import capture_logs

from scaler import leap, memory, observations, replay, state
from scaler.clock import STEP_S, SteadyClock, since_boot
from scaler.desk import Desk
from scaler.engine.constants import DEFAULT
from scaler.engine.memory import unpack
from scaler.types import Breaker, GroupMemory, HostMemory, Policy, Value
from schemas import codec, events, subjects
from schemas.commands import CreateWorker, DestroyWorker, StopWorker
from schemas.reasons import Cause
from schemas.records import Failure
from schemas.states import EndpointState as Activity
from schemas.states import WorkerState
from tests.scaler.house import eventually, running, scaler_on
from tests.scaler.story import EP, G1, T0, Story

_replace = msgspec.structs.replace
ENGINES = ("ensemble", "reactive")


class Machine:
    def __init__(self) -> None:
        self.wall, self.ticks = 1000.0, 5.0

    def passes(self, seconds: float) -> Machine:
        self.wall += seconds
        self.ticks += seconds
        return self


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def clock(machine):
    return SteadyClock(lambda: machine.wall, lambda: machine.ticks)


def test_a_clock_that_nobody_sets_is_the_wall_clock(machine, clock):
    assert clock() == machine.wall
    machine.passes(7.5)
    assert (clock(), clock.step()) == (machine.wall, 0.0)


@pytest.mark.parametrize("by_s", [STEP_S, 0.5, -0.5, -STEP_S])
def test_a_small_correction_is_no_step_and_time_never_goes_back(machine, clock, by_s):
    machine.wall += by_s
    assert clock() == 1000.0 + max(by_s, 0.0)
    assert clock.step() == 0.0
    machine.passes(10)
    assert clock() == pytest.approx(1010.0 + max(by_s, 0.0))


@pytest.mark.parametrize("by_s", [700.0, -700.0, STEP_S + 0.1])
def test_a_clock_that_is_set_goes_on_evenly_until_it_is_told_to_follow(machine, clock, by_s):
    machine.wall += by_s
    machine.passes(2)
    assert clock() == 1002.0
    assert clock.step() == pytest.approx(by_s)
    assert clock() == machine.wall
    assert clock.step() == 0.0


def test_corrections_back_that_add_up_are_a_step(machine, clock):
    for _ in range(4):
        machine.wall -= 1.0
        machine.passes(5)
    assert clock() == 1020.0
    assert clock.step() == pytest.approx(-4.0)


def test_seconds_since_boot_go_on():
    before = since_boot()
    assert 0 <= since_boot() - before < 5


# --- what a state makes of it ---


def steps(story: Story, by_s: float) -> Story:
    """The clocks of the whole machine room are set, in the middle of everything."""
    story.now += by_s
    for machine in story.machines.values():
        machine.launched_at += by_s
    if story.waiting_since is not None:
        story.waiting_since += by_s
    story.fold(observations.ClockStepped(at=story.now, by_s=by_s))
    return story


@pytest.mark.parametrize("by_s", [700.0, -1e5])
@pytest.mark.parametrize("engine", ENGINES)
def test_starts_that_go_on_do_not_hang_because_a_clock_was_set(engine, by_s):
    story = Story(policy=Policy(name=engine), max_workers=20, cost=25.0, slots=4, create_s=120, start_s=15)
    story.asks(100).until(400)
    story.asks(500).until(460)
    coming = len(story.workers(WorkerState.LOADING, WorkerState.MODEL_LOADING))
    assert coming >= 3
    destroyed = story.ops("destroy")
    steps(story, by_s)
    for _ in range(130):
        story._second()
    assert story.ops("destroy") == destroyed and story.state.groups[G1].breaker is None
    assert story.ready >= coming
    assert max(story.state.groups[G1].boot_new_s) < 130, "nor is anything wrong learned of it"


@pytest.mark.parametrize("by_s", [950.0, -950.0])
def test_no_drain_is_cut_short_or_forgotten_because_a_clock_was_set(by_s):
    story = Story(policy=Policy(name="reactive"), max_workers=20, create_s=60, slots=4, cost=3000.0)
    story.asks(500).until(1800)
    story.asks(80)
    story.within(3000, lambda s: any(w.inflight for w in s.workers(WorkerState.DRAINING)))
    busy = {w.worker_id for w in story.workers(WorkerState.DRAINING)}
    before = len(story.commands)
    steps(story, by_s)
    story.decide()
    assert not [c for c in story.commands[before:] if c[2] in busy], "its requests go on"
    story.within(300, lambda s: not {w.worker_id for w in s.workers(WorkerState.DRAINING)} & busy)
    reasons = [a.reason for d in story.decisions for a in d.actions if a.worker_id in busy and a.command_id is not None]
    assert reasons and not any("cut short" in reason for reason in reasons)


@pytest.mark.parametrize(("engine", "by_s"), [("ensemble", 86_400.0), ("reactive", 86_400.0), ("ensemble", -3600.0)])
def test_decisions_after_a_step_are_those_that_would_have_been(engine, by_s):
    """By whole buckets of every window, so that nothing but the moments is another."""

    def day(step_s: float) -> list[tuple[int, int]]:
        story = Story(
            policy=Policy(name=engine), max_workers=20, cost=25.0, slots=4, create_s=60, start_s=15, inactivity_timeout=120
        )
        # By the router's clock: after it the last worker stays for as long as after a request.
        story.changes(created_at=T0 - 1e6)
        story.asks(450).until(600)
        story.asks(90).until(800)
        story.asks(700).until(830)
        if step_s:
            steps(story, step_s)
        seen = []
        for rate, seconds in ((700, 120), (100, 300), (0, 240), (300, 120)):
            story.asks(rate)
            for _ in range(seconds):
                story._second()
                seen.append((story.decisions[-1].hot_wanted, story.ready))
        return seen

    apart, together = day(by_s), day(0.0)
    differ = sum(a != b for a, b in zip(apart, together, strict=True))
    assert differ <= (0 if engine == "reactive" else 20), f"{differ} of {len(together)} seconds differ"


def test_there_and_back_is_as_before():
    story = Story(policy=Policy(name="ensemble"), max_workers=20, cost=25.0, slots=4, create_s=60).asks(450).until(600)
    there = state.apply(story.state, observations.ClockStepped(at=story.now + 4096.0, by_s=4096.0))
    assert there.at == story.now + 4096.0
    back = state.apply(there, observations.ClockStepped(at=story.now, by_s=-4096.0))
    newest = {name: msgspec.structs.replace(w, instance_at=0.0, beat_sent_at=0.0) for name, w in story.state.workers.items()}
    again = {name: msgspec.structs.replace(w, instance_at=0.0, beat_sent_at=0.0) for name, w in back.workers.items()}
    assert msgspec.json.encode(_replace(back, workers=again)) == msgspec.json.encode(_replace(story.state, workers=newest))


def test_a_decision_after_a_step_is_derived_again_bit_for_bit():
    story = steps(Story(policy=Policy(name="ensemble"), max_workers=20).asks(450).until(300), 700.0)
    decision = story.decide()
    story.now += 2.0
    recorded = replay.unpack(replay.pack(story.state, story.policy, story.now))
    assert recorded.state == story.state and decision.at == story.now - 2.0


def test_failures_are_waited_out_and_forgiven_as_before():
    breaker = Breaker(revision=1, opened_at=T0 - 10, cause=Cause.HANG, failures=3)
    failure = Failure(cause=Cause.HANG, message="x", at=T0 - 10)
    known = GroupMemory(breaker=breaker, last_failure=failure, backoff_until_at=T0 + 5, rebooted_at=(T0 - 100,))
    here = _replace(
        state.initial(EP, T0), groups={G1: known}, hosts={"h": HostMemory(failures=2, quarantined_until_at=T0 + 60, failed_at=T0)}
    )
    after = state.apply(here, observations.ClockStepped(at=T0 - 1000, by_s=-1000.0))
    assert after.groups[G1].backoff_until_at == T0 - 995 and after.groups[G1].rebooted_at == (T0 - 1100,)
    assert after.hosts["h"].quarantined_until_at == T0 - 940
    reset = observations.BreakerReset(at=T0 - 999, group_id=G1, by="ada", said_at=T0 - 1000)
    assert state.apply(after, reset).groups[G1].breaker is None, "a person's word that is newer by the new clock is heard"


#: By the clocks of others, or for people only.
_OTHERS = {
    ("WorkerFact", "created_at"), ("WorkerFact", "last_ticket_exp_at"), ("WorkerFact", "gone_at"), ("RouterFact", "marked_at"),
    ("EndpointSpec", "created_at"), ("EndpointSpec", "changed_at"),
}  # fmt: skip
#: Moved along by name.
_SEPARATE = {("WorkerFact", "rebooted_at"), ("GroupMemory", "rebooted_at"), ("Window", "since_at")}


def test_every_moment_in_a_state_is_moved_along_or_known_to_be_somebody_elses():
    moments = {
        (kind.__name__, field.name)
        for kind in Value.__subclasses__()
        for field in msgspec.structs.fields(kind)
        if field.name == "at" or field.name.endswith("_at")
    }
    moved = {(kind.__name__, name) for table in (leap.MOMENTS, leap.NEWEST) for kind, names in table.items() for name in names}
    assert moments == (moved - {("Decision", "at")}) | _OTHERS | _SEPARATE


def test_every_moment_of_the_engine_is_moved_along():
    story = Story(policy=Policy(name="ensemble"), max_workers=20, cost=25.0, slots=4, create_s=60).asks(450).until(600)
    before = unpack(story.state.engine, DEFAULT)
    after = unpack(leap.along(story.state, 2048.0).engine, DEFAULT)
    assert before is not None and after is not None
    for name in before.__struct_fields__:
        was, now = getattr(before, name), getattr(after, name)
        is_moment = isinstance(was, float) and abs(was) > 1e8
        assert not is_moment or now == was + 2048.0, name


# --- leaders whose clocks differ ---


@pytest.mark.parametrize("ahead_s", [0.5, 20.0, 59.0, 3600.0])
def test_a_leader_goes_on_with_the_memory_of_one_whose_clock_was_ahead(ahead_s):
    story = Story(policy=Policy(name="ensemble"), max_workers=20, cost=25.0, slots=4, create_s=60).asks(450).until(600)
    now = story.now - ahead_s
    desk = Desk(EP, story.policy, now)
    with capture_logs() as logs:
        desk.resume(memory.load(memory.dump(story.state)), now)
    assert [entry["event"] for entry in logs] == (["memory_from_the_future"] if ahead_s > 5 else [])
    assert desk.state.at == now and desk.state.demand.arrivals.values == story.state.demand.arrivals.values
    assert desk.state.engine == story.state.engine, "which the engine moves itself, by what came meanwhile"
    assert desk.state.targets.hot_since_at <= now


def test_a_desk_looks_again_when_it_would_have_and_tells_no_halt_twice():
    desk = Desk(EP, Policy(), T0)
    breaker = Breaker(revision=1, opened_at=T0 - 10.7, cause=Cause.HANG, failures=3)
    desk.state = _replace(desk.state, groups={G1: GroupMemory(breaker=breaker)})
    desk.halted, desk.look_at, desk.looked_at = {G1: (breaker.opened_at, 3)}, T0 + 2, T0 - 1
    desk.clock_stepped(-1000.3, T0 - 1000.3)
    assert (desk.look_at, desk.looked_at, desk.begun_at) == (T0 - 998.3, T0 - 1001.3, T0 - 1000.3)
    moved = desk.state.groups[G1].breaker
    assert moved is not None and desk.halted == {G1: (moved.opened_at, 3)}


# --- at work ---


class Wall:
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.mark.parametrize("by_s", [4000.0, -4000.0])
async def test_a_scaler_whose_clock_is_set_goes_on_as_if_nothing_had_happened(house, scaler_bus, by_s):
    wall = Wall()
    record = await house.endpoint(inactivity_timeout=-1)
    async with running(scaler_on(await scaler_bus("s1"), now=wall)):
        await eventually(lambda: house.states()[WorkerState.READY] == 1)
        (busy,) = house.workers.values()
        busy.inflight = 1
        house.boot_s = 3.0
        await house.endpoint(inactivity_timeout=-1, min_load=250.0, target_util=1.0)
        await eventually(lambda: house.states()[WorkerState.LOADING] == 2)
        wall.ahead_s = by_s
        await asyncio.sleep(1.0)
        await eventually(lambda: house.states()[WorkerState.READY] == 3)
        assert not house.ops(DestroyWorker) and len(house.ops(CreateWorker)) == 3
        await house.put_endpoint(_replace(record, state=Activity.STOPPED))
        await eventually(lambda: house.states()[WorkerState.DRAINING] >= 1)
        wall.ahead_s = 0.0
        await eventually(lambda: len(house.ops(StopWorker)) == 2)
        await asyncio.sleep(1.0)
        assert {c.worker_id for c in house.ops(StopWorker)} == house.workers.keys() - {busy.id}, "its request goes on"
        busy.inflight = 0
        await eventually(lambda: len(house.ops(StopWorker)) == 3)
        await eventually(lambda: house.states()[WorkerState.STOPPED] == 3)
    assert not any(told.cut_short for told in await house.told(events.WorkerDrained))
    entry = await house.bus.bucket(subjects.BUCKET_SCALER).get(subjects.endpoint_key(house.endpoint_id))
    assert abs(memory.load(entry.data).at - time.time()) < 30
    assert all(isinstance(codec.encode(d), bytes) and d.inputs for d in house.of(events.Decided))
