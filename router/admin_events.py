"""What happened, over HTTP: a live stream of events for the command line and the console, and Vast's two log calls."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web

from runtime.bus import Bus
from schemas import events, subjects
from schemas.ids import EndpointId

from . import problems
from .calls import Call, Table, reply
from .eventlog import EventLog
from .store import no_group
from .switchboard import Switchboard

log = structlog.get_logger()

#: As much as is read ahead of a slow reader, give or take one batch.
MAX_BEHIND_BYTES = 1024 * 1024
KEEPALIVE_S = 15.0
#: Without `follow` the answer must be whole. When nothing more can be read for this long it is broken off, so that the reader knows.
PATIENCE_S = 60.0
MAX_TAIL = 1000


class Behind:
    """Events that were read from the stream and not yet written to the reader, as server-sent events."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._some = asyncio.Event()
        self._taken = asyncio.Event()
        self._is_all = False

    def add(self, subject: str, data: bytes, seq: int) -> None:
        kind = subject.split(".")[3].encode()
        chunk = b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, kind, data)
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._some.set()

    def caught_up(self) -> None:
        """All there was has been added."""
        self._is_all = True
        self._some.set()

    async def room(self) -> None:
        """Until the reader is not too far behind."""
        while self._bytes > MAX_BEHIND_BYTES:
            self._taken.clear()
            await self._taken.wait()

    async def take(self) -> bytes:
        """All there is; empty, once, when all there was has been taken."""
        while not self._chunks and not self._is_all:
            self._some.clear()
            await self._some.wait()
        if not self._chunks:
            self._is_all = False
        chunks, self._chunks, self._bytes = self._chunks, [], 0
        self._taken.set()
        return b"".join(chunks)


class LogFields(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    tail: int | None = None


class EventAdmin:
    """`now` is unix s."""

    def __init__(self, bus: Bus, board: Switchboard, logs: EventLog, now: Callable[[], float]) -> None:
        self._bus = bus
        self._board = board
        self._logs = logs
        self._now = now

    def add_to(self, table: Table) -> None:
        table.add("GET", "/api/v1/events", self.stream)
        table.add("POST", "/get_endpoint_logs/", self.endpoint_logs)
        table.add("POST", "/get_autogroup_logs/", self.group_logs)
        table.add("POST", "/get_workergroup_logs/", self.group_logs)

    async def stream(self, call: Call) -> web.StreamResponse:
        """Server-sent events. `since`: unix seconds, negative for seconds ago; `follow=1`: go on; `endpoint`, `kind` choose."""
        await call.admin("read events")
        query = call.request.query
        follow = query.get("follow", "") in ("1", "true", "yes")
        subject = self._subject(query.get("endpoint"), query.get("kind"))
        since = self._since(query.get("since"), follow)

        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        await response.prepare(call.request)
        behind = Behind()
        tail = asyncio.create_task(
            self._bus.tail(
                subjects.STREAM_EVENTS,
                [subject],
                behind.add,
                since_at=since,
                room=behind.room,
                caught_up=None if follow else behind.caught_up,
            ),
            name="tail of events",
        )
        try:
            whole = await _pass_on(behind, tail, response, follow=follow)
        finally:
            tail.cancel()
            await asyncio.wait([tail])
            if not tail.cancelled() and tail.exception() is not None:
                log.warning("events_not_read", error=str(tail.exception()))
        if whole:
            await response.write_eof()
        elif call.request.transport is not None:
            call.request.transport.abort()
        return response

    async def endpoint_logs(self, call: Call) -> web.Response:
        who = await call.who()
        fields = await call.json(LogFields)
        desk = self._board.desks.get(EndpointId(fields.id))
        if desk is None:
            raise problems.no_endpoint(fields.id)
        if not who.is_admin and not (who.endpoints is not None and who.may_route(desk.id)):
            raise problems.forbidden(f"read the log of endpoint {desk.name}")
        return reply(self._logs.by_level(desk.id, None, _tail(fields)))

    async def group_logs(self, call: Call) -> web.Response:
        await call.admin("read logs of worker groups")
        fields = await call.json(LogFields)
        for desk in self._board.desks.values():
            for group in desk.record.groups:
                if group.id == fields.id:
                    return reply(self._logs.by_level(desk.id, group.id, _tail(fields)))
        raise no_group(fields.id)

    def _subject(self, endpoint: str | None, kind: str | None) -> str:
        if endpoint is None:
            return subjects.events_of_kind(_kind(kind)) if kind is not None else subjects.EVENTS
        desk = next((d for d in self._board.desks.values() if endpoint in (d.name, str(d.id))), None)
        # What happened to a deleted endpoint can still be read, by its number.
        if desk is None and not (endpoint.isascii() and endpoint.isdecimal() and len(endpoint) <= 16):
            raise problems.no_endpoint(endpoint)
        endpoint_id = desk.id if desk is not None else EndpointId(int(endpoint))
        return subjects.event(_kind(kind), endpoint_id) if kind is not None else subjects.events_of_endpoint(endpoint_id)

    def _since(self, text: str | None, follow: bool) -> float | None:
        if not text:
            return None if follow else 0.0
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not abs(number) < 1e12:
            raise problems.bad_fields({"since": "must be unix seconds, or a negative number of seconds ago"})
        return number if number >= 0 else max(0.0, self._now() + number)


async def _pass_on(behind: Behind, tail: asyncio.Task[None], response: web.StreamResponse, *, follow: bool) -> bool:
    """Write what comes until the reader leaves or, without `follow`, until all that was there is written; False when it could not
    be read to its end. A reader who follows is told every KEEPALIVE_S that it is still heard, also where nothing happens.
    """
    silent_s = 0.0
    while True:
        try:
            async with asyncio.timeout(KEEPALIVE_S):
                events = await behind.take()
        except TimeoutError:
            silent_s += KEEPALIVE_S
            if tail.done() or (silent_s >= PATIENCE_S and not follow):
                return follow
            await response.write(b": still here\n\n")
            continue
        silent_s = 0.0
        if not events:
            return True
        await response.write(events)


def _kind(text: str) -> str:
    """Raises HttpProblem 422: kinds are a closed list, and of one that does not exist nobody would ever hear anything."""
    if text in events.KINDS:
        return text
    close = difflib.get_close_matches(text[:64], events.KINDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"it is one of {', '.join(sorted(events.KINDS))}"
    raise problems.bad_fields({"kind": f"{text[:40]!r} is no kind of event; {hint}"})


def _tail(fields: LogFields) -> int:
    return max(1, min(fields.tail or MAX_TAIL, MAX_TAIL))
