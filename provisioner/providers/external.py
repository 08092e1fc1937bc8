"""The provider "external": machines that people bring. They are not rented and not given back, only asked.

There is nobody to list them but ourselves, so what was enrolled (the records) is the inventory. Stopping one drains it: it
stays up and takes no tickets; starting it lets it take tickets again; destroying it forgets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from provisioner.instances import InstanceState
from provisioner.provider import LOG_TAIL_BYTES, Machine, MachineState, Offer, Order, Permanent, Transient, host_lost
from runtime.bus import Bus, BusUnavailable
from schemas import codec, subjects
from schemas.ids import WorkerId
from schemas.reasons import Cause
from schemas.records import InstanceRecord
from schemas.signals import ControlOrder, ControlReply

log = structlog.get_logger()

#: A record on its way counts as not yet there, so that an order that was cut short is given again.
_MACHINE_STATE = {
    InstanceState.RUNNING: MachineState.RUNNING,
    InstanceState.STOPPING: MachineState.RUNNING,
    InstanceState.STOPPED: MachineState.STOPPED,
    InstanceState.STARTING: MachineState.STOPPED,
    InstanceState.FAILED: MachineState.EXITED,
    InstanceState.DESTROYING: MachineState.DESTROYING,
}


class ExternalProvider:
    """Raises Transient while a machine does not answer on the bus, and BusUnavailable while there is no bus."""

    name = "external"
    preemption_notice_s: float | None = None

    def __init__(self, bus: Bus, *, timeout_s: float = 2.0) -> None:
        self._bus = bus
        self._records = bus.bucket(subjects.BUCKET_INSTANCES)
        self._timeout_s = timeout_s
        self._keys: dict[WorkerId, str] = {}

    async def offers(self, order: Order) -> Sequence[Offer]:  # noqa: ARG002 - there is nothing to search
        return ()

    async def create(self, order: Order) -> Machine:
        raise Permanent(
            Cause.NO_OFFER,
            f"group {order.group_id} takes external machines, which cannot be created",
            hint="enroll one: corral worker enroll ENDPOINT GROUP",
        )

    async def start(self, worker_id: WorkerId) -> Machine:
        return await self._ask(worker_id, ControlOrder(op="undrain", reason="start"), MachineState.RUNNING)

    async def stop(self, worker_id: WorkerId) -> Machine:
        return await self._ask(worker_id, ControlOrder(op="drain", reason="stop"), MachineState.STOPPED)

    async def destroy(self, worker_id: WorkerId) -> str:
        """Forgetting needs no consent: a machine that answers drains, one that does not is forgotten all the same."""
        if await self._find(worker_id) is not None:
            try:
                await self._order(worker_id, ControlOrder(op="drain", reason="it leaves the endpoint"))
            except Transient as error:
                log.info("external_worker_silent", worker=worker_id, error=error.message)
        self._keys.pop(worker_id, None)
        return ""

    async def inventory(self) -> Sequence[Machine]:
        found = []
        for entry in await self._records.all():
            record = codec.instance_record(entry.data)
            if record.provider == self.name and record.state in _MACHINE_STATE:
                self._keys[record.worker_id] = entry.key
                found.append(_machine(record))
        return found

    async def describe(self, worker_id: WorkerId) -> Machine | None:
        record = await self._find(worker_id)
        return None if record is None else _machine(record)

    async def log_tail(self, worker_id: WorkerId, limit_bytes: int = LOG_TAIL_BYTES) -> str:  # noqa: ARG002 - not ours to read
        return ""

    async def watch(self, changed: Callable[[WorkerId], None]) -> None:  # noqa: ARG002 - heartbeats tell, to the scaler
        await asyncio.Event().wait()

    async def _ask(self, worker_id: WorkerId, order: ControlOrder, then: MachineState) -> Machine:
        record = await self._find(worker_id)
        if record is None:
            raise host_lost(self.name, worker_id)
        reply = await self._order(worker_id, order)
        if not reply.ok:
            raise Transient(Cause.HANG, f"worker {worker_id} refuses to {order.op}: {reply.message}")
        return _machine(record, then)

    async def _order(self, worker_id: WorkerId, order: ControlOrder) -> ControlReply:
        try:
            answer = await self._bus.request(subjects.control(worker_id), codec.encode(order), self._timeout_s)
        except BusUnavailable as error:
            raise Transient(
                Cause.HEARTBEAT_LOST, f"external worker {worker_id} does not answer", hint="is its PyWorker running?"
            ) from error
        try:
            return codec.decode(answer, ControlReply)
        except codec.DecodeError as error:
            raise Transient(Cause.PROTOCOL_MISMATCH, f"worker {worker_id} answers in words we do not know: {error}") from error

    async def _find(self, worker_id: WorkerId) -> InstanceRecord | None:
        if worker_id not in self._keys:
            await self.inventory()
        if worker_id not in self._keys:
            return None
        entry = await self._records.get(self._keys[worker_id])
        record = None if entry is None else codec.instance_record(entry.data)
        return record if record is not None and record.state in _MACHINE_STATE else None


def _machine(record: InstanceRecord, state: MachineState | None = None) -> Machine:
    state = state or _MACHINE_STATE[InstanceState(record.state)]
    return Machine(
        worker_id=record.worker_id,
        endpoint_id=record.endpoint_id,
        group_id=record.group_id,
        command_id=record.command_id,
        state=state,
        provider_ref=record.provider_ref,
        template=record.template,
        revision=record.revision,
        url=record.url,
        host=record.host,
        gpu_name=record.gpu_name,
        num_gpus=record.num_gpus,
        usd_per_hour=record.usd_per_hour,
        storage_usd_per_hour=record.storage_usd_per_hour,
        created_at=record.created_at,
        started_at=record.state_at,
        starts=record.starts,
        mtoken_sha256=record.mtoken_sha256,
        failure=record.failure if state is MachineState.EXITED else None,
        gone_at=record.gone_at,
    )
