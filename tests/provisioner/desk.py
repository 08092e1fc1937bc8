"""Where a test sits: it sends commands and sees what comes of them."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable

from runtime.bus import BusUnavailable
from runtime.nats_bus import NatsBus
from schemas import codec, commands, events, subjects
from schemas.ids import CommandId, EndpointId, GroupId, worker_id_for
from schemas.records import EndpointRecord, InstanceRecord, Template, WorkerGroup

DEADLINE_S = 60.0  #: of a machine that does much else beside

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
        self._began_at = time.time()

    async def follow(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                self.bus.tail(
                    subjects.STREAM_EVENTS,
                    [subjects.EVENTS],
                    lambda _, data, __: self.events.append(codec.event(data)),
                    since_at=self._began_at,
                )
            )
            tasks.create_task(
                self.bus.tail(
                    subjects.STREAM_DEAD_LETTERS,
                    [subjects.DEAD_LETTERS],
                    lambda _, data, __: self.letters.append(codec.decode(data, commands.DeadLetter)),
                    since_at=self._began_at,
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
