"""A provisioner on a real nats-server with real processes, and what a test says to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from structlog.testing import capture_logs

from provisioner.bundles import Bundles
from provisioner.plan import Patience
from provisioner.provider import Machine, MachineState
from provisioner.providers.process import Folder, ProcessProvider, ProcessSettings
from provisioner.reconcile import Rhythm
from provisioner.wiring import provisioner
from runtime import topology
from runtime.bus import BusUnavailable
from runtime.nats_bus import NatsBus
from schemas import codec, commands, events, subjects
from schemas.ids import CommandId, EndpointId, GroupId, worker_id_for
from schemas.records import EndpointRecord, InstanceRecord, Template, WorkerGroup

DEADLINE_S = 60.0  #: of a machine that does much else beside
CONTROL_URL = "http://127.0.0.1:9"

#: Says that it runs, then does as it is told until SIGTERM.
WORKER = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(os.environ["CORRAL_STATE_DIR"])
with open(here / "runs.jsonl", "a") as runs:
    runs.write(json.dumps({"pid": os.getpid(), "env": dict(os.environ)}) + "\\n")
print("hello from", os.getpid(), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if len(sys.argv) > 1:
    exec(sys.argv[1])
(here / "up.new").write_text(str(os.getpid()))
(here / "up.new").rename(here / "up")
while True:
    time.sleep(60)
"""

_numbers = itertools.count(1)


async def eventually(look: Callable[[], object], what: str = "", deadline_s: float = DEADLINE_S):
    """The first true answer of `look`, which may be a coroutine function."""
    end = time.monotonic() + deadline_s
    while True:
        answer = look()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {deadline_s} s: {what or look}"
        await asyncio.sleep(0.02)


