"""The router's one HTTP handler, and the socket it listens on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from schemas.http import MAX_ADMIN_BODY_BYTES, MAX_ROUTE_BODY_BYTES

from . import calls
from .api_keys import KeyRing
from .calls import Call, Table
from .lane import Front
from .routing import Held, Routing, read_request

#: Longer than usual proxies keep idle connections, so that the proxy is the one that closes.
KEEPALIVE_S = 75.0
SHUTDOWN_S = 5.0
BACKLOG = 1024


class App:
    """Callable as aiohttp's handler."""

    def __init__(self, routing: Routing, keys: KeyRing, table: Table, now: Callable[[], float]) -> None:
        self.routing = routing
        self._keys = keys
        self._table = table
        self.now = now
        table.add("POST", "/route/", self._route)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            handler, params = await self._table.find(request)
            response = await handler(Call(request, params, self._keys, self.now))
        except Exception as error:  # noqa: BLE001  # every error becomes an answer; the unexpected are logged there
            return calls.told(error, calls.request_id_of(request), synced=self.routing.synced())
        if not response.prepared:
            response.headers.setdefault("X-Request-Id", calls.request_id_of(request))
        return response

    async def _route(self, call: Call) -> web.Response:
        """What the fast lane did not take."""
        request = call.request
        ask = read_request(await calls.read(request, MAX_ROUTE_BODY_BYTES))
        started = self.routing.start(ask, self.routing.who(calls.key_of(request) or ask.api_key))
        answer = await self.routing.finish(started) if isinstance(started, Held) else started
        return calls.reply(answer)


@asynccontextmanager
async def listening(app: App, host: str, port: int) -> AsyncIterator[int]:
    """Serve until the context ends; gives the port. A client that hangs up cancels its call."""
    loop = asyncio.get_running_loop()

    def request_factory(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_ADMIN_BODY_BYTES)

    server = web.Server(
        app, request_factory=request_factory, handler_cancellation=True, access_log=None, keepalive_timeout=KEEPALIVE_S
    )
    front = Front(app.routing, server, KEEPALIVE_S, app.now)
    listener = await loop.create_server(front, host, port, backlog=BACKLOG, reuse_address=True)
    idle = asyncio.create_task(front.close_idle(), name="close idle connections")
    try:
        bound: socket.socket = listener.sockets[0]
        yield bound.getsockname()[1]
    finally:
        # Stop accepting, answer who is held, let what runs end, close.
        listener.close()
        idle.cancel()
        app.routing.release()
        await front.close(SHUTDOWN_S)
        server.pre_shutdown()
        await server.shutdown(SHUTDOWN_S)
