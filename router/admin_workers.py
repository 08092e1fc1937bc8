"""Workers over HTTP: what this router sees of them, what an operator may ask for, and machines that somebody brings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

from runtime.bus import Bus
from runtime.errors import BusUnavailable
from schemas import codec, commands, ids, subjects
from schemas.http import ErrorCode
from schemas.ids import CommandId, EndpointId, GroupId
from schemas.reasons import Why
from schemas.signals import EnrollReply, EnrollRequest
from schemas.states import vast_status

from . import problems
from .calls import Call, Table, reply
from .desk import Desk
from .problems import HttpProblem
from .switchboard import Switchboard
from .view import Standing, Worker

COMMAND_LIFE_S = 300.0
ENROLL_TIMEOUT_S = 5.0
#: What an operator may ask for, by hand. Draining is how a worker goes from hot to cold.
Order = commands.StopWorker | commands.StartWorker | commands.RebootWorker | commands.DestroyWorker
ORDERS: dict[str, type[Order]] = {
    "drain": commands.StopWorker,
    "start": commands.StartWorker,
    "reboot": commands.RebootWorker,
    "destroy": commands.DestroyWorker,
}


class OrderFields(msgspec.Struct, frozen=True, kw_only=True):
    reason: str = ""


class OfEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    id: int


class EnrollFields(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoint by name or number, its group by number; without a group the endpoint's only one."""

    endpoint: str | int
    group: int | str | None = None
    url: str = ""
    ttl_s: float = 365 * 86400.0


