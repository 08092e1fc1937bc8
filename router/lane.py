"""The fast lane: a plain `POST /route/` is answered straight from the bytes, without building an HTTP request around it.

Only the usual form is understood here: one whole HTTP/1.1 request with a Content-Length, nothing behind it. Anything else
(other paths, chunks, Expect, pipelining, a header that looks odd) hands the connection with its bytes over to aiohttp, for good.
So there is one HTTP parser to trust; this one only has to be sure that it has seen the usual form, and else say no.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import msgspec
import structlog
from aiohttp import web

from schemas.http import MAX_ROUTE_BODY_BYTES

from . import calls
from .routing import Answer, Held, Routing, read_request

log = structlog.get_logger()

MAX_HEAD_BYTES = 8 * 1024
#: A client that sends requests and reads no answers is cut off here.
MAX_UNREAD_BYTES = 256 * 1024
START = b"POST /route"
LINES = frozenset({b"POST /route/ HTTP/1.1", b"POST /route HTTP/1.1"})
#: Vast's SDK repeats its key in the query; the one in the header is the one that counts.
LINE_WITH_QUERY = b"POST /route/?"
#: Headers that change how a message is read or answered: aiohttp knows what to do.
NOT_HERE = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"connection", b"trailer", b"te"})


class Head(msgspec.Struct, frozen=True, gc=False):
    """What the lane needs of a request line and its headers."""

    raw: bytes  #: as it came, with the empty line
    length: int  #: of the body
    key: str | None
    request_id: str = ""  #: the caller's, fit to be repeated


def may_become_usual(data: bytes) -> bool:
    """No whole head yet: is it the beginning of a usual one?"""
    return len(data) < MAX_HEAD_BYTES and (data.startswith(START) or START.startswith(data))


def parse_head(raw: bytes) -> Head | None:
    """`raw` ends with the first empty line. None: not the usual form."""
    lines = raw[:-4].split(b"\r\n")
    length: int | None = None
    key: str | None = None
    request_id = ""
    host = False
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        # Letters, digits and dashes directly before the colon: no folding, no space, no empty name.
        if not colon or not name.replace(b"-", b"").isalnum() or b"\r" in value or b"\n" in value or b"\0" in value:
            return None
        name = name.lower()
        if name == b"content-length":
            value = value.strip(b" \t")
            if length is not None or not value.isdigit() or len(value) > 6:
                return None
            length = int(value)
        elif name == b"authorization":
            value = value.strip(b" \t")
            if key is not None or value[:7].lower() != b"bearer " or not value.isascii():
                return None
            key = value[7:].strip().decode("ascii")
        elif name == b"host":
            if host:
                return None
            host = True
        elif name == b"x-request-id":
            request_id = calls.fit_request_id(value.strip(b" \t").decode("latin-1"))
        elif name in NOT_HERE:
            if name == b"connection" and value.strip(b" \t").lower() == b"keep-alive":
                continue
            return None
    first = lines[0]
    if first not in LINES and not (key and first.startswith(LINE_WITH_QUERY) and _plain_query(first)):
        return None
    if length is None or not host or length > MAX_ROUTE_BODY_BYTES:
        return None
    return Head(raw, length, key or None, request_id)


def _plain_query(line: bytes) -> bool:
    """The request line ends as it should and has no space, control or foreign character in its query."""
    return line.endswith(b" HTTP/1.1") and all(33 <= char <= 126 for char in line[len(LINE_WITH_QUERY) : -len(b" HTTP/1.1")])


class Lane(asyncio.Protocol):
    """One connection, as long as it stays usual."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._partial = b""
        self._head: Head | None = None  #: of the last request; most clients send the same again
        self._held: asyncio.Task[None] | None = None
        self.last_at = front.loop.time()  #: of the last request, for closing idle connections

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._front.lanes.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio names it
        self._front.lanes.discard(self)
        if self._held is not None:
            self._held.cancel()

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
            self._partial = b""
        if self._held is not None:
            # A well-behaved client waits for its answer; what comes early waits for it too.
            self._partial = data
            if len(data) > MAX_HEAD_BYTES + MAX_ROUTE_BODY_BYTES:
                self._transport.close()
            return
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            if may_become_usual(data):
                self._partial = data
            else:
                self._hand_over(data)
            return
        head = self._head
        if head is None or not (data.startswith(head.raw) and len(head.raw) == end):
            self._head = head = parse_head(data[:end])
        if head is None or len(data) > end + head.length:
            self._hand_over(data)
        elif len(data) < end + head.length:
            self._partial = data
        else:
            self.last_at = self._front.loop.time()
            self._answer(head, data[end:])

    # --- answers ---

    def _answer(self, head: Head, body: bytes) -> None:
        routing = self._front.routing
        try:
            ask = read_request(body)
            started = routing.start(ask, routing.who(head.key or ask.api_key))
        except Exception as error:  # noqa: BLE001  # every error becomes an answer; the unexpected are logged there
            self._write_problem(error, head.request_id)
            return
        if isinstance(started, Held):
            self._held = self._front.loop.create_task(self._finish(started, head.request_id), name="held route call")
        else:
            self._write(started, head.request_id)

    async def _finish(self, held: Held, request_id: str) -> None:
        try:
            self._write(await self._front.routing.finish(held), request_id)
        except Exception as error:  # noqa: BLE001  # as above
            self._write_problem(error, request_id)
        self._held = None
        self.last_at = self._front.loop.time()
        if self._partial and not self._transport.is_closing():
            early, self._partial = self._partial, b""
            self.data_received(early)

    def _write(self, answer: Answer, request_id: str) -> None:
        body = msgspec.json.encode(answer)
        transport = self._transport
        echo = f"\r\nX-Request-Id: {request_id}".encode() if request_id else b""
        transport.write(b"%b%d%b\r\n\r\n%b" % (self._front.head(), len(body), echo, body))
        if transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            transport.abort()

    def _write_problem(self, error: Exception, request_id: str) -> None:
        response = calls.told(error, request_id or calls.new_request_id(), synced=self._front.routing.synced())
        body = cast(bytes, response.body)
        headers = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items() if name != "Content-Length")
        head = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\nDate: {formatdate(self._front.now(), usegmt=True)}\r\n{headers}"
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body)

    def _hand_over(self, data: bytes) -> None:
        """Aiohttp takes the connection from here."""
        self._front.lanes.discard(self)
        handler = self._front.server()
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        handler.data_received(data)

    # --- care ---

    @property
    def held(self) -> asyncio.Task[None] | None:
        return self._held

    def close(self) -> None:
        self._transport.close()


