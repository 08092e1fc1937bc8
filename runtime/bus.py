"""The bus, as the rooms see it: what they may say and hear, with no word about who carries it.

`runtime.nats_bus` carries it on a real nats-server; `sim.bus` in memory and in virtual time. Both keep these promises:

- publish/subscribe: at most once, in order per subject and connection; callbacks are plain functions that must not block.
- append: stored before it returns; the same msg_id within the stream's window is stored once.
- buckets: read-your-writes by leader reads; create/update are compare-and-set and raise Conflict.
- work queues: at least once; a message is gone only after ack, term, or its dead letter.

Errors: BusUnavailable (try again later: nothing is known about the outcome), Conflict (somebody else was first).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from .errors import BusUnavailable, Conflict

__all__ = ["Appended", "Bucket", "Bus", "BusUnavailable", "Conflict", "Delivery", "Entry", "Message", "View"]


class Message(msgspec.Struct, frozen=True):
    subject: str
    data: bytes


class Appended(msgspec.Struct, frozen=True):
    seq: int
    duplicate: bool = False


class Entry(msgspec.Struct, frozen=True):
    """One value of a bucket. `revision` is what update() and delete() compare with."""

    key: str
    data: bytes
    revision: int


class Bucket(Protocol):
    """One key-value bucket. Keys are tokens joined by dots."""

    name: str

    async def get(self, key: str) -> Entry | None:
        """The newest value by the stream's leader; None when absent, deleted or expired."""
        ...

    async def put(self, key: str, data: bytes, *, ttl_s: int | None = None) -> int:
        """Write without comparing; returns the revision."""
        ...

    async def create(self, key: str, data: bytes, *, ttl_s: int | None = None) -> int:
        """Write only if absent (deleted and expired count as absent). Raises Conflict."""
        ...

    async def update(self, key: str, data: bytes, revision: int, *, ttl_s: int | None = None) -> int:
        """Write only if the newest revision is this one. Raises Conflict."""
        ...

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Remove; with a revision only if it is the newest (Conflict otherwise). Absent is fine."""
        ...

    async def all(self, prefix: str = "") -> list[Entry]:
        """A snapshot of all present keys that start with the prefix; complete as of the call."""
        ...


OnChange = Callable[[str, "bytes | None", int], None]
"""(key, value or None when gone, revision). Runs on the event loop; must not block."""


class View(Protocol):
    """A live local mirror of one bucket. Survives restarts, failovers and re-creation of the bucket; while the bus is away
    it keeps what it has (fail static).
    """

    @property
    def map(self) -> Mapping[str, Entry]: ...

    @property
    def synced(self) -> bool:
        """True once a complete snapshot was seen; stays true while serving an old map."""
        ...

    @property
    def age_s(self) -> float:
        """Seconds since the server last proved the feed alive."""
        ...

    async def wait_synced(self, timeout_s: float) -> None:
        """Raises TimeoutError."""
        ...


class Delivery(Protocol):
    """One message of a work queue, until it is settled by exactly one of ack, retry, term."""

    subject: str
    data: bytes
    seq: int  #: in the stream
    deliveries: int  #: 1 for the first time

    async def ack(self) -> None:
        """Done; returns when the server has it. Raises BusUnavailable."""
        ...

    async def retry(self, delay_s: float) -> None:
        """Again later."""
        ...

    async def term(self, reason: str) -> None:
        """Never again. Publish a dead letter first."""
        ...

    async def working(self) -> None:
        """Still at it; restarts the ack timer."""
        ...


class Subscription(Protocol):
    async def stop(self) -> None: ...


class Bus(Protocol):
    """One participant's connection(s)."""

    name: str  #: unique among the live; a token; part of subjects the participant may publish on

    @property
    def connected(self) -> bool: ...

    async def publish(self, subject: str, data: bytes) -> None:
        """Core, at most once. Raises BusUnavailable at once when not connected; never buffers for later."""
        ...

    async def subscribe(self, subject: str, on_message: Callable[[Message], None]) -> Subscription: ...

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Raises BusUnavailable when nobody answers in time."""
        ...

    async def respond(self, subject: str, answer: Callable[[Message], Awaitable[bytes]]) -> Subscription:
        """Serve requests on a subject."""
        ...

    async def append(
        self, subject: str, data: bytes, *, msg_id: str, ttl_s: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Appended:
        """Store in the stream that listens on the subject; tries again with the same msg_id for a few seconds.
        Raises BusUnavailable when that did not help.
        """
        ...

    def bucket(self, name: str) -> Bucket: ...

    def view(self, name: str, on_change: OnChange | None = None) -> AbstractAsyncContextManager[View]:
        """Mirror a bucket for as long as the context is open."""
        ...

    async def work(
        self, stream: str, durable: str, handle: Callable[[Delivery], Awaitable[None]], *, concurrency: int = 8
    ) -> None:
        """Pull and handle until cancelled; at most `concurrency` at a time. A handler that raises is logged and its message
        comes again by the consumer's backoff.
        """
        ...

    async def tail(
        self,
        stream: str,
        subjects: Sequence[str],
        on_message: Callable[[str, bytes, int], None],
        *,
        since_at: float | None = None,
        room: Callable[[], Awaitable[None]] | None = None,
        caught_up: Callable[[], None] | None = None,
    ) -> None:
        """Read a stream from `since_at` (unix seconds; None: only new) and follow it until cancelled: (subject, data, seq).

        `room` is awaited before more is read, so that a slow reader need not hold all of it; `caught_up` is called each time all
        that was there has been told.
        """
        ...

    async def close(self) -> None: ...
