"""The provisioner: takes commands from their stream and sees each to its end.

CORRAL_CMD -> decode -> Hand.carry_out -> ack | retry | term
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from runtime.bus import Bus, BusUnavailable, Conflict, Delivery
from runtime.errors import CorralError
from schemas import subjects
from schemas.reasons import Cause

from . import plan
from .dead_letters import DeadLetters
from .enroll import Enrollment
from .facts import Herald
from .hand import Dead, Ended, Hand
from .plan import RetryIn
from .provider import Provider
from .reconcile import Reconciler

WORKING_EVERY_S = 10.0  #: well under the consumer's ack wait of 30 s
LOST_RACE_RETRY_S = 1.0
CONCURRENCY = 16


class Provisioner:
    """Cancel run() to stop it; workers stay as they are. A command that is cut short is resumed at the next start."""

    def __init__(
        self,
        *,
        bus: Bus,
        herald: Herald,
        hand: Hand,
        reconciler: Reconciler,
        enrollment: Enrollment,
        dead_letters: DeadLetters | None,
        providers: Mapping[str, Provider],
    ) -> None:
        self._bus = bus
        self._herald = herald
        self._hand = hand
        self._reconciler = reconciler
        self._enrollment = enrollment
        self._dead_letters = dead_letters
        self._providers = providers

    async def run(self) -> None:
        """Raises what ended it: StreamMissing when there is nothing to work on, BusRefused when it is not ours to work."""
        enrolling = await self._bus.respond(subjects.ENROLL, self._enrollment.answer)
        try:
            await self._all_tasks()
        except ExceptionGroup as group:
            ours, others = group.split(CorralError)
            if ours is None or others is not None:
                raise
            # Made for people: the first says it, without the wrapping; the others mostly say the same.
            raise next(iter(ours.exceptions)) from None
        finally:
            await enrolling.stop()

    async def _all_tasks(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._work(), name="commands")
            tasks.create_task(self._reconciler.run(), name="reconcile")
            if self._dead_letters is not None:
                tasks.create_task(self._dead_letters.run(), name="dead letters")
            for provider in self._providers.values():
                tasks.create_task(provider.watch(self._reconciler.hint), name=f"watch {provider.name}")

    async def reconcile_once(self) -> None:
        """One round of making records and reality agree, outside run(). Raises BusError."""
        await self._reconciler.once()

    async def _work(self) -> None:
        await self._bus.work(subjects.STREAM_COMMANDS, subjects.CONSUMER_PROVISIONER, self.handle, concurrency=CONCURRENCY)

    async def handle(self, delivery: Delivery) -> None:
        """One delivery to its settlement. Raises BusUnavailable: nothing is settled and the message comes again."""
        async with _kept_working(delivery):
            command = plan.read(delivery.data, delivery.subject)
            if isinstance(command, str):
                await self._herald.bury_unreadable(delivery.subject, delivery.data, delivery.seq, delivery.deliveries, command)
                await delivery.term(Cause.PROTOCOL_MISMATCH)
                return
            try:
                outcome = await self._hand.carry_out(command, delivery.data, delivery.deliveries)
            except Conflict:
                # Another provisioner wrote in between: look again at what it did.
                outcome = RetryIn(LOST_RACE_RETRY_S)
        match outcome:
            case Ended():
                await delivery.ack()
            case RetryIn(delay_s):
                await delivery.retry(delay_s)
            case Dead(reason):
                await delivery.term(reason)


@asynccontextmanager
async def _kept_working(delivery: Delivery) -> AsyncIterator[None]:
    """Tells the stream that we are still at it, for as long as the body runs."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(WORKING_EVERY_S)
            try:
                await delivery.working()
            except BusUnavailable:
                continue  # at worst it is delivered twice, and the claim sees to that

    telling = asyncio.create_task(tell(), name="working")
    try:
        yield
    finally:
        telling.cancel()
