"""A provider in memory."""

import asyncio
import time

import msgspec

from provisioner.provider import Machine, MachineState


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