class WorkerAdmin:
    """`now` is unix s, `monotonic` the switchboard's clock."""

    def __init__(self, bus: Bus, board: Switchboard, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._bus = bus
        self._board = board
        self._now = now
        self._monotonic = monotonic

    def add_to(self, table: Table) -> None:
        table.add("POST", "/get_endpoint_workers/", self.of_endpoint)
        table.add("GET", "/api/v1/workers/", self.list_all)
        table.add("GET", "/api/v1/workers/{id}", self.get)
        table.add("POST", "/api/v1/workers/{id}/{order}", self.order)
        table.add("POST", "/api/v1/enroll", self.enroll)

    async def of_endpoint(self, call: Call) -> web.Response:
        """Vast's: a bare list."""
        who = await call.who()
        desk = self._board.desks.get(EndpointId((await call.json(OfEndpoint)).id))
        if desk is None:
            raise problems.no_endpoint("of this id")
        if not who.may_route(desk.id):
            raise problems.forbidden(f"see the workers of endpoint {desk.name}")
        return reply([self._as_vast(worker) for worker in desk.fleet.workers.values()])

    async def list_all(self, call: Call) -> web.Response:
        await call.admin("list workers")
        named = call.request.query.get("endpoint")
        desks: Iterable[Desk] = self._board.desks.values()
        if named is not None:
            desks = [desk for desk in desks if named in (desk.name, str(desk.id))]
            if not desks:
                raise problems.no_endpoint(named)
        return reply({"success": True, "results": [self._shown(w, desk) for desk in desks for w in desk.fleet.workers.values()]})

    async def get(self, call: Call) -> web.Response:
        await call.admin("read workers")
        worker, desk = self._find(call.params["id"])
        return reply({"success": True, "result": self._shown(worker, desk)})

    async def order(self, call: Call) -> web.Response:
        by = await call.admin("command workers")
        kind = ORDERS.get(call.params["order"])
        if kind is None:
            raise problems.not_found(call.request.path, f"An operator may ask for {', '.join(ORDERS)}.")
        fields = await call.json(OrderFields)
        worker, desk = self._find(call.params["id"])
        at = self._now()
        command = kind(
            # Asked twice within a second is asked once.
            command_id=CommandId(f"{ids.endpoint_token(desk.id)}.op{int(at)}.{worker.id}-{call.params['order']}"),
            endpoint_id=desk.id,
            worker_id=worker.id,
            group_id=worker.group_id,
            issued_at=at,
            deadline_at=at + COMMAND_LIFE_S,
            issued_by=f"operator:{by.key_id}",
            why=Why.MANUAL,
            reason=fields.reason or f"an operator asked to {call.params['order']} it",
        )
        await self._bus.append(
            subjects.command(commands.op_of(command), desk.id), codec.encode(command), msg_id=command.command_id
        )
        return reply({"success": True, "command_id": command.command_id, "worker_id": worker.id}, 202)

    async def enroll(self, call: Call) -> web.Response:
        await call.admin("enroll workers")
        fields = await call.json(EnrollFields)
        desk, group_id = self._group_of(fields)
        request = EnrollRequest(endpoint_id=desk.id, group_id=group_id, url=fields.url, ttl_s=fields.ttl_s)
        try:
            data = await self._bus.request(subjects.ENROLL, codec.encode(request), ENROLL_TIMEOUT_S)
        except BusUnavailable as error:
            raise problems.unavailable(
                "The provisioner does not answer", "Start it (python -m provisioner), or look into its log; then try again."
            ) from error
        answer = codec.decode(data, EnrollReply)
        if not answer.ok:
            raise HttpProblem(409, ErrorCode.CONFLICT, f"The provisioner refused: {answer.message}")
        return reply({"success": True, "worker_id": answer.worker_id, "token": answer.token, "msg": answer.message})

    def _group_of(self, fields: EnrollFields) -> tuple[Desk, GroupId]:
        desk = next((d for d in self._board.desks.values() if str(fields.endpoint) in (d.name, str(d.id))), None)
        if desk is None:
            raise problems.no_endpoint(fields.endpoint)
        groups = desk.record.groups
        if fields.group is None:
            if len(groups) != 1:
                raise problems.bad_fields({"group": f"is required: endpoint {desk.name} has {len(groups)} worker groups"})
            return desk, groups[0].id
        for group in groups:
            if str(fields.group) in (str(group.id), group.name):
                return desk, group.id
        raise HttpProblem(404, ErrorCode.NO_GROUP, f"Endpoint {desk.name} has no worker group {fields.group!r}.")

    def _find(self, text: str) -> tuple[Worker, Desk]:
        wanted = f"w{text}" if text.isdecimal() else text
        for desk in self._board.desks.values():
            for worker_id, worker in desk.fleet.workers.items():
                if worker_id == wanted:
                    return worker, desk
        raise HttpProblem(404, ErrorCode.NO_WORKER, f"There is no worker {text[:40]!r}. GET /api/v1/workers lists them.")

    def _as_vast(self, worker: Worker) -> dict[str, Any]:
        """Numbers are numbers: Vast's clients choke on null."""
        record, pulse = worker.record, worker.pulse
        return {
            "id": ids.worker_number(worker.id),
            "status": vast_status(record.state),
            "cur_load": pulse.load if pulse is not None else 0.0,
            "new_load": worker.ledger.own_units,
            "cur_load_rolling_avg": pulse.load if pulse is not None else 0.0,
            "cur_perf": worker.perf if worker.standing is not Standing.OUT else 0.0,
            "perf": record.perf,
            "measured_perf": record.perf,
            "dlperf": 0.0,
            "reliability": record.reliability,
            "reqs_working": worker.inflight,
            "disk_usage": 0.0,
            "loaded_at": record.ready_at or 0.0,
            "started_at": record.created_at,
            "gpu_name": record.gpu_name,
            "num_gpus": record.num_gpus,
            "workergroup_id": record.group_id,
            "url": worker.url,
        }

    def _shown(self, worker: Worker, desk: Desk) -> dict[str, Any]:
        pulse = worker.pulse
        shown: dict[str, Any] = msgspec.to_builtins(worker.record)
        shown.update(
            id=worker.id,
            endpoint=desk.name,
            url=worker.url,
            routable=worker.standing is not Standing.OUT,
            standing=worker.standing.name.lower(),
            benched_s=max(0.0, worker.benched_until - self._monotonic()),
            complaints=desk.fleet.complaints.totals.get(worker.id, 0),
            promised=worker.promised,
            reported_state=None if pulse is None else str(pulse.state),
            load=None if pulse is None else pulse.load,
            inflight=None if pulse is None else pulse.inflight,
            queued=None if pulse is None else pulse.queued,
            heard_s_ago=None if pulse is None else max(0.0, self._monotonic() - worker.heard_at),
        )
        return shown
