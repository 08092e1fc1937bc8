"""The real provisioner in virtual time on a network that duplicates, delays and loses, killed again and again."""

import asyncio
import contextlib
import os
import random

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.bundles import Bundles
from provisioner.compare import Agree, compare
from provisioner.provider import Machine, MachineState, Transient, host_lost
from provisioner.reconcile import Rhythm
from provisioner.wiring import provisioner
from runtime.bus import BusUnavailable
from schemas import codec, commands, events, subjects
from schemas.ids import CommandId, EndpointId, GroupId, worker_id_for
from schemas.reasons import Cause
from schemas.records import Template
from sim.broker import Broker
from sim.bus import MemoryBus
from sim.virtual_time import run_virtual
from sim.weather import Weather

EP = EndpointId(1)
EXAMPLES = int(os.environ.get("CORRAL_STORMS", "40"))
FACTS = (
    events.WorkerCreated,
    events.WorkerStarted,
    events.WorkerStopped,
    events.WorkerDestroyed,
    events.CommandRefused,
    events.CommandDead,
)


class SlowProvider:
    """Takes its time before and after every change, and refuses now and then."""

    name = "process"
    preemption_notice_s = None

    def __init__(self, rng: random.Random) -> None:
        self.machines: dict[str, Machine] = {}
        self.made: list[str] = []
        self._rng = rng

    async def _wait(self) -> None:
        await asyncio.sleep(self._rng.choice((0.0, 0.1, 2.0, 20.0)))

    async def _before(self) -> None:
        await self._wait()
        if self._rng.random() < 0.15:
            raise Transient(Cause.RENT_FAILED, "busy")

    async def create(self, order):
        await self._before()
        if order.worker_id not in self.machines:
            self.made.append(order.worker_id)
            self.machines[order.worker_id] = Machine(
                worker_id=order.worker_id,
                endpoint_id=order.endpoint_id,
                group_id=order.group_id,
                command_id=order.command_id,
                state=MachineState.RUNNING,
                template=order.template,
                started_at=asyncio.get_running_loop().time() + 1_700_000_000,
            )
        await self._wait()
        return self.machines[order.worker_id]

    async def _change(self, worker_id, state, **more):
        await self._before()
        if worker_id not in self.machines:
            raise host_lost(self.name, worker_id)
        self.machines[worker_id] = msgspec.structs.replace(self.machines[worker_id], state=state, **more)
        await self._wait()
        return self.machines[worker_id]

    async def start(self, worker_id):
        return await self._change(worker_id, MachineState.RUNNING, started_at=asyncio.get_running_loop().time() + 1_700_000_000)

    async def stop(self, worker_id):
        return await self._change(worker_id, MachineState.STOPPED)

    async def destroy(self, worker_id):
        await self._before()
        self.machines.pop(worker_id, None)
        await self._wait()
        return ""

    async def inventory(self):
        await self._wait()
        return list(self.machines.values())

    async def describe(self, worker_id):
        await self._wait()
        return self.machines.get(worker_id)

    async def watch(self, changed):
        await asyncio.Event().wait()


def told(broker: Broker) -> list[events.AnyEvent]:
    return [codec.event(stored.data) for stored in broker.stream(subjects.STREAM_EVENTS).messages.values()]


async def storm(seed: int, plots: list[list[str]]) -> None:
    rng = random.Random(seed)
    broker = Broker(Weather(seed=seed, delay_s=(0.0, 0.3), duplicated=0.2, lost_replies=0.05))
    provider = SlowProvider(rng)
    scaler = MemoryBus(broker, "scaler")
    sent: list[commands.AnyCommand] = []

    async def live(name: str) -> None:
        """One provisioner after another, each killed at some moment."""
        while True:
            bus = MemoryBus(broker, name)
            service = provisioner(
                bus=bus,
                streams=None,
                providers={"process": provider},
                bundles=Bundles(minter=None, nats_urls=(), control_url="", ttl_s=60, now=broker.now),
                now=broker.now,
                rng=rng,
                rhythm=Rhythm(every_s=60),
            )
            running = asyncio.create_task(service.run())
            await asyncio.wait([running], timeout=rng.expovariate(1 / 15) if broker.weather.lost_replies else None)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await bus.close()
            await asyncio.sleep(rng.random() * 3)

    async def insist(command: commands.AnyCommand, msg_id: str) -> None:
        while True:
            with contextlib.suppress(BusUnavailable):
                await scaler.append(subjects.command(commands.op_of(command), EP), codec.encode(command), msg_id=msg_id)
                return

    async def say(number: int, plot: list[str]) -> None:
        """What a scaler says about one worker, some of it twice."""
        create_id = CommandId(f"e1.g{number}.s0")
        for step, op in enumerate(["create", *plot]):
            kind = next(kind for kind in commands.AnyCommand.__args__ if kind.__struct_config__.tag == op)
            command = kind(
                command_id=CommandId(f"e1.g{number}.s{step}"),
                endpoint_id=EP,
                worker_id=worker_id_for(create_id),
                group_id=GroupId(1),
                issued_at=broker.now(),
                deadline_at=broker.now() + 600,
                **({"template": Template(name="tiny")} if op == "create" else {}),
            )
            sent.append(command)
            for again in range(rng.choice((1, 1, 2))):
                await insist(command, f"{command.command_id}{'-again' * again}")
            await asyncio.sleep(rng.choice((0.0, 0.5, 15.0, 60.0)))

    lives = [asyncio.create_task(live(name)) for name in ("p1", "p2")]
    async with asyncio.TaskGroup() as says:
        for number, plot in enumerate(plots):
            says.create_task(say(number, plot))
    await asyncio.sleep(300)
    broker.weather.lost_replies = broker.weather.duplicated = 0.0  # the sky clears; nobody is killed any more
    await asyncio.sleep(1500)
    for life in lives:
        life.cancel()
    await asyncio.wait(lives)

    facts = [event for event in told(broker) if isinstance(event, FACTS)]
    for command in sent:
        about = {type(event).__name__ for event in facts if event.command_id == command.command_id}
        assert about, f"{command.command_id} ({commands.op_of(command)}) ended without a trace"
    assert not broker.stream(subjects.STREAM_COMMANDS).messages, "something is still queued"

    assert len(provider.made) == len(set(provider.made)), "a worker was created twice"
    for number, plot in enumerate(plots):
        if "destroy" in plot:
            destroyed = {event.worker_id for event in facts if isinstance(event, events.WorkerDestroyed)}
            worker_id = worker_id_for(CommandId(f"e1.g{number}.s0"))
            assert worker_id not in provider.machines or worker_id not in destroyed, "it lives after its destruction"

    reader = MemoryBus(broker, "reader")
    for entry in await reader.bucket(subjects.BUCKET_INSTANCES).all():
        record = codec.instance_record(entry.data)
        machine = provider.machines.get(record.worker_id)
        finding = compare(record, machine, intent=None, wanted=True, now=broker.now(), abandoned_s=0)
        assert isinstance(finding, Agree), f"{record} and {machine}: {finding}"
    for entry in await reader.bucket(subjects.BUCKET_IDEM).all():
        if not entry.key.startswith("epoch"):
            assert codec.intent(entry.data).status in {"done", "failed"}


plots = st.lists(st.lists(st.sampled_from(["stop", "start", "reboot", "destroy"]), max_size=4), min_size=1, max_size=4)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), plots=plots)
def test_after_any_storm_everything_has_come_to_one_end(seed, plots):
    run_virtual(storm(seed, plots))
