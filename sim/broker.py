"""What a nats-server keeps, in memory: streams, work queues, buckets, and who is connected.

Only what the Bus promises is modelled, with the settings of the real topology: the same streams, the same duplicate windows, the
same backoff of the provisioner's queue. Times are the running loop's, so a virtual loop makes it a simulation.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from runtime.errors import Conflict, StreamMissing
from schemas import subjects
from schemas.commands import DeadLetter

from .weather import Weather

if TYPE_CHECKING:
    from .link import Link, Responder, Subscription

BACKOFF_S = (30.0, 60.0, 120.0, 300.0, 600.0)  #: ack wait of the first, second, ... delivery
MAX_DELIVERIES = 6


@dataclass(frozen=True, slots=True)
class StreamSettings:
    name: str
    pattern: str
    duplicate_window_s: float
    max_age_s: float
    is_queue: bool = False  #: a message that is acked is gone


DAY_S = 86_400.0
STREAMS = (
    StreamSettings(subjects.STREAM_COMMANDS, subjects.COMMANDS, 600, 3600, is_queue=True),
    StreamSettings(subjects.STREAM_EVENTS, subjects.EVENTS, 600, 7 * DAY_S),
    StreamSettings(subjects.STREAM_WORKER_EVENTS, subjects.WORKER_EVENTS, 120, DAY_S),
    StreamSettings(subjects.STREAM_DEAD_LETTERS, subjects.DEAD_LETTERS, 3600, 14 * DAY_S),
)


@functools.lru_cache(maxsize=1 << 14)
def matches(pattern: str, subject: str) -> bool:
    """NATS wildcards: `*` is one token, `>` is one or more at the end."""
    wanted, had = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(had) > index
        if index >= len(had) or part not in ("*", had[index]):
            return False
    return len(had) == len(wanted)


class Stored(msgspec.Struct, frozen=True):
    seq: int
    subject: str
    data: bytes
    at: float  #: unix seconds


@dataclass(slots=True, eq=False)
class Durable:
    """One durable consumer of a queue: what is due when, and how often each message was delivered."""

    due_s: dict[int, float] = field(default_factory=dict)  # seq -> loop time from which it may be delivered
    deliveries: dict[int, int] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Stream:
    """An append-only list of messages with a memory for ids."""

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings
        self.messages: dict[int, Stored] = {}
        self.last_seq = 0
        self.listeners: list[Callable[[Stored], None]] = []
        self.durables: dict[str, Durable] = {}
        self._ids: dict[str, tuple[float, int]] = {}  # msg_id -> (at, seq), oldest first

    def append(self, subject: str, data: bytes, msg_id: str, at: float) -> tuple[int, bool]:
        """(sequence, was it a duplicate)."""
        self.forget(at)
        known = self._ids.get(msg_id)
        if known is not None:
            return known[1], True
        self.last_seq += 1
        stored = Stored(self.last_seq, subject, data, at)
        self.messages[stored.seq] = stored
        if msg_id:
            self._ids[msg_id] = (at, stored.seq)
        for durable in self.durables.values():
            durable.due_s[stored.seq] = 0.0
            durable.changed.set()
        for listener in list(self.listeners):
            listener(stored)
        return stored.seq, False

    def after(self, seq: int) -> list[Stored]:
        """What came after that message, oldest first."""
        found = []
        for stored in reversed(self.messages.values()):
            if stored.seq <= seq:
                break
            found.append(stored)
        return found[::-1]

    def durable(self, name: str) -> Durable:
        if name not in self.durables:
            self.durables[name] = Durable(due_s=dict.fromkeys(self.messages, 0.0))
        return self.durables[name]

    def remove(self, seq: int) -> None:
        """The message leaves a queue."""
        if self.settings.is_queue:
            self.messages.pop(seq, None)
        for durable in self.durables.values():
            durable.due_s.pop(seq, None)
            durable.deliveries.pop(seq, None)

    def forget(self, at: float) -> None:
        """What is too old is gone."""
        while self._ids:
            msg_id, (stored_at, _) = next(iter(self._ids.items()))
            if stored_at + self.settings.duplicate_window_s > at:
                break
            del self._ids[msg_id]
        while self.messages:
            seq, stored = next(iter(self.messages.items()))
            if stored.at + self.settings.max_age_s > at:
                break
            del self.messages[seq]
            self.remove(seq)


class Value(msgspec.Struct, frozen=True):
    data: bytes
    revision: int
    expires_s: float | None  #: loop time


class Table:
    """One bucket."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.revision = 0
        self.listeners: list[Callable[[str, Value | None, int], None]] = []

    def write(self, key: str, data: bytes, expected: int | None, ttl_s: float | None) -> int:
        """`expected`: the revision it must have; 0: absent; None: any. Raises Conflict."""
        loop = asyncio.get_running_loop()
        self._compare(key, expected)
        self.revision += 1
        value = Value(data, self.revision, None if ttl_s is None else loop.time() + ttl_s)
        self.values[key] = value
        if ttl_s is not None:
            loop.call_later(ttl_s, self._expire, key, value)
        self._tell(key, value)
        return value.revision

    def delete(self, key: str, expected: int | None) -> None:
        if expected is not None:
            self._compare(key, expected)
        if self.values.pop(key, None) is not None:
            self.revision += 1
            self._tell(key, None)

    def _compare(self, key: str, expected: int | None) -> None:
        present = self.values.get(key)
        found = present.revision if present is not None else 0
        if expected is not None and expected != found:
            raise Conflict(f"{key}: somebody else was first", found or None)

    def _expire(self, key: str, value: Value) -> None:
        if self.values.get(key) is value:
            self.delete(key, None)

    def _tell(self, key: str, value: Value | None) -> None:
        for listener in list(self.listeners):
            listener(key, value, self.revision)


