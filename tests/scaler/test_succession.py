"""Leaders come and go, at the worst moment; commands are said once and machines exist once."""

import asyncio

import pytest

from runtime.bus import Bus
from scaler import audit, memory
from schemas import codec, events, subjects
from schemas.commands import CreateWorker
from schemas.states import WorkerState
from tests.scaler.house import eventually, running, scaler_on


class DyingBus:
    """A bus whose owner dies at one moment: from then on nothing it does reaches anybody, and nothing it awaits returns."""

    def __init__(self, bus: Bus, moment: str) -> None:
        self._bus = bus
        self._moment = moment
        self._seen = 0
        self.dead = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._bus, name)

    async def _die(self):
        self.dead.set()
        await asyncio.Event().wait()

    async def _step(self, what, act):
        if self.dead.is_set():
            await self._die()
        kind, _, when = self._moment.partition(":")
        if what == kind:
            self._seen += 1
            if when == "before":
                await self._die()
            result = await act()
            if when == "after" or (when.isdigit() and self._seen == int(when)):
                await self._die()
            return result
        return await act()

    async def publish(self, subject, data):
        await self._step("publish", lambda: self._bus.publish(subject, data))

    async def append(self, subject, data, **more):
        what = (
            "command"
            if ".cmd." in subject
            else "decision"
            if b'"why":"min_load"' in data and ".decision." in subject
            else "event"
        )
        return await self._step(what, lambda: self._bus.append(subject, data, **more))

    def bucket(self, name):
        return DyingBucket(self._bus.bucket(name), self, name)


class DyingBucket:
    def __init__(self, bucket, bus, name):
        self._bucket, self._bus, self.name = bucket, bus, name

    async def _do(self, what, act):
        return await self._bus._step(what, act)

    async def get(self, key):
        return await self._do("get", lambda: self._bucket.get(key))

    async def all(self, prefix=""):
        return await self._do("all", lambda: self._bucket.all(prefix))

    async def put(self, key, data, **more):
        return await self._do("put", lambda: self._bucket.put(key, data, **more))

    async def create(self, key, data, **more):
        what = "memory" if self._is_memory_of_a_purchase(data) else "create"
        return await self._do(what, lambda: self._bucket.create(key, data, **more))

    async def update(self, key, data, revision, **more):
        what = "memory" if self._is_memory_of_a_purchase(data) else "update"
        return await self._do(what, lambda: self._bucket.update(key, data, revision, **more))

    def _is_memory_of_a_purchase(self, data):
        if self.name != subjects.BUCKET_SCALER or data[:1] not in (b"{", b"x"):
            return False
        workers = memory.load(data).workers.values()
        return any(w.intent is not None and w.intent.op == "create" for w in workers)

    async def delete(self, key, **more):
        return await self._do("delete", lambda: self._bucket.delete(key, **more))


async def killed(task):
    """No goodbye: the lease is not given back."""
    task.cancel()
    await asyncio.wait({task}, timeout=0.5)


@pytest.mark.parametrize(
    "moment",
    [
        "memory:before",
        "memory:after",
        "decision:before",
        "decision:after",
        "command:before",
        "command:1",
        "command:2",
        "command:3",
    ],
)
async def test_a_leader_that_dies_at_any_moment_of_a_decision_doubles_and_loses_nothing(house, scaler_bus, moment):
    await house.endpoint(min_load=280)  # three workers at once
    first = DyingBus(await scaler_bus("first"), moment)
    dying = asyncio.create_task(scaler_on(first, "first").run())
    await asyncio.wait_for(first.dead.wait(), 10)
    async with running(scaler_on(await scaler_bus("second"), "second")):
        await eventually(lambda: house.states()[WorkerState.READY] == 3, within_s=15)
        await killed(dying)
    assert set(house.created.values()) == {1}
    assert len(house.created) == 3
    assert len({command.command_id for command in house.ops(CreateWorker)}) == 3
    told = [event for event in house.of(events.Decided) if event.actions]
    assert [len(event.actions) for event in told] == [3], "the decision is told once, and not forgotten"


async def test_two_scalers_and_one_leads(house, scaler_bus):
    await house.endpoint(min_load=180)
    one, two = scaler_on(await scaler_bus("one"), "one"), scaler_on(await scaler_bus("two"), "two")
    async with running(one, two) as tasks:
        await eventually(lambda: house.states()[WorkerState.READY] == 2)
        assert [one.leads, two.leads].count(True) == 1
        leader, follower = (0, two) if one.leads else (1, one)
        tasks[leader].cancel()
        await eventually(lambda: follower.leads, what="a lease given back is taken at once")
        begun = len(house.record_history)
        await house.endpoint(min_load=280)
        await eventually(lambda: house.states()[WorkerState.READY] == 3)
    assert set(house.created.values()) == {1}
    assert len(house.created) == 3
    states = [record.state for _, record in house.record_history[begun:] if record is not None]
    assert not {WorkerState.ERROR, WorkerState.DRAINING, WorkerState.DESTROYING} & set(states), "a new leader disturbs nobody"
    decisions = house.of(events.Decided)
    assert audit.first_wrong(decisions) is None, "the chain goes on over the change of leader"
    assert len({event.epoch for event in decisions}) == 2


