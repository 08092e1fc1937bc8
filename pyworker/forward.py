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

from aiohttp import web

from . import replies
from .call import headers_for_client
from .config import Timeouts
from .stopwatch import Stopwatch
from .upstream import BROKEN, Answer, ModelTrouble
from .wire import http

#: Answers of a known length up to this are read whole: one write instead of several, and a clean 502 if the model dies meanwhile.
WHOLE_BYTES = 64 * 1024
LAST_WORDS_S = 5.0  #: for a slow client to take the error event
_NO_BODY = frozenset({204, 304})
_Code = http.ErrorCode


class ClientLeft(Exception):
    """The client closed its connection, or took nothing for too long."""


async def read_whole(answer: Answer) -> bytes:
    """A short answer, within the limit for its first byte. Raises ModelTrouble."""
    try:
        return await answer.content.read()
    except BROKEN as error:
        raise ModelTrouble(502, _Code.MODEL_DIED, "The model server broke off in the middle of its answer.") from error


def is_short(answer: Answer) -> bool:
    length = answer.headers.get("Content-Length", "")
    return length.isdigit() and int(length) <= WHOLE_BYTES and answer.method != "HEAD" and answer.status not in _NO_BODY


def is_plain_sse(answer: Answer) -> bool:
    """May an event be appended? Not to compressed bytes, and not beyond a promised length."""
    headers = answer.headers
    return (
        headers.get("Content-Type", "").lower().startswith("text/event-stream")
        and headers.get("Content-Encoding", "identity").lower() == "identity"
        and "Content-Length" not in headers
    )


class Relay:
    """One long answer on its way to the client."""

    def __init__(self, request: web.BaseRequest, answer: Answer, more_headers: dict[str, str], request_id: str) -> None:
        headers = headers_for_client(answer.headers, more_headers)
        headers["X-Accel-Buffering"] = "no"
        self.out = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        self._request = request
        self._answer = answer
        self._request_id = request_id
        self._tail = b"\n\n"  # the last bytes sent; a stream that sent nothing is between two events
        self.started = False  #: the head was sent: no other answer is possible
        self.writing = False  #: it is the client we wait for

    async def run(self, watch: Stopwatch, timeouts: Timeouts) -> None:
        """Pass the answer through to its end. Raises ModelTrouble (then: break_off()), ClientLeft, Expired (by the watch)."""
        read = self._answer.content.readany
        write = self.out.write
        watch.phase("the answer", timeouts.idle_s)
        try:
            self.started = True
            await self.out.prepare(self._request)
            if self._answer.content.total_bytes == 0:
                # aiohttp keeps the head back for the first bytes of the body, which may be a long thought away.
                self._request.writer.send_headers()
            while True:
                try:
                    chunk = await read()
                except BROKEN as error:
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
        if is_plain_sse(self._answer) and self._tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")):
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
