"""Tells workers to drain and to go on. The routers' view decides who gets tickets; this only spares a worker what is late.

Level-triggered: whoever should drain and has not confirmed is told again, whoever drains and should not is told to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from runtime.bus import Bus
from runtime.errors import BusError
from schemas import codec, subjects
from schemas.ids import EndpointId, WorkerId
from schemas.signals import ControlOrder, ControlReply
from schemas.states import WorkerState

from .desk import Desk
from .observations import DrainTold
from .types import WorkerFact

log = structlog.get_logger()

_EVERY_S = 0.25
_ANSWER_S = 2.0
_AGAIN_S = 2.0


class Teller:
    """run() until cancelled."""

    def __init__(self, bus: Bus, desks: dict[EndpointId, Desk], now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._bus = bus
        self._desks = desks
        self._now = now
        self._monotonic = monotonic
        self._asking: set[WorkerId] = set()
        self._asked_at: dict[WorkerId, float] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                for desk, worker, order in self._pending():
                    self._asking.add(worker.worker_id)
                    self._asked_at[worker.worker_id] = self._monotonic()
                    tasks.create_task(self._tell(desk, worker.worker_id, order), name=f"{order.op} {worker.worker_id}")
                await asyncio.sleep(_EVERY_S)

    def _pending(self) -> list[tuple[Desk, WorkerFact, ControlOrder]]:
        found = []
        draining = set()
        for desk in self._desks.values():
            for worker in desk.state.workers.values():
                order = self._order(desk, worker)
                if order is None:
                    continue
                draining.add(worker.worker_id)
                if (
                    worker.worker_id not in self._asking
                    and self._monotonic() >= self._asked_at.get(worker.worker_id, float("-inf")) + _AGAIN_S
                ):
                    found.append((desk, worker, order))
        self._asked_at = {wid: at for wid, at in self._asked_at.items() if wid in draining}
        return found

    def _order(self, desk: Desk, worker: WorkerFact) -> ControlOrder | None:
        beat = desk.beats.get(worker.worker_id)
        if beat is not None and beat.via:
            return None  # it hears no orders; no more tickets is all that it needs
        if worker.drain is not None and worker.state is WorkerState.DRAINING and worker.drain.shown_at is not None:
            if worker.drain.told:
                return None
            left_s = max(0.0, worker.drain.deadline_at - self._now())
            return ControlOrder(op="drain", deadline_s=left_s, reason=str(worker.drain.why))
        is_back = worker.drain is None and worker.undrained_at > 0 and worker.state is WorkerState.READY
        if is_back and beat is not None and beat.state is WorkerState.DRAINING:
            return ControlOrder(op="undrain", reason="needed again")
        return None

    async def _tell(self, desk: Desk, worker_id: WorkerId, order: ControlOrder) -> None:
        try:
            answer = await self._bus.request(subjects.control(worker_id), codec.encode(order), _ANSWER_S)
            reply = codec.decode(answer, ControlReply)
        except (BusError, msgspec.DecodeError) as error:
            log.info("worker_not_told", worker=worker_id, op=order.op, error=str(error))
        else:
            log.info("worker_told", worker=worker_id, op=order.op, ok=reply.ok, inflight=reply.inflight)
            if reply.ok and order.op == "drain":
                desk.fold(DrainTold(at=self._now(), worker_id=worker_id, draining=True))
        finally:
            self._asking.discard(worker_id)
