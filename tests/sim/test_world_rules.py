"""The inspector of a world sees what must not be, and a world is the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from provisioner.provider import MachineState, Order
from schemas import events, subjects
from schemas.commands import StopWorker
from schemas.ids import CommandId
from sim.virtual_time import virtual_loop
from sim.world import Broken, group

PROGRAM = """
import sys
from pathlib import Path

from sim.weather import Weather
from sim.world import Kind, Plan, group, play


async def story(world):
    one = await world.operator.create("one", group(1), max_workers=6, inactivity_timeout=30)
    two = await world.operator.create("two", group(2), group(3, weight=0.5), max_workers=4)
    world.clients.steady(one, rate=1.2, units=150, for_s=400, sigma=0.6)
    world.clients.steady(two, rate=0.5, units=300, for_s=450)
    for at_s, victim in ((150, world.scalers[0]), (200, world.provisioners[0]), (260, world.routers[0]), (300, world.scalers[1])):
        await world.until(at_s)
        await victim.crash_for(7)
    await world.until(700)


report = play(
    story,
    Plan(
        keys_dir=Path(sys.argv[1]),
        seed=int(sys.argv[2]),
        busy=0.1,
        grain_s=0.5,
        kinds=(Kind(create_s=30, start_s=8, fails=0.1),),
        weather=Weather(seed=5, delay_s=(0.001, 0.1), lost=0.03, duplicated=0.1, lost_replies=0.02),
    ),
)
print(report.digest, report.entries, report.requests)
"""


@pytest.mark.long
def test_two_processes_and_two_hash_seeds_tell_the_same_world(keys_dir):
    def told(hash_seed: str, seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", PROGRAM, str(keys_dir), seed]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    first = told("0", "3")
    assert first == told("4242", "3")
    assert first != told("0", "4")


def broken_by(tell, story, **plan) -> str:
    with pytest.raises(Broken) as found:
        tell(story, settle_s=5.0, **plan)
    return str(found.value)


def test_a_stop_in_the_middle_of_a_request_is_seen(tell):
    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=2, min_load=90)
        await world.eventually(lambda: world.count(chat) == 1, 200)
        world.clients.come(chat, [(world.now_s + 1, 500.0)])
        await world.until(world.now_s + 5)
        await world.market.stop(world.market.of(chat.id)[0].id)

    assert "1 requests at" in broken_by(tell, story)


def test_one_machine_too_many_is_seen(tell):
    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=1, min_load=90)
        await world.eventually(lambda: world.count(chat) == 1, 200)
        (rented,) = world.market.machines.values()
        await world.market.create(msgspec.structs.replace(rented.order, worker_id="w99"))

    assert "is machine 2 of endpoint 1, whose max_workers is 1" in broken_by(tell, story)


def test_a_machine_that_nobody_knows_is_seen(tell):
    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=3)
        await world.provisioners[0].stop()
        order = Order(
            worker_id="w99", endpoint_id=chat.id, group_id=1, command_id=CommandId("e1.g1.s0"), template=group().template
        )
        await world.market.create(order)
        assert world.market.machines["w99"].state is MachineState.RUNNING
        await world.until(400)

    assert "w99 is billed and nobody has known of it" in broken_by(tell, story)


def test_a_lost_command_is_seen(tell):
    async def story(world):
        stream = world.broker.stream(subjects.STREAM_COMMANDS)
        command = StopWorker(command_id=CommandId("e1.g1.s0"), endpoint_id=1, worker_id="w1", issued_at=0.0, deadline_at=9e9)
        stored, _ = stream.append(subjects.command("stop", 1), msgspec.json.encode(command), "id", world.broker.now())
        stream.remove(stored)

    assert "e1.g1.s0 (stop w1) was sent and never came to an end" in broken_by(tell, story, provisioners=0)


def test_a_decision_that_was_changed_is_seen(tell):
    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=3, min_load=90)
        await world.until(30)
        stored = next(
            stored
            for stored in world.broker.stream(subjects.STREAM_EVENTS).messages.values()
            if stored.subject == subjects.event("decision", chat.id)
        )
        event = msgspec.json.decode(stored.data, type=events.Decided)
        for forged in (msgspec.structs.replace(event, hot_wanted=7), msgspec.structs.replace(event, generation=99)):
            world.inspector._event(msgspec.structs.replace(stored, data=msgspec.json.encode(forged)))

    told = broken_by(tell, story)
    assert "hot_wanted was told otherwise than its input gives" in told
    assert "generation was told otherwise than its input gives" in told


def test_a_request_that_is_forgotten_is_seen(tell):
    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=0)
        world.clients.come(chat, [(1.0, 10.0)])
        await world.until(10)

    assert "1 requests were neither answered nor told why not" in broken_by(tell, story)


def test_what_a_service_logs_as_an_exception_is_seen(tell):
    async def story(world):
        await world.until(1)
        virtual_loop().call_soon(lambda: {}["no"])
        await world.until(2)

    assert "KeyError" in broken_by(tell, story)


def test_a_service_that_ends_by_itself_is_seen_and_started_again(tell):
    async def story(world):
        await world.until(5)
        world.provisioners[0].service._reconciler.once = None  # a bug in the provisioner
        await world.until(30)
        assert world.provisioners[0].life > 1

    assert "provisioner-1 ended by itself" in broken_by(tell, story)