def processes_of(directory: Path) -> list[psutil.Process]:
    """Living processes that were told this state directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.environ().get("CORRAL_STATE_DIR", "").startswith(str(directory))
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def logs() -> Iterator[list]:
    """What was logged, as events."""
    with capture_logs() as events_logged:
        yield events_logged


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "provisioner"
    yield directory
    for process in processes_of(directory):
        with contextlib.suppress(psutil.Error):
            process.kill()


@pytest.fixture
def worker_script(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture
def template(worker_script: Path) -> Callable[..., Template]:
    """template("python code to run first", stop_timeout_s=...)"""

    def make(code: str = "", **more) -> Template:
        more.setdefault("stop_timeout_s", 5.0)
        return Template(name="tiny", command=("python", str(worker_script), *([code] if code else [])), **more)

    return make


@pytest.fixture
def make_provider(state_dir: Path) -> Callable[..., ProcessProvider]:
    def make(environ=None, gpus_here=lambda: (), now=time.time, **settings) -> ProcessProvider:
        return ProcessProvider(
            folder=Folder(state_dir),
            settings=ProcessSettings(control_url=CONTROL_URL, **settings),
            bundles=Bundles(minter=None, nats_urls=("nats://127.0.0.1:1",), control_url=CONTROL_URL, ttl_s=3600, now=now),
            now=now,
            environ=os.environ if environ is None else environ,
            gpus_here=gpus_here,
        )

    return make


def make_command(kind: type, endpoint_id: int, create: CommandId | None = None, **more):
    """A command about the worker that `create` creates (default: itself)."""
    command_id = CommandId(f"e{endpoint_id}.g{next(_numbers)}.s0")
    now = time.time()
    fields = {
        "command_id": command_id,
        "endpoint_id": EndpointId(endpoint_id),
        "worker_id": worker_id_for(create or command_id),
        "group_id": GroupId(1),
        "issued_at": now,
        "deadline_at": now + 60,
    }
    return kind(**(fields | more))


class Desk:
    """What a test sees: it sends commands and waits for what comes of them."""

    def __init__(self, bus: NatsBus, endpoint_id: EndpointId) -> None:
        self.bus = bus
        self.endpoint_id = endpoint_id
        self.events: list[events.AnyEvent] = []
        self.letters: list[commands.DeadLetter] = []
        self.sent: list[int] = []

    async def follow(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                self.bus.tail(
                    subjects.STREAM_EVENTS,
                    [subjects.EVENTS],
                    lambda _, data, __: self.events.append(codec.event(data)),
                    since_at=0,
                )
            )
            tasks.create_task(
                self.bus.tail(
                    subjects.STREAM_DEAD_LETTERS,
                    [subjects.DEAD_LETTERS],
                    lambda _, data, __: self.letters.append(codec.decode(data, commands.DeadLetter)),
                    since_at=0,
                )
            )

    def command(self, kind: type, create: commands.CreateWorker | None = None, **more):
        return make_command(kind, self.endpoint_id, create.command_id if create else None, **more)

    def create(self, template: Template, **more) -> commands.CreateWorker:
        return self.command(commands.CreateWorker, template=template, **more)

    async def send(self, command, msg_id: str | None = None) -> None:
        op = commands.op_of(command)
        await self.post(subjects.command(op, command.endpoint_id), codec.encode(command), msg_id or command.command_id)

    async def post(self, subject: str, data: bytes, msg_id: str) -> None:
        self.sent.append((await self.bus.append(subject, data, msg_id=msg_id)).seq)

    async def answer(self, subject: str, data: bytes) -> bytes:
        """Of whoever serves the subject, once somebody does."""

        async def ask() -> bytes | None:
            with contextlib.suppress(BusUnavailable):
                return await self.bus.request(subject, data, 5)

        return await eventually(ask)

    async def event(self, kind: type, **fields):
        """The first event of this kind with these fields."""

        def look():
            return next(
                (e for e in self.events if isinstance(e, kind) and all(getattr(e, k) == v for k, v in fields.items())), None
            )

        return await eventually(look, f"{kind.__name__} {fields}, only {self.events}")

    async def record(self, worker_id: str, state: str | None = None) -> InstanceRecord:
        async def look():
            entry = await self.bus.bucket(subjects.BUCKET_INSTANCES).get(subjects.worker_key(self.endpoint_id, worker_id))
            record = codec.instance_record(entry.data) if entry else None
            return record if record and state in (None, record.state) else None

        return await eventually(look, f"{worker_id} {state}")

    async def do(self, command, **fields):
        """Send it and wait for the fact that ends it."""
        await self.send(command)
        return await self.event(FACTS[commands.op_of(command)], command_id=command.command_id, **fields)

    async def want(self) -> None:
        """The endpoint and its group exist."""
        group = WorkerGroup(id=GroupId(1), template=Template(name="tiny"))
        record = EndpointRecord(id=self.endpoint_id, name="tiny", groups=(group,))
        await self.bus.bucket(subjects.BUCKET_ENDPOINTS).put(subjects.endpoint_key(self.endpoint_id), codec.encode(record))

    async def queue_is_empty(self) -> bool:
        """Nothing that was sent waits in the stream of commands."""
        return all([await self.bus.stored(subjects.STREAM_COMMANDS, seq) is None for seq in self.sent])

    async def intent(self, command_id: str):
        entry = await self.bus.bucket(subjects.BUCKET_IDEM).get(subjects.intent_key(command_id))
        return codec.intent(entry.data) if entry else None


FACTS = {
    "create": events.WorkerCreated,
    "start": events.WorkerStarted,
    "stop": events.WorkerStopped,
    "reboot": events.WorkerStarted,
    "destroy": events.WorkerDestroyed,
}

IMPATIENT = Rhythm(every_s=0.3, orphan_grace_s=0.2, abandoned_s=30.0)


class ScriptedProvider:
    """A provider in memory that answers as the test says: `script` holds, per call, errors to raise one after the other."""

    preemption_notice_s = None

    def __init__(self, name: str = "process") -> None:
        self.name = name
        self.machines: dict[str, Machine] = {}
        self.script: dict[str, list[Exception]] = {}
        self.calls: list[tuple[str, str]] = []
        self.gate: asyncio.Event | None = None

    async def _call(self, op: str, worker_id: str) -> None:
        self.calls.append((op, worker_id))
        if self.gate is not None:
            await self.gate.wait()
        if self.script.get(op):
            raise self.script[op].pop(0)

    async def offers(self, order):
        return ()

    async def create(self, order):
        await self._call("create", order.worker_id)
        machine = Machine(
            worker_id=order.worker_id,
            endpoint_id=order.endpoint_id,
            group_id=order.group_id,
            command_id=order.command_id,
            state=MachineState.RUNNING,
            template=order.template,
            created_at=time.time(),
            started_at=time.time(),
            starts=1,
        )
        return self.machines.setdefault(order.worker_id, machine)

    def put(self, worker_id, state, **more):
        self.machines[worker_id] = msgspec.structs.replace(self.machines[worker_id], state=state, **more)
        return self.machines[worker_id]

    async def start(self, worker_id):
        await self._call("start", worker_id)
        return self.put(worker_id, MachineState.RUNNING, starts=self.machines[worker_id].starts + 1, started_at=time.time())

    async def stop(self, worker_id):
        await self._call("stop", worker_id)
        return self.put(worker_id, MachineState.STOPPED)

    async def destroy(self, worker_id):
        await self._call("destroy", worker_id)
        self.machines.pop(worker_id, None)
        return ""

    async def inventory(self):
        if self.script.get("inventory"):
            raise self.script["inventory"][0]
        return list(self.machines.values())

    async def describe(self, worker_id):
        return self.machines.get(worker_id)

    async def log_tail(self, worker_id, limit_bytes=4096):
        return ""

    async def watch(self, changed):
        await asyncio.Event().wait()

    def count(self, op: str, worker_id: str) -> int:
        return self.calls.count((op, worker_id))


@pytest.fixture
def scripted() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
def make_scripted() -> type[ScriptedProvider]:
    return ScriptedProvider


@pytest.fixture
async def own_nats_server(bare_nats_server, monkeypatch):
    """A server of this test's own, whose queue of commands tries again after half a second instead of half a minute."""
    monkeypatch.setattr(topology, "COMMAND_BACKOFF_S", (0.5, 0.5, 0.5, 0.5, 0.5))
    await bare_nats_server.make_topology()
    return bare_nats_server


