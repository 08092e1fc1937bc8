"""Carries out one command, from whatever point an earlier attempt reached, to its end: a fact, a refusal or a dead letter.

    claim by CAS -> record "moving" -> provider -> record settled -> event -> intent done -> (the caller acknowledges)

A crash after any of these arrows is mended by the same walk: what is already there is found and not done again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import msgspec
import structlog

from schemas.commands import AnyCommand, CreateWorker, DestroyWorker, RebootWorker, StartWorker, StopWorker, op_of
from schemas.ids import WorkerId
from schemas.reasons import Cause
from schemas.records import Failure, InstanceRecord, Intent

from . import facts, instances, plan
from .facts import Herald
from .locks import Locks
from .metrics import Metrics
from .plan import Bury, Call, Claim, Finish, Patience, Refuse, RetryIn, Settled
from .provider import Machine, Order, Permanent, Provider, ProviderError, Transient
from .store import Known, Store

log = structlog.get_logger()


class Ended(msgspec.Struct, frozen=True):
    """Carried out, refused, or settled before: acknowledge."""


class Dead(msgspec.Struct, frozen=True):
    """Its dead letter is out: terminate."""

    reason: str


Outcome = Ended | Dead | RetryIn


class Hand:
    """Raises BusUnavailable and Conflict: the command stays as it is and comes again."""

    def __init__(
        self,
        *,
        store: Store,
        herald: Herald,
        providers: Mapping[str, Provider],
        locks: Locks,
        patience: Patience,
        metrics: Metrics,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._metrics = metrics
        self._store = store
        self._herald = herald
        self._providers = providers
        self._locks = locks
        self._patience = patience
        self._now = now
        self._rng = rng

    async def carry_out(self, command: AnyCommand, body: bytes, deliveries: int) -> Outcome:
        """`body` is the command as it was sent; `deliveries` counts this attempt."""
        async with self._locks.holding(command.worker_id):
            return await self._carry_out(command, body, deliveries)

    async def give_up(self, command: AnyCommand, body: bytes, failure: Failure, deliveries: int) -> None:
        """The stream will not deliver it again: a dead letter, unless it came to its end after all and only the acknowledgement
        is missing.
        """
        async with self._locks.holding(command.worker_id):
            known = await self._store.known(command.endpoint_id, command.worker_id)
            intent = await self._store.intent(command.command_id)
            if intent is None:
                intent = await self._store.claim(command, body)
            if intent.status != plan.CLAIMED:
                return
            try:
                provider = await self._provider_for(command, known.record)
                machine = await provider.describe(command.worker_id)
            except ProviderError:
                await self._bury(command, body, intent, failure, deliveries)
                return
            match plan.act(command, now=self._now(), intent=intent, record=known.record, machine=machine):
                case Finish(machine):
                    await self._finish(command, intent, known, machine, provider.name)
                case _:
                    await self._bury(command, body, intent, failure, deliveries)

    async def _carry_out(self, command: AnyCommand, body: bytes, deliveries: int) -> Outcome:
        highest = await self._store.highest_epoch(command)
        intent = await self._store.intent(command.command_id)
        known = await self._store.known(command.endpoint_id, command.worker_id)
        match plan.admit(command, now=self._now(), highest_epoch=highest, intent=intent, record=known.record):
            case Settled():
                self._metrics.command(op_of(command), "settled")
                return Ended()
            case Refuse(reason):
                return await self._refuse(command, intent, known, None, reason)
            case Claim():
                intent = await self._store.claim(command, body)
            case _:
                pass
        assert intent is not None, "claimed or looked up"
        if self._was_never_made(command, known.record):
            return await self._finish(command, intent, known, None, _provider_name(command, known.record))
        try:
            provider = await self._provider_for(command, known.record)
            return await self._with_provider(command, intent, known, provider, deliveries)
        except Transient as error:
            match plan.after_transient(
                error, command, deliveries=deliveries, now=self._now(), patience=self._patience, chance=self._rng.random()
            ):
                case RetryIn() as retry:
                    self._metrics.command(op_of(command), "retried")
                    log.info("command_retried", command=command.command_id, cause=error.cause, delay_s=round(retry.delay_s, 1))
                    return retry
                case Bury(failure):
                    return await self._bury(command, body, intent, failure, deliveries)
        except Permanent as error:
            failure = Failure(
                cause=error.cause,
                message=error.message,
                phase=plan.phase_of(command),
                at=self._now(),
                log_tail=error.log_tail,
            )
            return await self._bury(command, body, intent, failure, deliveries)

    async def _with_provider(
        self, command: AnyCommand, intent: Intent, known: Known, provider: Provider, deliveries: int
    ) -> Outcome:
        machine = await provider.describe(command.worker_id)
        last = deliveries >= self._patience.max_deliveries
        if machine is None and not last and await self._is_being_made(command, known.record):
            return await self._call_off(command, known, deliveries)
        match plan.act(command, now=self._now(), intent=intent, record=known.record, machine=machine):
            case Refuse(reason):
                if machine is not None and plan.is_called_off(command, known.record):
                    await provider.destroy(machine.worker_id)
                    await self._herald.tell(facts.orphan_removed(machine, provider.name, self._now()))
                    log.warning("orphan_removed", worker=machine.worker_id, provider=provider.name, reason=reason)
                    machine = None
                return await self._refuse(command, intent, known, machine, reason)
            case Bury(failure):
                raise Permanent(failure.cause, failure.message)
            case Finish(machine):
                return await self._finish(command, intent, known, machine, provider.name)
            case Call():
                record = instances.moving(command, known.record, provider.name, self._now())
                known = Known(record, await self._store.save(record, known.revision))
                machine = await self._call(command, provider)
                return await self._finish(command, intent, known, machine, provider.name)

    async def _is_being_made(self, command: AnyCommand, record: InstanceRecord | None) -> bool:
        """The create that this destroy calls off has no end yet: a provisioner beside this one may be at it, and the machine be there in a
        moment.
        """
        if record is None or not plan.may_overtake(command, record):
            return False
        create = await self._store.intent(record.command_id)
        return create is not None and create.status == plan.CLAIMED

    async def _call_off(self, command: AnyCommand, known: Known, deliveries: int) -> RetryIn:
        """A tombstone now would leave a machine that costs money and that nobody counts. The record says `destroying`, so whoever creates
        it ends it.
        """
        assert known.record is not None, "somebody creates it"
        if known.record.state != instances.InstanceState.DESTROYING:
            await self._store.save(instances.called_off(known.record, command, self._now()), known.revision)
        log.info("create_called_off", command=command.command_id, create=known.record.command_id, worker=command.worker_id)
        return RetryIn(self._patience.delay_s(deliveries, self._rng.random()))

    async def _call(self, command: AnyCommand, provider: Provider) -> Machine | None:
        """A provider that hangs must not hold this worker for ever: the next attempt asks it what became of the call."""
        limit_s = self._patience.call_limit_s
        with self._metrics.call(provider.name, op_of(command)):
            try:
                async with asyncio.timeout(limit_s):
                    return await _ask(command, provider)
            except TimeoutError as error:
                raise Transient(Cause.HANG, f"provider {provider.name} did not answer within {limit_s:g} s") from error

    async def _finish(
        self, command: AnyCommand, intent: Intent, known: Known, machine: Machine | None, provider_name: str
    ) -> Outcome:
        now = self._now()
        if machine is None:
            record = instances.gone(command, known.record, provider_name, now)
        else:
            record = instances.settled(command, known.record, machine, provider_name, now)
        await self._store.save(record, known.revision)
        await self._herald.tell(facts.done(command, record, now))
        if record.failure is not None:  # it came, and has ended meanwhile
            await self._herald.tell(facts.worker_failed(record, record.failure, facts.since(record)))
        await self._store.settle(intent, plan.DONE)
        self._metrics.command(op_of(command), "done")
        log.info(
            "command_done", command=command.command_id, op=op_of(command), worker=command.worker_id, endpoint=command.endpoint_id
        )
        return Ended()

    async def _refuse(
        self, command: AnyCommand, intent: Intent | None, known: Known, machine: Machine | None, reason: str
    ) -> Outcome:
        """A claim that is refused may have moved the record: it follows the machine again, or ends where there is none."""
        record, now = known.record, self._now()
        if record is not None and instances.is_moving(record) and record.command_id == command.command_id:
            if machine is not None:
                record = instances.mirrored(machine, record, record.provider, now)
            else:
                record = instances.gone(command, record, record.provider, now)
            await self._store.save(record, known.revision)
        await self._herald.tell(facts.refused(command, reason, self._now()))
        if intent is not None:
            await self._store.settle(intent, plan.FAILED)
        self._metrics.command(op_of(command), "refused")
        log.warning("command_refused", command=command.command_id, op=op_of(command), reason=reason)
        return Ended()

    async def _bury(self, command: AnyCommand, body: bytes, intent: Intent, failure: Failure, deliveries: int) -> Outcome:
        known = await self._store.known(command.endpoint_id, command.worker_id)
        await self._herald.bury(command, body, failure, deliveries)
        if known.record is None or not instances.is_gone(known.record):
            provider = _provider_name(command, known.record)
            record = instances.failed_command(command, known.record, failure, provider, self._now())
            await self._herald.tell(facts.worker_failed(record, failure, command.command_id))
            # A create that failed left no machine, so nothing will ever need this record again.
            await self._store.save(record, known.revision, expires=isinstance(command, CreateWorker))
        await self._store.settle(intent, plan.FAILED, failure)
        self._metrics.command(op_of(command), "dead")
        self._metrics.failure(failure.cause)
        log.error("command_dead", command=command.command_id, op=op_of(command), cause=failure.cause, message=failure.message)
        return Dead(failure.cause)

    async def _provider_for(self, command: AnyCommand, record: InstanceRecord | None) -> Provider:
        if not isinstance(command, CreateWorker) and record is None:
            return await self._whoever_has(command.worker_id)
        name = _provider_name(command, record)
        if name not in self._providers:
            raise Permanent(
                Cause.NO_OFFER,
                f"provider {name!r} is not enabled here",
                hint=f"PROVISIONER_PROVIDERS lists {', '.join(sorted(self._providers))}",
            )
        return self._providers[name]

    def _was_never_made(self, command: AnyCommand, record: InstanceRecord | None) -> bool:
        """A destroy of what no provider ever made, because the one that should is not enabled here: there is nothing to end."""
        if record is None or not isinstance(command, DestroyWorker) or record.provider in self._providers:
            return False
        return record.state == instances.InstanceState.FAILED and not record.provider_ref and not record.starts

    async def _whoever_has(self, worker_id: WorkerId) -> Provider:
        """For a destroy that overtook its create, or of a machine whose record was lost. When nobody has it, any will say so."""
        for provider in self._providers.values():
            if await provider.describe(worker_id) is not None:
                return provider
        return next(iter(self._providers.values()))


async def _ask(command: AnyCommand, provider: Provider) -> Machine | None:
    match command:
        case CreateWorker():
            return await provider.create(order_of(command))
        case StartWorker():
            return await provider.start(command.worker_id)
        case StopWorker():
            return await provider.stop(command.worker_id)
        case RebootWorker():
            await provider.stop(command.worker_id)
            return await provider.start(command.worker_id)
        case DestroyWorker():
            await provider.destroy(command.worker_id)
            return None


def _provider_name(command: AnyCommand, record: InstanceRecord | None) -> str:
    if isinstance(command, CreateWorker):
        return command.provider
    return record.provider if record is not None else ""


def order_of(command: CreateWorker) -> Order:
    return Order(
        worker_id=command.worker_id,
        endpoint_id=command.endpoint_id,
        group_id=command.group_id,
        command_id=command.command_id,
        template=command.template,
        revision=command.revision,
        endpoint_name=command.endpoint_name,
        search_params=command.search_params,
        gpu_ram_gb=command.gpu_ram,
        price_cap_usd_per_hour=command.price_cap_usd_per_hour,
        avoid_hosts=command.avoid_hosts,
    )