class Broker:
    """The one server of a simulated world. Each participant has a `MemoryBus` on it."""

    def __init__(self, weather: Weather | None = None, *, started_at: float = 1_700_000_000.0) -> None:
        self.weather = weather or Weather()
        self.streams = {settings.name: Stream(settings) for settings in STREAMS}
        self.tables = {name: Table() for name in subjects.BUCKETS}
        self.up = True
        self.started_at = started_at
        self.links: dict[str, Link] = {}
        self.subscriptions: list[Subscription] = []
        self.responders: list[Responder] = []

    def now(self) -> float:
        """Unix seconds of this world."""
        return self.started_at + asyncio.get_running_loop().time()

    def stream_for(self, subject: str) -> Stream:
        """Raises StreamMissing."""
        for stream in self.streams.values():
            if matches(stream.settings.pattern, subject):
                return stream
        raise StreamMissing(f"no stream listens on {subject}")

    def stream(self, name: str) -> Stream:
        """Raises StreamMissing."""
        if name not in self.streams:
            raise StreamMissing(f"{name} does not exist")
        return self.streams[name]

    def table(self, bucket: str) -> Table:
        """Raises StreamMissing."""
        if bucket not in self.tables:
            raise StreamMissing(f"bucket {bucket} does not exist")
        return self.tables[bucket]

    def bury(self, stream: Stream, stored: Stored, deliveries: int) -> None:
        """A queue gives up on a message: it becomes a dead letter and leaves the queue."""
        *_, op, endpoint = stored.subject.split(".")
        letter = DeadLetter(
            command_id=f"{stream.settings.name}:{stored.seq}",
            op=op,
            cause="hang",
            message=f"not settled after {deliveries} deliveries",
            at=self.now(),
            deliveries=deliveries,
            stream_seq=stored.seq,
            body=stored.data.decode("utf-8", "replace"),
        )
        subject = stored.subject.replace(f".cmd.{op}.{endpoint}", f".dlq.{op}.{endpoint}")
        self.stream_for(subject).append(
            subject, msgspec.json.encode(letter), f"dlq:{stream.settings.name}:{stored.seq}", self.now()
        )
        stream.remove(stored.seq)

    def leave(self, link: Link) -> None:
        """A participant is gone, and what it listened to."""
        self.links.pop(link.name, None)
        self.subscriptions = [one for one in self.subscriptions if one.link is not link]
        self.responders = [one for one in self.responders if one.link is not link]

    # --- outages ---------------------------------------------------------------------------------------------------

    def go_down(self) -> None:
        """The server stops: everybody loses the connection, what is stored stays."""
        self.up = False
        self._tell_links()

    def come_up(self) -> None:
        self.up = True
        self._tell_links()

    def _tell_links(self) -> None:
        for link in list(self.links.values()):
            link.changed()