@pytest.fixture
async def desk(own_nats_server, bus_for, endpoint_id) -> AsyncIterator[Desk]:
    bus = await bus_for("scaler", "desk", server=own_nats_server)
    made = Desk(bus, endpoint_id)
    following = asyncio.create_task(made.follow())
    yield made
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


@pytest.fixture
async def serving(own_nats_server, bus_for, make_provider):
    """serving(providers=..., rhythm=...): a running provisioner; `await` it, it stops with the test."""
    running: list[asyncio.Task] = []

    async def serve(*providers, name: str = "provisioner", rhythm=IMPATIENT, patience=None, bus=None, bundles=None):
        bus = bus or await bus_for("provisioner", name, server=own_nats_server)
        providers = {provider.name: provider for provider in providers or (make_provider(),)}
        service = provisioner(
            bus=bus,
            streams=bus,
            providers=providers,
            bundles=bundles or Bundles(minter=None, nats_urls=(), control_url=CONTROL_URL, ttl_s=3600, now=time.time),
            now=time.time,
            rng=random.Random(1),
            patience=patience or Patience(first_delay_s=0.05, factor=1.5),
            rhythm=rhythm,
        )
        running.append(asyncio.create_task(service.run()))
        return running[-1]

    yield serve
    for task in running:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def runs_of(directory: Path) -> list[dict]:
    """Every process that was ever started in a worker's directory."""
    path = directory / "runs.jsonl"
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []


@pytest.fixture(name="eventually")
def _eventually():
    return eventually


@pytest.fixture(name="runs_of")
def _runs_of():
    return runs_of


@pytest.fixture(name="processes_of")
def _processes_of():
    return processes_of


@pytest.fixture(name="make_command")
def _make_command():
    return make_command


@pytest.fixture(name="kill")
def _kill():
    return kill
