"""Endpoints of thousands of workers: what is stored, what is told, and that one which does not fit stops no other."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import zlib
from types import SimpleNamespace

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from runtime.errors import BusRefused, BusUnavailable, Conflict
from scaler import brevity, council, decide, memory, observations, replay, state
from scaler.desk import Desk
from scaler.metrics import Metrics
from scaler.outbox import Outbox
from scaler.types import Action, Intent, Liveness, Policy, Telemetry, WorkerFact
from schemas import codec, events, subjects
from schemas.ids import EndpointId, GroupId, WorkerId, command_id, worker_id_for
from schemas.reasons import Why
from schemas.records import EndpointRecord, InstanceRecord, ScalingSettings
from schemas.states import EndpointState as Activity
from schemas.states import WorkerState
from tests.scaler.house import G, eventually, running, scaler_on
from tests.scaler.story import EP, T0, group

_replace = msgspec.structs.replace
G1 = GroupId(1)


def crowd(
    workers: int, activity: Activity = Activity.ACTIVE, endpoint_id: EndpointId = EP, *, proven: bool = True, now: float = T0
):
    """An endpoint with so many workers that are ready since some seconds."""
    record = EndpointRecord(
        id=endpoint_id,
        name="large",
        settings=ScalingSettings(max_workers=10_000),
        groups=(group(G1),),
        created_at=now - 1e5,
        state=activity,
    )
    here = state.initial(endpoint_id, now - 1000)
    here = state.apply(here, observations.EndpointSeen(at=now - 1000, endpoint=record))
    here = state.apply(here, observations.TelemetryJudged(at=now - 1000, telemetry=Telemetry.LIVE))
    facts = {}
    for n in range(workers):
        digest = hashlib.sha256(str(n).encode()).hexdigest()
        name = worker_id_for(command_id(endpoint_id, n // 64 + 1, n % 64), "test")
        began_at = now - 200 - n * 0.0317
        facts[name] = WorkerFact(
            worker_id=name, group_id=G1, state=WorkerState.READY, state_at=now - 30, created_at=began_at, launched_at=began_at,
            ready_at=now - 30 - n * 0.00171, proven=proven, phase_at=began_at + 150.2, instance_state="running",
            instance_at=began_at + 40.7, provider="vast", host=f"host-{digest[:8]}", usd_per_hour=round(0.3 + n % 37 * 0.011, 3),
            liveness=Liveness.ALIVE, beat_state=WorkerState.READY, beat_at=now - 0.5, boot=digest[:16], seq=300 + n,
            perf=round(100 + n * 0.137, 3), slots=8,
        )  # fmt: skip
    return _replace(here, workers=facts, at=now)


def decided(here, *, published: bool = False):
    decision = decide.decide(here, Policy(), here.at)
    taken = observations.DecisionTaken(at=here.at, decision=decision, decision_hash="a" * 64, published=published)
    return decision, state.apply(here, taken)


def told(here, decision) -> events.Decided:
    record = replay.pack(here, Policy(), here.at)
    return replay.told(decision, epoch=1, policy_hash="p", previous_hash="h", record=record)


# --- what is stored ---


@pytest.mark.parametrize("workers", [1000, 10_000])
def test_the_memory_of_an_endpoint_of_any_size_that_settings_allow_fits(workers, capsys):
    unproven = memory.fitted(crowd(workers, proven=False))
    assert not unproven.without
    here = crowd(workers, Activity.STOPPED)
    decision, draining = decided(here)
    assert len(decision.actions) == workers
    began = time.process_time()
    kept = memory.fitted(draining)
    took_ms = (time.process_time() - began) * 1e3
    with capsys.disabled():
        print(
            f"\n{workers} workers: unproven {len(unproven.data)} bytes, draining {len(kept.data)} bytes in {took_ms:.0f} ms of CPU"
        )
    back = memory.load(kept.data)
    assert {w.drain for w in back.workers.values()} == {w.drain for w in draining.workers.values()}
    if workers <= 1000:
        assert not kept.without and back.last.decision.actions == decision.actions


def test_ten_thousand_commands_at_once_are_kept():
    here = crowd(10_000)
    facts = {
        name: _replace(
            worker,
            intent=Intent(
                command_id=command_id(EP, 9, n), op="destroy", issued_at=T0, deadline_at=T0 + 600, why=Why.ENDPOINT_DELETED,
                reason=f"drained: 0 in flight after {60 + n % 90} s, tickets signed before have expired", decision_id=f"{EP}.g9",
            ),
        )
        for n, (name, worker) in enumerate(here.workers.items())
    }  # fmt: skip
    back = memory.load(memory.dump(_replace(here, workers=facts)))
    assert {name: w.intent for name, w in back.workers.items()} == {name: w.intent for name, w in facts.items()}


def test_hosts_that_a_command_avoids_are_not_kept_with_a_decision_that_is_still_to_be_told():
    decision, after = decided(crowd(2, Activity.STOPPED))
    acts = tuple(_replace(action, avoid_hosts=("h1", "h2")) for action in decision.actions)
    after = _replace(after, last=_replace(after.last, decision=_replace(decision, actions=acts)))
    assert memory.load(memory.dump(after)).last.decision.actions == decision.actions


def test_what_does_not_fit_goes_without_its_newest_acts_first_and_its_engine_then(monkeypatch):
    decision, here = decided(crowd(300, Activity.STOPPED))
    here = _replace(here, engine=random.Random(1).randbytes(14_000), engine_format="x", generation=7)
    whole = memory.fitted(here)
    assert whole.without == ""
    monkeypatch.setattr(memory, "MAX_BYTES", len(whole.data) - 1)
    without_acts = memory.fitted(here)
    assert without_acts.without == "the acts of its newest decision"
    back = memory.load(without_acts.data)
    assert (back.engine, back.last.decision.actions) == (here.engine, ())
    assert back.last.decision.sentence == f"{decision.sentence}; its 300 acts are not listed"
    assert back.last.decision_hash == here.last.decision_hash
    monkeypatch.setattr(memory, "MAX_BYTES", len(without_acts.data) - 1)
    without_engine = memory.fitted(here)
    assert without_engine.without == "the acts of its newest decision and the engine's memory"
    assert (memory.load(without_engine.data).engine, memory.load(without_engine.data).generation) == (b"", 7)
    monkeypatch.setattr(memory, "MAX_BYTES", len(without_engine.data) - 1)
    with pytest.raises(memory.TooLarge, match="is the limit"):
        memory.fitted(here)


@pytest.mark.parametrize("level", [None, 1, 6, 9])
def test_memories_of_before_are_read_however_they_were_compressed(level):
    here = memory.snapshot(decided(crowd(50, Activity.STOPPED))[1])
    data = msgspec.json.encode(here)
    assert memory.load(data if level is None else zlib.compress(data, level)) == here


# --- what is told ---


def test_an_event_that_is_too_large_is_told_without_its_input_first():
    here = crowd(5000, Activity.STOPPED)
    decision, _ = decided(here)
    event = told(here, decision)
    large = _replace(event, record=msgspec.Raw(b'"' + b"x" * 700_000 + b'"'))
    first = next(brevity.versions(large))
    assert bytes(first.record) == b"null" and first.actions == event.actions
    assert replay.check(first).unchecked == "it was told without its input"
    assert next(brevity.versions(told(crowd(3), decided(crowd(3))[0]))).record != msgspec.Raw(b"null")


def test_acts_that_have_no_room_are_counted():
    decision, _ = decided(crowd(4, Activity.STOPPED))
    acts = tuple(
        Action(op="drain", worker_id=WorkerId(f"w{n}"), group_id=G1, why=Why.LOAD_DOWN, reason="because of what was said " * 3)
        for n in range(20_000)
    )
    event = told(crowd(4), _replace(decision, actions=acts))
    found = list(brevity.versions(event))
    sizes = [len(codec.encode(version)) for version in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] <= brevity.MOST_BYTES and sizes[-1] < 64 * 1024
    listed = len(found[-1].actions)
    assert 100 < listed < 1000 and found[-1].reason == f"{decision.sentence}; of its 20000 acts {listed} are listed"
    assert all(len(action.reason) <= 40 for action in found[0].actions)
    assert (found[-1].id, found[-1].previous_hash) == (event.id, event.previous_hash)


# --- and what goes on ---


class Bucket:
    """Takes what is no larger than `most_bytes`."""

    def __init__(self, most_bytes: int = 1 << 20) -> None:
        self.most_bytes = most_bytes
        self.stored: dict[str, list[int]] = {}

    async def create(self, key, data):
        if len(data) > self.most_bytes:
            raise BusRefused("message size exceeds maximum allowed")
        self.stored.setdefault(key, []).append(memory.load(data).generation)
        return 1

    async def update(self, key, data, revision):
        return revision + await self.create(key, data)

    async def get(self, _key):
        return None


class Bus:
    def __init__(self, bucket, most_bytes: int = 1 << 20) -> None:
        self.bucket = lambda _name: bucket
        self.most_bytes = most_bytes
        self.refuses_events = self.is_away = False
        self.events: list[events.Decided] = []
        self.commands = 0

    async def append(self, subject, data, msg_id=None, ttl_s=None):  # noqa: ARG002
        if subject.startswith(subjects.event("decision", EP).rpartition(".")[0]):
            if self.is_away:
                raise BusUnavailable("away")
            if len(data) > self.most_bytes or self.refuses_events:
                raise BusRefused("message size exceeds maximum allowed")
            self.events.append(codec.event(data))
        else:
            self.commands += 1
        return SimpleNamespace(seq=1)


def council_of(bus, *desks, policy=Policy(tick_s=0.05, look_again_s=0.05)):  # noqa: B008 -- frozen
    metrics = Metrics(CollectorRegistry())
    made = council.Council(
        bus=bus, desks={desk.id: desk for desk in desks}, intake=lambda: SimpleNamespace(compare=lambda *_: None),
        endpoints_vanished=lambda: False, lease=SimpleNamespace(held=True, epoch=1), shard=0, outbox=Outbox(bus, metrics),
        policy=policy, now=time.time, metrics=metrics,
    )  # fmt: skip
    return made, metrics


def desk_of(here):
    desk = Desk(here.endpoint_id, Policy(), time.time())
    desk.state, desk.endpoint = here, SimpleNamespace(group=lambda _: None)
    return desk


def value(counter) -> float:
    return counter.collect()[0].samples[0].value


async def for_a_moment(made, seconds: float = 0.6) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await made.run()


def a_desk(workers: int, endpoint_id: EndpointId = EP, activity: Activity = Activity.STOPPED) -> Desk:
    return desk_of(crowd(workers, activity, endpoint_id, now=time.time()))


@pytest.mark.parametrize("refused_by", ["us", "the bus"])
async def test_an_endpoint_that_cannot_be_stored_is_set_aside_and_the_others_go_on(monkeypatch, refused_by):
    other = EndpointId(7)
    bucket = Bucket()
    if refused_by == "us":
        monkeypatch.setattr(memory, "MAX_BYTES", 15_000)
    else:
        bucket.most_bytes = 15_000
    bus = Bus(bucket)
    large, small = a_desk(400), a_desk(2, other)
    made, metrics = council_of(bus, large, small)
    with capture_logs() as logs:
        await for_a_moment(made)
    assert list(bucket.stored) == [subjects.endpoint_key(other)]
    assert {event.endpoint_id for event in bus.events} == {other}, "what is not stored is not told"
    assert large.state.generation == 1, "nothing more is decided before it is stored"
    said = [entry for entry in logs if entry["event"] == "endpoint_not_stored"]
    assert 2 <= len(said) <= 5, "tried again, less and less often"
    assert "bytes" in said[0]["error"] and "fewer workers" in said[0]["hint"]
    assert value(metrics.endpoint_errors) == len(said)
    monkeypatch.undo()
    bucket.most_bytes = 1 << 20
    large.look_at = 0.0
    await for_a_moment(made, 0.5)
    assert bucket.stored[subjects.endpoint_key(EP)][0] == 1
    assert not large.is_stuck and large.errors == 0
    assert bus.events[-1].endpoint_id == EP and len(bus.events[-1].actions) == 400


async def test_any_error_of_one_endpoint_while_it_is_settled_stays_with_it(monkeypatch):
    bus = Bus(Bucket())
    large, small = a_desk(3), a_desk(2, EndpointId(7))
    made, metrics = council_of(bus, large, small)
    fitted = memory.fitted
    monkeypatch.setattr(memory, "fitted", lambda here: fitted(here) if here.endpoint_id != EP else 1 / 0)
    await for_a_moment(made, 0.4)
    assert {event.endpoint_id for event in bus.events} == {EndpointId(7)}
    assert value(metrics.endpoint_errors) >= 2


async def test_the_council_still_ends_when_somebody_else_leads():
    large = a_desk(3)
    made, _ = council_of(Bus(Bucket()), large)
    made._lease.held = False
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(5):
            await made.run()
    assert [type(error) for error in ended.value.exceptions] == [Conflict]


@pytest.mark.parametrize("takes", ["less", "nothing", "nothing for a while"])
async def test_an_event_that_the_bus_does_not_take_keeps_no_command_back(takes):
    bus = Bus(Bucket(), most_bytes=64 * 1024)
    bus.refuses_events = takes == "nothing"
    bus.is_away = takes == "nothing for a while"
    here = crowd(400, Activity.STOPPED, now=time.time())
    here = _replace(
        here, workers={n: _replace(w, liveness=Liveness.LOST, state=WorkerState.ERROR) for n, w in here.workers.items()}
    )
    desk = desk_of(here)
    made, metrics = council_of(bus, desk)
    with capture_logs() as logs:
        await for_a_moment(made)
    if takes == "nothing for a while":
        assert bus.commands == 0 and desk.untold, "what was only delayed is told first"
        return
    assert bus.commands > 0 and not desk.untold
    given_up = [entry for entry in logs if entry["event"] == "event_given_up"]
    assert value(metrics.events_lost) == len(given_up) == (takes == "nothing") * desk.state.generation
    if takes == "less":
        assert value(metrics.events_shortened) >= 1
        assert bytes(bus.events[0].record) == b"null" and len(bus.events[0].actions) == 400


async def test_other_events_do_not_wait_behind_one_that_is_refused():
    sent = []

    class Refuses(Bus):
        async def append(self, _subject, data, msg_id=None, ttl_s=None):  # noqa: ARG002
            if msg_id == "bad":
                raise BusRefused("message size exceeds maximum allowed")
            sent.append(msg_id)

    metrics = Metrics(CollectorRegistry())
    outbox = Outbox(Refuses(None), metrics)
    for name in ("bad", "good"):
        outbox.tell(events.EndpointDeleted(id=name, at=0.0, endpoint_id=EP, name="x"))
    task = asyncio.create_task(outbox.run())
    await eventually(lambda: sent == ["good"], within_s=2)
    task.cancel()
    assert value(metrics.events_lost) == 1


async def test_an_engine_that_is_left_out_is_said_once(monkeypatch):
    here = crowd(2, Activity.SUSPENDED, now=time.time())
    desk = desk_of(_replace(here, engine=random.Random(1).randbytes(40_000), engine_format="x"))
    monkeypatch.setattr(memory, "MAX_BYTES", 20_000)
    made, metrics = council_of(Bus(Bucket()), desk)
    monkeypatch.setattr(council, "_STORE_EVERY_S", 0.05)
    with capture_logs() as logs:
        await for_a_moment(made)
        assert [entry["without"] for entry in logs if entry["event"] == "memory_cut"] == ["the engine's memory"]
        desk.state = _replace(desk.state, engine=b"")
        await for_a_moment(made)
    assert len([entry for entry in logs if entry["event"] == "memory_whole_again"]) == 1
    assert value(metrics.memories_cut) == 1


#: Enough that neither the event nor the memory of before would have had room.
HERE = 500


async def test_an_endpoint_of_hundreds_of_workers_is_stopped(house, scaler_bus):
    """On a real server: the memory, the event with its input and all commands get through."""
    now = time.time()
    record = await house.endpoint(max_workers=2000)
    names = [worker_id_for(command_id(house.endpoint_id, n // 64 + 1, n % 64), "test") for n in range(HERE)]
    for name in names:
        house.workers[name] = SimpleNamespace(end=lambda: None)
        await house.put_instance(
            InstanceRecord(
                worker_id=name, endpoint_id=house.endpoint_id, group_id=G, provider="process", state="running",
                state_at=now - 5, created_at=now - 5, host=f"host-{name}", usd_per_hour=0.5,
            )
        )  # fmt: skip
    await house.put_endpoint(_replace(record, state=Activity.STOPPED))
    async with running(scaler_on(await scaler_bus("s1"))):
        await eventually(lambda: len({c.worker_id for c in house.commands}) == HERE, within_s=60)
    large = max(house.of(events.Decided), key=lambda event: len(event.actions))
    assert len(large.actions) == HERE and replay.check(large).field == ""
    assert replay.check(large).unchecked == ""
