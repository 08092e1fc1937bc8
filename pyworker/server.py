"""The worker's HTTP port: probes for anybody, the model's routes for those with a ticket."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import structlog
from aiohttp import web

from . import replies, usercode
from .config import PROBE_PATHS
from .errors import PortTaken
from .lifecycle import Life
from .metrics import CONTENT_TYPE, Metrics
from .reach import BOOT_HEADER, WORKER_HEADER
from .routes import Routes
from .serve import Serving
from .wire import http, ids, states

log = structlog.get_logger()

MAX_CONNECTIONS = 4096
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
READ_BYTES = 64 * 1024
IDLE_CONNECTION_S = 75.0
#: How long the rest of a refused body is read and thrown away, so that the client gets to see the refusal.
LINGER_S = 2.0

_W = states.WorkerState
#: GET /health and /ping: 200 ready, 204 on its way, 503 otherwise
_HEALTH = {_W.READY: 200, _W.LOADING: 204, _W.MODEL_LOADING: 204, _W.BENCHMARKING: 204}


class Server:
    """Listens from open() to close()."""

    def __init__(
        self,
        *,
        serving: Serving,
        routes: Routes,
        metrics: Metrics,
        life: Callable[[], Life],
        worker_id: ids.WorkerId,
        boot: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._serving = serving
        self._routes = routes
        self._metrics = metrics
        self._life = life
        self._worker_id = worker_id
        self._marks = {WORKER_HEADER: worker_id, BOOT_HEADER: boot}
        self._tls = tls
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns address and port. Raises PortTaken."""
        quiet = logging.getLogger("pyworker.http")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False  # aiohttp quotes bad requests in its log; ours holds no payloads
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            logger=quiet,
            auto_decompress=False,
            keepalive_timeout=IDLE_CONNECTION_S,
            lingering_time=LINGER_S,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            read_bufsize=READ_BYTES,
        )
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(self._protocol, host, port, ssl=self._tls, backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortTaken(
                f"address already in use: port {port} on {host}", "set WORKER_PORT to a free port, or end the process that has it"
            ) from error
        address, bound = self._listener.sockets[0].getsockname()[:2]
        return address, bound

    async def close(self, grace_s: float) -> None:
        """Stop listening and end all connections; what is still being answered has grace_s."""
        if self._listener is not None:
            self._listener.close()
        if self._http is not None:
            self._http.pre_shutdown()  # idle connections end now
            await self._http.shutdown(max(grace_s, 0.01))  # aiohttp takes 0 for "for ever"

    def _protocol(self) -> asyncio.Protocol:
        """For one new connection."""
        assert self._http is not None
        return self._http() if len(self._http.connections) < MAX_CONNECTIONS else _Full()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if path in PROBE_PATHS and request.method in ("GET", "HEAD"):
            reply = self._probe(path)
            reply.headers.update(self._marks)
            return reply
        if not request.raw_path.isascii():
            return replies.problem(400, http.ErrorCode.BAD_FIELD, "The path is not percent-encoded.", worker_id=self._worker_id)
        handler = self._routes.match(path)
        if handler is None:
            return replies.problem(
                404, http.ErrorCode.NO_HANDLER, "This worker has no such route.", worker_id=self._worker_id, retry=False
            )
        try:
            return await self._serving.answer(request, handler, path, query)
        except Exception as error:  # noqa: BLE001 -- a fault of ours; its text may quote what the client sent
            log.error("request_crashed", error=type(error).__name__, where=usercode.where(error))  # noqa: TRY400
            message = "The worker failed on this request."
            return replies.problem(500, http.ErrorCode.INTERNAL, message, worker_id=self._worker_id, retry=False)

    def _probe(self, path: str) -> web.Response:
        if path == "/metrics":
            return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})
        if path == "/livez":
            return web.Response(text="ok\n")
        life = self._life()
        body = {"state": life.state, "worker_id": self._worker_id}
        if life.failure is not None:
            body["cause"] = life.failure.cause
        status = _HEALTH.get(life.state, 503)
        return web.Response(
            status=status, body=None if status == 204 else msgspec.json.encode(body), content_type="application/json"
        )


class _Full(asyncio.Protocol):
    """One connection too many: says so and hangs up, without waiting for a request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asked with isinstance: uvloop's transports are no subclass of asyncio's.
        given = cast(asyncio.Transport, transport)
        given.write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        given.close()


def tls_context(cert: Path, key: Path) -> tuple[ssl.SSLContext, str]:
    """A server context and the SHA-256 fingerprint of its certificate, in hex."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    first = cert.read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    start = first.index("-----BEGIN CERTIFICATE-----")
    return context, hashlib.sha256(ssl.PEM_cert_to_DER_cert(first[start:])).hexdigest()
