"""Makes records and reality agree: once at the start, then every few seconds, and at once when a provider gives a hint.

A provider that does not answer is skipped: no answer is not an empty answer, and nothing is lost or orphaned by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec
import structlog

from runtime.errors import BusError
from schemas import codec
from schemas.ids import WorkerId
from schemas.records import InstanceRecord, Intent

from . import facts, instances, plan
from .compare import Adopt, Agree, Correct, Finding, NoteFailure, RemoveOrphan, Settle, compare
from .facts import Herald
from .hand import Hand
from .locks import Locks
from .metrics import Metrics
from .provider import Machine, MachineState, Provider, ProviderError
from .store import Known, Store

log = structlog.get_logger()


BUSY_S = 0.2  #: before a hint about a worker that a command holds is followed again


class Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and how patiently."""

    every_s: float = 10.0
    orphan_grace_s: float = 15.0  #: an orphan must be seen for this long before it is removed
    abandoned_s: float = 90.0  #: a claim that is older was left by a provisioner that died
    claims_every_s: float = 300.0  #: how often all claims are read, for those that got no further than that
    at_once: int = 8  #: workers mended at the same time


class Reconciler:
    """Cancel run() to stop it."""

    def __init__(
        self,
        *,
        store: Store,
        herald: Herald,
        hand: Hand,
        providers: Mapping[str, Provider],
        locks: Locks,
        metrics: Metrics,
        owner: str,
        now: Callable[[], float],
        rhythm: Rhythm,
    ) -> None:
        self._store = store
        self._herald = herald
        self._hand = hand
        self._providers = providers
        self._locks = locks
        self._metrics = metrics
        self._owner = owner
        self._now = now
        self._rhythm = rhythm
        self._began_at = now()
        self._claims_read_at = float("-inf")
        self._orphan_since: dict[WorkerId, float] = {}
        self._hinted: set[WorkerId] = set()
        self._woken = asyncio.Event()

    def hint(self, worker_id: WorkerId) -> None:
        """Something happened to this worker: look soon."""
        self._hinted.add(worker_id)
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self.once()
            except BusError as error:
                self._hinted.clear()
                log.warning("reconcile_postponed", error=error.message)
            try:
                async with asyncio.timeout(BUSY_S if self._hinted else self._rhythm.every_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def once(self) -> None:
        """One round over every worker of every provider. Raises BusError."""
        # Records first: a worker created between the two reads is then a machine without a record, which is checked
        # again under its lock, and never a record without a machine.
        records = await self._store.all_known()
        self._metrics.workers(records.values())
        machines, silent = await self._inventories()
        self._orphan_since = {worker: at for worker, at in self._orphan_since.items() if worker in machines}
        # What a command holds now is looked at once it lets go.
        self._hinted = {worker_id for worker_id in self._hinted if self._locks.is_held(worker_id)}
        hands = asyncio.Semaphore(self._rhythm.at_once)
        claims = await self._abandoned_claims()  # before the group, which would wrap what it raises
        async with asyncio.TaskGroup() as tasks:
            for intent in claims:
                tasks.create_task(self._try(hands, intent.worker_id, partial(self._settle, intent)))
            for worker_id in sorted(records.keys() | machines.keys()):
                record = records.get(worker_id)
                machine, provider = machines.get(worker_id) or (None, self._provider_of(record))
                if provider is None or provider.name in silent or self._locks.is_held(worker_id):
                    continue
                tasks.create_task(self._try(hands, worker_id, partial(self._mend, worker_id, provider, record, machine)))

    async def _inventories(self) -> tuple[dict[WorkerId, tuple[Machine, Provider]], set[str]]:
        """What all providers have, and the names of those that did not say."""
        machines: dict[WorkerId, tuple[Machine, Provider]] = {}
        silent: set[str] = set()
        for provider in self._providers.values():
            try:
                machines |= {machine.worker_id: (machine, provider) for machine in await provider.inventory()}
            except ProviderError as error:
                silent.add(provider.name)
                log.warning("provider_silent", provider=provider.name, error=error.message)
        return machines, silent

    def _provider_of(self, record: InstanceRecord | None) -> Provider | None:
        return self._providers.get(record.provider) if record is not None else None

    async def _try(self, hands: asyncio.Semaphore, worker_id: WorkerId, mend: Callable[[], Awaitable[None]]) -> None:
        """What cannot be mended now is found again in the next round, and keeps nobody else from being mended."""
        async with hands:
            try:
                await mend()
            except (ProviderError, BusError) as error:
                log.warning("reconcile_failed", worker=worker_id, error=error.message)
            except Exception:
                log.exception("reconcile_failed", worker=worker_id)

    async def _mend(
        self, worker_id: WorkerId, provider: Provider, record: InstanceRecord | None, machine: Machine | None
    ) -> None:
        if isinstance(await self._compared(record, machine), Agree):
            return
        about = record if record is not None else machine
        assert about is not None, "one of them was seen"
        async with self._locks.holding(worker_id):
            # Both may have moved since the round began: what counts is read under the lock.
            known = await self._store.known(about.endpoint_id, worker_id)
            machine = await provider.describe(worker_id)
            finding = await self._compared(known.record, machine)
            if not isinstance(finding, Settle):
                await self._apply(finding, provider, known)
                return
        await self._settle(finding.intent)

    async def _compared(self, record: InstanceRecord | None, machine: Machine | None) -> Finding:
        intent, wanted = None, True
        if record is not None and instances.is_moving(record):
            intent = await self._store.intent(record.command_id)
        elif record is None and machine is not None:
            intent = await self._store.intent(machine.command_id)
            wanted = await self._store.is_wanted(machine.endpoint_id, machine.group_id)
        return compare(record, machine, intent=intent, wanted=wanted, now=self._now(), abandoned_s=self._patience_with(intent))

    def _patience_with(self, intent: Intent | None) -> float:
        """A claim of our own name from before our start is nobody's any more."""
        former_life = intent is not None and intent.owner == self._owner and intent.at < self._began_at
        return 0.0 if former_life else self._rhythm.abandoned_s

    async def _apply(self, finding: Finding, provider: Provider, known: Known) -> None:
        now = self._now()
        match finding:
            case Adopt(machine):
                record = instances.mirrored(machine, known.record, provider.name, now)
                await self._herald.tell(facts.adopted(machine, known.record, provider.name, now))
                await self._store.save(record, known.revision)
                log.warning("worker_adopted", worker=machine.worker_id, provider=provider.name, state=record.state)
            case RemoveOrphan(machine, reason):
                await self._remove_orphan(machine, provider, reason)
            case NoteFailure(failure):
                assert known.record is not None, "only a known worker fails"
                record = instances.failed(known.record, failure, now)
                await self._herald.tell(facts.worker_failed(record, failure, facts.since(known.record)))
                has_machine = await provider.describe(record.worker_id) is not None
                await self._store.save(record, known.revision, expires=not has_machine)
                self._metrics.failure(failure.cause)
                log.warning("worker_failed", worker=record.worker_id, cause=failure.cause, message=failure.message)
            case Correct(machine):
                record = instances.mirrored(machine, known.record, provider.name, now)
                if machine.state is MachineState.STOPPED:
                    await self._herald.tell(facts.stopped(machine, known.record, now))
                await self._store.save(record, known.revision)
                log.info("instance_corrected", worker=machine.worker_id, state=record.state)
            case _:
                pass

    async def _remove_orphan(self, machine: Machine, provider: Provider, reason: str) -> None:
        since = self._orphan_since.setdefault(machine.worker_id, self._now())
        if self._now() - since < self._rhythm.orphan_grace_s:
            return
        await provider.destroy(machine.worker_id)
        await self._herald.tell(facts.orphan_removed(machine, provider.name, self._now()))
        log.warning("orphan_removed", worker=machine.worker_id, provider=provider.name, reason=reason)

    async def _abandoned_claims(self) -> list[Intent]:
        """Claims whose provisioner died and whose message may be gone. Most are found by a record on its way; these are read for
        those that never came so far.
        """
        if self._now() - self._claims_read_at < self._rhythm.claims_every_s:
            return []
        claims = await self._store.claimed()
        self._claims_read_at = self._now()
        return [
            intent
            for intent in claims
            if self._now() - intent.at >= self._patience_with(intent) and not self._locks.is_held(intent.worker_id)
        ]

    async def _settle(self, intent: Intent) -> None:
        try:
            command = codec.command(intent.body.encode())
        except codec.DecodeError:
            command = None
        if command is None or isinstance(command, codec.Unknown):
            log.error("claim_unreadable", command=intent.command_id)
            await self._store.settle(intent, plan.FAILED)
            return
        log.info("claim_resumed", command=intent.command_id, op=intent.op, owner=intent.owner)
        await self._hand.carry_out(command, intent.body.encode(), intent.attempts)
