"""Breakers over a real bus: told when they open and close, closed by a person's word, also one that was said while nobody led."""

from __future__ import annotations

import time

import msgspec
import pytest

from runtime.errors import BusUnavailable
from scaler import council, memory, observations
from scaler import state as fold
from scaler.desk import Desk
from scaler.types import Breaker, GroupMemory, Policy
from schemas import codec, events, subjects
from schemas.commands import CreateWorker
from schemas.reasons import Cause
from schemas.records import Failure
from schemas.states import WorkerState
from tests.scaler.house import G, eventually, running, scaler_on
from tests.scaler.recorded import recorded

_replace = msgspec.structs.replace


async def halted(house, *, opened_s_ago: float, stored_s_ago: float) -> None:
    """What a scaler left behind that had halted the group."""
    now = time.time()
    record = await house.endpoint()
    here = fold.initial(house.endpoint_id, now - 100)
    here = fold.apply(here, observations.EndpointSeen(at=now - 100, endpoint=record))
    opened_at = now - opened_s_ago
    known = GroupMemory(
        failed_in_row=3,
        last_failure=Failure(cause=Cause.MODEL_OOM, message="no room", at=opened_at),
        breaker=Breaker(revision=1, opened_at=opened_at, cause=Cause.MODEL_OOM, failures=3, cost_usd=0.5),
    )
    here = _replace(here, groups={G: known}, at=now - stored_s_ago)
    await house.bus.bucket(subjects.BUCKET_SCALER).put(subjects.endpoint_key(house.endpoint_id), memory.dump(here))


async def says_resume(house, said_s_ago: float) -> None:
    at = time.time() - said_s_ago
    event = events.GroupResumed(id=f"resume-{house.endpoint_id}-{at}", at=at, endpoint_id=house.endpoint_id, group_id=G, by="ada")
    await house.bus.append(subjects.event("group_resumed", house.endpoint_id), codec.encode(event), msg_id=event.id)


async def test_a_word_that_was_said_while_nobody_led_is_heard(house, scaler_bus):
    await halted(house, opened_s_ago=60, stored_s_ago=30)
    await says_resume(house, said_s_ago=0)
    async with running(scaler_on(await scaler_bus("s1"))):
        await house.waits(1)
        await eventually(lambda: house.ops(CreateWorker))
        await eventually(lambda: house.states()[WorkerState.READY] == 1)
    assert [event.by for event in await house.told(events.GroupResumed)] == ["ada"], "who did it is not echoed"


async def test_a_word_about_an_older_halt_opens_nothing_and_a_mended_template_does(house, scaler_bus):
    await halted(house, opened_s_ago=20, stored_s_ago=30)
    await says_resume(house, said_s_ago=25)
    async with running(scaler_on(await scaler_bus("s1"))):
        await house.waits(1)
        await eventually(lambda: house.of(events.GroupHalted))
        await eventually(lambda: any(d.actions == () and "halted after 3" in d.reason for d in house.of(events.Decided)))
        assert house.ops(CreateWorker) == []
        (told,) = house.of(events.GroupHalted)
        assert (told.failures, told.cost_usd, told.failure.cause) == (3, 0.5, Cause.MODEL_OOM)
        record = await house.endpoint()
        await house.put_endpoint(_replace(record, groups=(_replace(record.groups[0], revision=2),)))
        await eventually(lambda: house.ops(CreateWorker))
        await eventually(lambda: "scaler" in [event.by for event in house.of(events.GroupResumed)])
    assert (await house.told(events.GroupResumed))[-1].reason == "its breaker is closed"


# --- in which order a decision is stored, told and sent ---------------------------------------------------------------


class Bucket:
    def __init__(self) -> None:
        self.stored: list[int] = []

    async def create(self, _key, data):
        self.stored.append(memory.load(data).generation)
        return len(self.stored)

    async def update(self, key, data, _revision):
        return await self.create(key, data)


class Outbox:
    """While it tells one decision, the next is taken."""

    def __init__(self, meanwhile) -> None:
        self.told: list[int] = []
        self.meanwhile = meanwhile

    async def send(self, event) -> None:
        if not self.told:
            self.meanwhile()
        self.told.append(event.generation)


class Bus:
    def __init__(self, bucket) -> None:
        self.bucket = lambda _name: bucket


class Lease:
    held = True
    epoch = 1


@pytest.mark.parametrize("broken", [False, True])
async def test_a_decision_is_told_only_after_it_is_stored(broken):
    told = recorded(2)
    bucket, desk = Bucket(), Desk(told[0].endpoint_id, Policy(), 0.0)
    desk.state, desk.untold = _replace(desk.state, generation=1), [told[0]]

    def decided_meanwhile():
        if broken:
            raise BusUnavailable("away")
        desk.state = _replace(desk.state, generation=2)
        desk.untold.append(told[1])

    outbox = Outbox(decided_meanwhile)
    made = council.Council(
        bus=Bus(bucket), desks={desk.id: desk}, intake=None, endpoints_vanished=lambda: False, lease=Lease(), shard=0, outbox=outbox,
        policy=Policy(), now=lambda: 0.0, metrics=None,
    )  # fmt: skip
    await made._settle(desk)
    if broken:
        assert (outbox.told, desk.untold, desk.stored_generation) == ([], [told[0]], 1)
        return
    assert (bucket.stored, outbox.told) == ([1], [1])
    await made._settle(desk)
    assert (bucket.stored, outbox.told) == ([1, 2], [1, 2])
    assert desk.untold == []
