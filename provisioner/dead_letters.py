"""Commands that the stream stopped delivering: moved to CORRAL_DLQ, so that none is lost quietly.

A command whose every delivery ended in a crash stays in its stream, and nobody gets to see it. An advisory names its place;
it is read there, buried with a cause and taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from runtime.bus import Bus, Delivery
from schemas import codec, subjects
from schemas.commands import op_of
from schemas.reasons import Cause
from schemas.records import Failure

from . import plan
from .facts import Herald
from .hand import Hand

log = structlog.get_logger()

_MAX_DELIVERIES = "MAX_DELIVERIES"


class StoredMessage(Protocol):
    @property
    def subject(self) -> str: ...
    @property
    def data(self) -> bytes: ...


class Streams(Protocol):
    """The care of the streams themselves (runtime.nats_bus.NatsBus)."""

    async def stored(self, stream: str, seq: int) -> StoredMessage | None: ...
    async def remove(self, stream: str, seq: int) -> bool: ...


class Advisory(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says about a message it gives up or was told to terminate."""

    stream: str
    stream_seq: int
    deliveries: int = 0


class DeadLetters:
    """Works the advisories of CORRAL_CMD. Cancel run() to stop it."""

    def __init__(self, *, bus: Bus, streams: Streams, herald: Herald, hand: Hand, now: Callable[[], float]) -> None:
        self._bus = bus
        self._streams = streams
        self._herald = herald
        self._hand = hand
        self._now = now

    async def run(self) -> None:
        await self._bus.work(subjects.STREAM_ADVISORIES, subjects.CONSUMER_DLQ, self.handle, concurrency=2)

    async def handle(self, delivery: Delivery) -> None:
        """Raises BusUnavailable: the advisory comes again."""
        if _MAX_DELIVERIES in delivery.subject.split("."):
            try:
                await self._move(codec.decode(delivery.data, Advisory))
            except codec.DecodeError as error:
                log.error("advisory_unreadable", subject=delivery.subject, error=str(error))  # noqa: TRY400 - the server's, not ours
        # A terminated command was buried before it was terminated.
        await delivery.ack()

    async def _move(self, advisory: Advisory) -> None:
        if advisory.stream != subjects.STREAM_COMMANDS:
            return
        message = await self._streams.stored(advisory.stream, advisory.stream_seq)
        if message is None:
            return
        command = plan.read(message.data, message.subject)
        if isinstance(command, str):
            await self._herald.bury_unreadable(message.subject, message.data, advisory.stream_seq, advisory.deliveries, command)
        else:
            failure = Failure(
                cause=Cause.HANG,
                message=f"{op_of(command)} was begun {advisory.deliveries} times and never came to an end",
                phase=plan.phase_of(command),
                at=self._now(),
            )
            await self._hand.give_up(command, message.data, failure, advisory.deliveries)
        await self._streams.remove(advisory.stream, advisory.stream_seq)
        log.error("command_moved_to_dead_letters", stream_seq=advisory.stream_seq, deliveries=advisory.deliveries)