async def test_workers_stay_ready_in_the_routers_view_while_the_leader_changes(house, scaler_bus):
    await house.endpoint(min_load=180)
    async with running(scaler_on(await scaler_bus("one"), "one")):
        await eventually(lambda: house.states()[WorkerState.READY] == 2)
    before = len(house.record_history)
    async with running(scaler_on(await scaler_bus("two"), "two")) as tasks:
        await asyncio.sleep(1.5)
        assert not tasks[0].done()
    assert [
        record for _, record in house.record_history[before:] if record is None or record.state is not WorkerState.READY
    ] == []


async def test_a_worker_that_died_between_two_leaders_is_found_out(house, scaler_bus):
    await house.endpoint(min_load=280)
    async with running(scaler_on(await scaler_bus("one"), "one")):
        await eventually(lambda: house.states()[WorkerState.READY] == 3)
    victim = next(iter(house.workers.values()))
    victim.end()
    async with running(scaler_on(await scaler_bus("two"), "two", haste=5.0)):
        await eventually(lambda: [event.worker_id for event in house.of(events.WorkerLost)] == [victim.id], within_s=20)
        await eventually(lambda: house.states()[WorkerState.READY] == 3, within_s=15)
    assert len(house.created) == 4


async def test_the_server_is_killed_under_a_working_scaler(house, scaler_bus):
    await house.endpoint(min_load=180)
    async with running(scaler_on(await scaler_bus("one"), "one")):
        await eventually(lambda: house.states()[WorkerState.READY] == 2)
        house.server.kill()
        await eventually(lambda: not house.bus.connected)
        await house.server.start()
        await eventually(lambda: house.bus.connected)
        await house.endpoint(min_load=280)
        await eventually(lambda: house.states()[WorkerState.READY] == 3, within_s=30)
    assert set(house.created.values()) == {1}
    assert len(house.created) == 3


async def test_a_leader_whose_memory_another_wrote_stops_acting(house, scaler_bus):
    await house.endpoint()
    scaler = scaler_on(await scaler_bus("one"), "one")
    async with running(scaler):
        await eventually(lambda: house.of(events.Decided))
        epoch = house.of(events.Decided)[0].epoch
        bucket = house.bus.bucket(subjects.BUCKET_SCALER)
        key = subjects.endpoint_key(house.endpoint_id)

        async def stored():
            while (entry := await bucket.get(key)) is None:
                await asyncio.sleep(0.02)
            return entry

        entry = await stored()
        await bucket.put(key, entry.data)
        await house.waits(1)
        await eventually(lambda: house.states()[WorkerState.READY] == 1, within_s=15)
    (create,) = house.ops(CreateWorker)
    assert create.epoch > epoch, "it stepped down, learned again, and acted under a new epoch"


async def test_an_unreadable_memory_does_not_repeat_command_ids(house, scaler_bus):
    await house.endpoint(min_load=80)
    async with running(scaler_on(await scaler_bus("one"), "one")):
        await eventually(lambda: house.states()[WorkerState.READY] == 1)
    await house.bus.bucket(subjects.BUCKET_SCALER).put(subjects.endpoint_key(house.endpoint_id), b"\x00 not a state")
    async with running(scaler_on(await scaler_bus("two"), "two")):
        await house.endpoint(min_load=180)
        await eventually(lambda: house.states()[WorkerState.READY] == 2)
    ids = [command.command_id for command in house.commands]
    assert len(ids) == len(set(ids)) == 2
    assert codec.encode(ids)


async def test_who_waited_under_the_leader_before_does_not_wait_for_ever(house, scaler_bus):
    await house.endpoint()
    async with running(scaler_on(await scaler_bus("one"), "one")):
        await house.waits(1)
        await eventually(lambda: house.states()[WorkerState.READY] == 1)
    house.waiting = 0  # served, while nobody led
    (worker,) = house.workers.values()
    worker.end()
    await house._show(house.commands[0], "stopped")
    async with running(scaler_on(await scaler_bus("two"), "two")):
        await eventually(lambda: house.states()[WorkerState.STOPPED] == 1)
        await asyncio.sleep(0.5)
    assert len(house.commands) == 1, "a gauge from the memory wakes nobody"
