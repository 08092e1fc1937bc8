"""To the model server and back, byte for byte.

How an answer can end badly, and what the client sees:

    nothing came yet       502 (model_unreachable, model_died) or 504 (model_timeout) with a Problem body
    an SSE stream broke    one clean `event: error`, then the connection closes without the closing chunk
    anything else broke    the connection closes before the promised length, or without the closing chunk

A second status line is never written into a stream, and a broken answer never looks complete. An SSE stream that breaks inside an
event gets no error event: by the rules of SSE the unfinished event is then discarded, whereas more text would complete it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from . import replies
from .call import headers_for_client
from .config import Timeouts
from .stopwatch import Stopwatch
from .wire import http

#: Below the 5 s after which uvicorn and llama.cpp close an idle connection, so that none is used in the moment it closes.
KEEPALIVE_S = 2.0
#: Answers of a known length up to this are read whole: one write instead of several, and a clean 502 if the model dies meanwhile.
WHOLE_BYTES = 64 * 1024
LAST_WORDS_S = 5.0  #: for a slow client to take the error event
_NO_BODY = frozenset({204, 304})
_NOT_ADDED = ("Content-Type",)
_Code = http.ErrorCode


class ModelTrouble(Exception):
    """Nothing of the answer was sent: the client gets this as a Problem."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class ClientLeft(Exception):
    """The client closed its connection, or took nothing for too long."""


class UploadBroken(Exception):
    """The client's body could not be read to its end."""


class Upload:
    """A request body on its way through. Can be read once: a silent second reading would send an empty body."""

    def __init__(self, content: aiohttp.StreamReader, watch: Stopwatch, timeouts: Timeouts) -> None:
        self._content = content
        self._watch = watch
        self._timeouts = timeouts
        self._started = False
        self.broken: BaseException | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._started:
            raise UploadBroken("the body was already sent once")
        self._started = True
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        self._watch.phase("the upload", self._timeouts.idle_s)
        try:
            while True:
                piece = await self._content.readany()
                if not piece:
                    break
                yield piece
                self._watch.touch()
        except Exception as error:
            self.broken = error
            raise
        self._watch.phase("the first byte of the answer", self._timeouts.first_byte_s)


class ModelClient:
    """Connections to one model server. Use as an async context manager."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._timeouts: dict[float | None, aiohttp.ClientTimeout] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=32 * 1024,
            max_field_size=32 * 1024,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path_qs: str,
        headers: CIMultiDict[str],
        body: bytes | Upload | AsyncIterator[bytes] | None,
        watch: Stopwatch,
        timeouts: Timeouts,
    ) -> aiohttp.ClientResponse:
        """The head of the answer. Raises ModelTrouble, UploadBroken, Expired (by the watch)."""
        assert self._session is not None
        upload = body if isinstance(body, Upload) else None
        if upload is None:
            watch.phase("the first byte of the answer", timeouts.first_byte_s)
        try:
            return await self._session.request(
                method,
                URL(self.base_url + path_qs, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                skip_auto_headers=None if "Content-Type" in headers else _NOT_ADDED,
                timeout=self._timeout(timeouts.connect_s),
            )
        except aiohttp.ConnectionTimeoutError as error:
            raise ModelTrouble(
                504, _Code.MODEL_TIMEOUT, f"The model server did not accept a connection in {timeouts.connect_s:g} s."
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise ModelTrouble(502, _Code.MODEL_UNREACHABLE, "The model server of this worker cannot be reached.") from error
        except (aiohttp.ClientError, OSError) as error:
            if upload is not None and upload.broken is not None:
                raise UploadBroken(str(upload.broken)) from error
            raise ModelTrouble(502, _Code.MODEL_DIED, "The model server closed the connection before it answered.") from error

    def _timeout(self, connect_s: float | None) -> aiohttp.ClientTimeout:
        found = self._timeouts.get(connect_s)
        if found is None:
            found = self._timeouts[connect_s] = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
        return found


async def read_whole(upstream: aiohttp.ClientResponse) -> bytes:
    """A short answer, within the limit for its first byte. Raises ModelTrouble."""
    try:
        return await upstream.read()
    except (aiohttp.ClientError, OSError) as error:
        raise ModelTrouble(502, _Code.MODEL_DIED, "The model server broke off in the middle of its answer.") from error


def is_short(upstream: aiohttp.ClientResponse) -> bool:
    length = upstream.content_length
    return length is not None and length <= WHOLE_BYTES and upstream.method != "HEAD" and upstream.status not in _NO_BODY


def is_plain_sse(upstream: aiohttp.ClientResponse) -> bool:
    """May an event be appended? Not to compressed bytes, and not beyond a promised length."""
    headers = upstream.headers
    return (
        headers.get("Content-Type", "").lower().startswith("text/event-stream")
        and headers.get("Content-Encoding", "identity").lower() == "identity"
        and "Content-Length" not in headers
    )


class Relay:
    """One long answer on its way to the client."""

    def __init__(
        self, request: web.BaseRequest, upstream: aiohttp.ClientResponse, more_headers: dict[str, str], request_id: str
    ) -> None:
        headers = headers_for_client(upstream.headers, more_headers)
        headers["X-Accel-Buffering"] = "no"
        self.out = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
        self._request = request
        self._upstream = upstream
        self._request_id = request_id
        self._tail = b"\n\n"  # the last bytes sent; a stream that sent nothing is between two events
        self.started = False  #: the head was sent: no other answer is possible
        self.writing = False  #: it is the client we wait for

    async def run(self, watch: Stopwatch, timeouts: Timeouts) -> None:
        """Pass the answer through to its end. Raises ModelTrouble (then: break_off()), ClientLeft, Expired (by the watch)."""
        read = self._upstream.content.readany
        write = self.out.write
        watch.phase("the answer", timeouts.idle_s)
        try:
            self.started = True
            await self.out.prepare(self._request)
            while True:
                try:
                    chunk = await read()
                except (aiohttp.ClientError, OSError) as error:
                    raise ModelTrouble(
                        502, _Code.MODEL_DIED, "The model server broke off in the middle of its answer."
                    ) from error
                if not chunk:
                    break
                self.writing = True
                await write(chunk)
                self.writing = False
                watch.beat()
                self._tail = chunk if len(chunk) > 3 else self._tail[-4:] + chunk
            await self.out.write_eof()
        except ConnectionError as error:
            raise ClientLeft from error

    async def break_off(self, code: str, message: str) -> web.StreamResponse:
        """End the answer so that the client notices."""
        if is_plain_sse(self._upstream) and self._tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")):
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await self.out.write(replies.sse_error(code, message, self._request_id))
        cut(self._request, self.out)
        return self.out


def cut(request: web.BaseRequest, out: web.StreamResponse) -> None:
    """Close the connection after what was written, without the closing chunk."""
    out.force_close()
    if request.transport is not None:
        request.transport.close()
