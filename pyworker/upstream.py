"""One request to the model server: connections that are kept, bytes that are written as they came.

Below aiohttp's ClientSession, on its protocol and parser: a request that is passed on needs no cookies, redirects, proxies, auth, traces
or retries, and without them costs a third. What is left is all here: a few idle connections, a head, a body, an answer.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from typing import Self

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

from .config import Timeouts
from .errors import ConfigError
from .stopwatch import Stopwatch
from .wire import http

#: Below the 5 s after which uvicorn and llama.cpp close an idle connection, so that none is used in the moment it closes.
KEEPALIVE_S = 2.0
MAX_HEAD_LINE_BYTES = 32 * 1024
MAX_HEADERS = 256
READ_BYTES = 64 * 1024

#: What reading an answer raises when the model server breaks off or talks nonsense.
BROKEN = (aiohttp.ClientError, OSError, HttpProcessingError)
_Code = http.ErrorCode


class ModelTrouble(Exception):
    """Nothing of the answer was sent: the client gets this as a Problem."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class UploadBroken(Exception):
    """The client's body could not be read to its end."""


class Upload:
    """A client's body on its way through. `chunked` when the client did not say how long it is."""

    def __init__(self, content: aiohttp.StreamReader, watch: Stopwatch, timeouts: Timeouts, *, chunked: bool) -> None:
        self._content = content
        self._watch = watch
        self._timeouts = timeouts
        self._chunked = chunked
        self.broken: Exception | None = None

    async def run(self, connection: ResponseHandler) -> None:
        """Write it behind the head. Never raises: a client's fault is kept in `broken`, the model's shows in its answer."""
        writer = StreamWriter(connection, asyncio.get_running_loop())
        if self._chunked:
            writer.enable_chunking()
        self._watch.phase("the upload", self._timeouts.idle_s)
        while True:
            try:
                piece = await self._content.readany()
            except Exception as error:  # noqa: BLE001 -- of whatever kind: the body will not be whole
                self.broken = error
                connection.abort()
                return
            try:
                if not piece:
                    await writer.write_eof()
                    break
                await writer.write(piece)
            except ConnectionError:
                return  # it answered before it had read everything, or died: the answer will tell
            self._watch.touch()
        self._watch.phase("the first byte of the answer", self._timeouts.first_byte_s)


class Answer:
    """The head of the model's answer; the body is in `content`. close() it in any case."""

    __slots__ = ("_client", "_connection", "_upload", "content", "headers", "method", "reason", "status")

    def __init__(
        self,
        method: str,
        message: RawResponseMessage,
        content: aiohttp.StreamReader,
        client: ModelClient,
        connection: ResponseHandler,
        upload: asyncio.Task[None] | None,
    ) -> None:
        self.method = method
        self.status: int = message.code
        self.reason: str = message.reason
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        self._client = client
        self._connection: ResponseHandler | None = connection
        self._upload = upload

    def close(self) -> None:
        """Keep the connection if the exchange is complete, else cut it: the model sees at once that nobody listens."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
            connection.abort()
        elif not self.content.at_eof() or self.content.exception() is not None:
            connection.abort()
        elif hdrs.TRANSFER_ENCODING in self.headers:
            # llama.cpp closes the connection behind a streamed answer, a moment later and without a word. A new one costs nothing
            # beside a stream.
            connection.close()
        else:
            self._client.keep(connection)


class ModelClient:
    """Connections to one model server. Use as an async context manager."""

    def __init__(self, base_url: str) -> None:
        url = URL(base_url)
        if url.host is None or url.port is None:
            raise ConfigError(f"model_server_url {base_url!r} has no host or port", "write it like http://127.0.0.1:8000")
        self.base_url = base_url.rstrip("/")
        self._host: str = url.host
        self._port: int = url.port
        self._prefix = url.raw_path.rstrip("/")
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._host_line = f"Host: {url.raw_authority}\r\n".encode()
        self._idle: deque[tuple[ResponseHandler, float]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        while self._idle:
            self._idle.pop()[0].close()

    async def call(
        self,
        method: str,
        target: str,
        headers: bytes,
        body: bytes | memoryview | Upload | None,
        watch: Stopwatch,
        timeouts: Timeouts,
    ) -> Answer:
        """Send a request and wait for the head of the answer. `headers` are whole lines, without Host.

        Raises ModelTrouble, UploadBroken, Expired (by the watch).
        """
        connection = self._take_idle()
        if connection is None:  # not `or`: an empty queue of answers makes it falsy
            connection = await self._connect(timeouts.connect_s)
        connection.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BYTES,
            max_line_size=MAX_HEAD_LINE_BYTES,
            max_field_size=MAX_HEAD_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )
        head = b"%s %s HTTP/1.1\r\n%s%s\r\n" % (method.encode(), (self._prefix + target).encode(), self._host_line, headers)
        upload: asyncio.Task[None] | None = None
        transport = connection.transport
        assert transport is not None
        try:
            if isinstance(body, Upload):
                transport.write(head)
                upload = asyncio.create_task(body.run(connection), name="upload")
            else:
                transport.writelines((head, body) if body else (head,))
                watch.phase("the first byte of the answer", timeouts.first_byte_s)
            message, content = await connection.read()
            while 100 <= message.code < 200:
                message, content = await connection.read()
        except BROKEN as error:
            connection.abort()
            if isinstance(body, Upload) and body.broken is not None:
                raise UploadBroken from error
            if isinstance(error, HttpProcessingError):
                raise ModelTrouble(502, _Code.MODEL_DIED, "The model server answered with something that is not HTTP.") from error
            raise ModelTrouble(502, _Code.MODEL_DIED, "The model server closed the connection before it answered.") from error
        except BaseException:
            if upload is not None:
                upload.cancel()
            connection.abort()
            raise
        return Answer(method, message, content, self, connection, upload)

    def keep(self, connection: ResponseHandler) -> None:
        if connection.should_close or not connection.is_connected():
            connection.close()
            return
        self._idle.append((connection, self._loop.time()))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(KEEPALIVE_S, self._sweep)

    def _take_idle(self) -> ResponseHandler | None:
        """The one used last, if it is still good."""
        while self._idle:
            connection, since = self._idle.pop()
            is_open = connection.is_connected() and not connection.should_close and not _was_ended(connection)
            if is_open and self._loop.time() - since < KEEPALIVE_S:
                return connection
            connection.close()
        return None

    def _sweep(self) -> None:
        now = self._loop.time()
        while self._idle and now - self._idle[0][1] >= KEEPALIVE_S:
            self._idle.popleft()[0].close()
        self._sweeper = self._loop.call_at(self._idle[0][1] + KEEPALIVE_S, self._sweep) if self._idle else None

    async def _connect(self, timeout_s: float | None) -> ResponseHandler:
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: ResponseHandler(self._loop), self._host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            raise ModelTrouble(
                504, _Code.MODEL_TIMEOUT, f"The model server did not accept a connection in {timeout_s:g} s."
            ) from error
        except OSError as error:
            raise ModelTrouble(502, _Code.MODEL_UNREACHABLE, "The model server of this worker cannot be reached.") from error
        return connection


def _was_ended(connection: ResponseHandler) -> bool:
    """Whether there is something to read where nothing was asked: the other side's end, which the event loop has not seen yet."""
    assert connection.transport is not None
    poll = select.poll()
    poll.register(connection.transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
