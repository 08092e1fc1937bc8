"""The router's own code: its switchboard, as in production, with facts, sweeps and gossip at the production's rhythm."""

from __future__ import annotations

from router.desk import Placement
from router.reporting import GOSSIP_EVERY_S
from router.reservations import PROMISE_TTL_S
from router.switchboard import Switchboard
from router.view import Pulse
from schemas.http import RouteRequest
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.records import EndpointRecord, Template, WorkerGroup, WorkerRecord
from schemas.signals import Promised, Reservations
from schemas.states import WorkerState
from sim import chance
from sim.workload import SECOND_US

from .arena import Given, Report, Router

EP, GROUP, NAME = EndpointId(1), GroupId(1), "arena"


class Ours:
    """One production router without its sockets."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._numbers = 0
        self._seq = 0
        self._tickets: dict[WorkerId, list[float]] = {}
        self._board = Switchboard(router=f"router-{given.number}", max_held=100_000, new_idx=self._new_idx)
        group = WorkerGroup(id=GROUP, template=Template(name="model"))
        self._desk = self._board.endpoint(EndpointRecord(id=EP, name=NAME, groups=(group,)), 0.0)
        for number, perf in enumerate(given.pool.perf):
            self._board.worker(
                WorkerRecord(
                    worker_id=_id(number),
                    endpoint_id=EP,
                    group_id=GROUP,
                    state=WorkerState.READY,
                    url=f"http://{_id(number)}",
                    perf=perf,
                    slots=given.pool.slots,
                    boot="b",
                ),
                0.0,
            )

    def arrive(self, request: int, units: float, now_us: int) -> None:
        now = now_us / SECOND_US
        asked = self._board.begin(self._desk, RouteRequest(endpoint=NAME, cost=units), now, now)
        placement = self._board.place(self._desk, asked, now)
        if placement is not None:
            self._sent(request, placement, units, now_us)
            return

        def wake(placement: Placement | None) -> None:
            assert placement is not None, "nobody stops this router"
            self._sent(request, placement, units, self._now_us)

        assert self._board.listen(self._desk, asked, wake)

    def report(self, report: Report, now_us: int) -> None:
        self._now_us = now_us
        self._seq += 1
        pool = self._given.pool
        pulse = Pulse(
            worker_id=_id(report.worker),
            endpoint_id=EP,
            boot="b",
            seq=self._seq,
            sent_at=report.sent_us / SECOND_US,
            state=WorkerState.READY,
            url=f"http://{_id(report.worker)}",
            perf=pool.perf[report.worker],
            slots=pool.slots,
            load=report.units,
            inflight=min(report.here, pool.slots),
            queued=max(0, report.here - pool.slots),
            requests_total=report.arrived,
        )
        self._board.pulse(pulse, now_us / SECOND_US)

    def tick(self, now_us: int) -> None:
        self._now_us = now_us
        self._board.sweep(now_us / SECOND_US)

    def completed(self, request: int, worker: int, now_us: int) -> None:
        """A router does not see it."""

    def told(self, message: object, now_us: int) -> None:
        """A peer gave out tickets."""
        assert isinstance(message, Reservations)
        self._now_us = now_us
        self._board.reservations(EP, message, now_us / SECOND_US)

    def _sent(self, request: int, placement: Placement, units: float, now_us: int) -> None:
        self._now_us = now_us
        if not self._tickets:
            self._given.after(round(GOSSIP_EVERY_S * SECOND_US), self._gossip)
        told = self._tickets.setdefault(placement.worker.id, [0, 0.0])
        told[0] += 1
        told[1] += units
        self._given.send(request, int(placement.worker.id[1:]))

    def _gossip(self, _now_us: int) -> None:
        """As router.reporting does."""
        promised = {worker: Promised(int(count), units) for worker, (count, units) in self._tickets.items()}
        self._tickets = {}
        self._given.tell_peers(Reservations(router=f"router-{self._given.number}", workers=promised, ttl_s=PROMISE_TTL_S))

    def _new_idx(self) -> int:
        self._numbers += 1
        return chance.mix(self._given.seed * 1_000_003 + self._given.number * 7919 + self._numbers) >> 11 or 1


def _id(number: int) -> WorkerId:
    return WorkerId(f"w{number}")


def make(given: Given) -> Router:
    return Ours(given)