class Front:
    """Makes lanes; give it to create_server. `server` is aiohttp's, for what is not usual; `now` is unix s."""

    def __init__(self, routing: Routing, server: web.Server, idle_s: float, now: Callable[[], float]) -> None:
        self.routing = routing
        self.server: Callable[[], asyncio.Protocol] = cast(Callable[[], asyncio.Protocol], server)
        self.loop = asyncio.get_running_loop()
        self.now = now
        self.lanes: set[Lane] = set()
        self._idle_s = idle_s
        self._head = b""
        self._head_until = float("-inf")

    def __call__(self) -> Lane:
        return Lane(self)

    def head(self) -> bytes:
        """Status line and headers of a good answer, up to the length. The date is made once a second."""
        now = self.loop.time()
        if now >= self._head_until:
            self._head_until = now + 1.0
            date = formatdate(self.now(), usegmt=True)
            self._head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: application/json\r\nContent-Length: ".encode()
        return self._head

    async def close_idle(self) -> None:
        """Until cancelled: close connections that say nothing."""
        while True:
            await asyncio.sleep(self._idle_s / 5)
            oldest = self.loop.time() - self._idle_s
            for lane in [lane for lane in self.lanes if lane.held is None and lane.last_at < oldest]:
                lane.close()

    async def close(self, within_s: float) -> None:
        """Let held calls be answered, then close all."""
        held = [lane.held for lane in self.lanes if lane.held is not None]
        if held:
            await asyncio.wait(held, timeout=within_s)
        for lane in list(self.lanes):
            lane.close()
