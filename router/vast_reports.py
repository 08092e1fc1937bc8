"""Where Vast's PyWorkers report: /worker_status/ and /delete_requests/. Answered at once, without waiting for anybody: what happens at a
worker while it waits for this answer is missing from its counters.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from aiohttp import web

from schemas import ids
from schemas.http import MAX_REPORT_BODY_BYTES, ErrorCode, FinishedRequests, WorkerStatus
from schemas.ids import WorkerId

from . import calls, problems, voices
from .bridge import Bridge
from .calls import Call, Table, reply
from .feeds import Feeds
from .problems import HttpProblem
from .voices import Known

T = TypeVar("T", WorkerStatus, FinishedRequests)

#: A list of finished requests that is too long is read past and not looked at. To refuse it would be worse: the worker would keep
#: it, and send it again each second, longer every time.
MAX_PASSED_BYTES = 32 * 1024 * 1024


class VastReports:
    def __init__(self, bridge: Bridge, feeds: Feeds) -> None:
        self._bridge = bridge
        self._feeds = feeds

    def add_to(self, table: Table) -> None:
        table.add("POST", "/worker_status/", self.status)
        table.add("POST", "/delete_requests/", self.finished)

    async def status(self, call: Call) -> web.Response:
        report = _decoded(await calls.read(call.request, MAX_REPORT_BODY_BYTES), WorkerStatus)
        known = self._who("id", report.id, report.mtoken)
        wrong = voices.wrong_values(report)
        if wrong:
            self._bridge.count("malformed")
            raise problems.bad_fields(wrong)
        if self._bridge.report(known, report):
            return reply({"success": True})
        return reply({"success": True, "msg": f"Worker {known.worker_id} is {known.state}; its reports count for nothing now."})

    async def finished(self, call: Call) -> web.Response:
        request = call.request
        if (request.content_length or 0) > MAX_REPORT_BODY_BYTES:
            await _pass_over(request)
            return reply({"success": True, "msg": f"More than {MAX_REPORT_BODY_BYTES} bytes: dropped unread."})
        report = _decoded(await calls.read(request, MAX_REPORT_BODY_BYTES), FinishedRequests)
        self._bridge.finished(self._who("worker_id", report.worker_id, report.mtoken), report)
        return reply({"success": True})

    def _who(self, field: str, number: int | str, token: str) -> Known:
        """Raises HttpProblem 401, 422; 503 while this router has not learned yet who exists."""
        worker_id = _worker_id(field, number)
        known = self._bridge.who(worker_id, token)
        if known is not None:
            return known
        if not self._feeds.synced:
            raise problems.unavailable("This router has just started and does not know its workers yet", "Report again.")
        self._bridge.refused(worker_id)
        raise HttpProblem(
            401,
            ErrorCode.BAD_WORKER_TOKEN,
            "No worker of this id reports with this token. Both come from the worker's environment: CONTAINER_ID and MASTER_TOKEN.",
        )


def _worker_id(field: str, number: int | str) -> WorkerId:
    """Raises HttpProblem 422."""
    try:
        return ids.worker_id(f"w{number}")
    except ValueError as error:
        raise problems.bad_fields({field: "must be the worker's number, as CONTAINER_ID has it"}) from error


def _decoded(body: bytes, kind: type[T]) -> T:
    """Raises HttpProblem 400, 422."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise problems.wrong_type(error) from error
    except msgspec.DecodeError as error:
        raise problems.bad_json(str(error)) from error


async def _pass_over(request: web.BaseRequest) -> None:
    """Read the body and keep none of it. Raises HttpProblem 413."""
    passed = 0
    async for piece in request.content.iter_any():
        passed += len(piece)
        if passed > MAX_PASSED_BYTES:
            raise problems.too_large(MAX_PASSED_BYTES)
