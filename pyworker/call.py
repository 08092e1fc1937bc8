"""A request as it came, in either of its two forms, up to the point where its ticket can be checked.

- bearer: `Authorization: Bearer <ticket>`; method, query and body belong to the model and are passed on untouched.
- envelope: `{"auth_data": {..., "ticket": ...}, "payload": ...}`, as Vast's clients send it. Those also send their API key in the
  Authorization header and in `?api_key=`; neither is taken for a ticket and neither goes any further.
"""

from __future__ import annotations

from urllib.parse import unquote_plus

import msgspec
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from .stopwatch import Stopwatch
from .verify import Refused
from .wire import http

_Code = http.ErrorCode

READ_AT_ONCE = 16 * 1024
#: Meant for one connection (RFC 9110 7.6.1).
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
#: Meant for us, or written anew.
_NOT_FOR_THE_MODEL = _HOP_BY_HOP | {"host", "authorization", "expect", "content-length", "x-request-id"}
_FROM_BEARER = frozenset(name.encode() for name in _NOT_FOR_THE_MODEL)
_FROM_ENVELOPE = _FROM_BEARER | {b"content-type", b"content-encoding"}

_decode = msgspec.json.Decoder(http.Envelope).decode


def bearer(request: web.BaseRequest) -> str | None:
    """The ticket of a request in bearer form; None when there is none. An API key has no dots, and is no ticket."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and ("." in token or token.startswith("eyJ")) else None


def envelope(body: bytes) -> http.Envelope:
    """Take Vast's form apart; the payload stays raw. Raises Refused."""
    try:
        found = _decode(body)
    except msgspec.ValidationError as error:
        if b'"auth_data"' not in body:
            raise _no_ticket() from error
        raise Refused(422, _Code.BAD_FIELD, f"The envelope is not as it should be: {error}.") from error
    except msgspec.DecodeError as error:
        if b'"auth_data"' not in body:
            raise _no_ticket() from error
        raise Refused(422, _Code.BAD_JSON, "The body is not valid JSON.") from error
    if not found.auth_data.ticket:
        raise _no_ticket()
    if found.session_id is not None:
        raise Refused(410, _Code.NOT_FOUND, "This worker has no such session. Route the request again, without a session.")
    return found


def _no_ticket() -> Refused:
    message = (
        "There is no ticket. Ask the router (POST /route/) and send its ticket as `Authorization: Bearer <ticket>`, "
        'or its whole answer as "auth_data" beside the "payload".'
    )
    return Refused(401, _Code.NO_TICKET, message)


class Budget:
    """Bytes of requests in envelope form held in memory, all together and each."""

    def __init__(self, *, each: int, together: int) -> None:
        self._each = each
        self._together = together
        self.held = 0

    async def read(self, request: web.BaseRequest, idle_s: float | None) -> bytes:
        """The whole body; give() its length back later.

        Raises Refused (413 too large, 503 others hold too much) and Expired (nothing came for idle_s).
        """
        content = request.content
        if content.is_eof() and content.total_bytes <= READ_AT_ONCE:  # it came in one piece with the head, as most do
            body = content.read_nowait()
            self.held += len(body)
            return body
        with Stopwatch(None) as watch:
            watch.phase("the upload", idle_s)
            return await self._read_slowly(request, watch)

    async def _read_slowly(self, request: web.BaseRequest, watch: Stopwatch) -> bytes:
        declared = request.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) > self._each:
            raise self._too_large()
        pieces: list[bytes] = []
        taken = 0
        try:
            while True:
                piece = await request.content.readany()
                if not piece:
                    break
                watch.touch()
                taken += len(piece)
                self.held += len(piece)
                if taken > self._each:
                    raise self._too_large()
                if self.held > self._together:
                    message = "This worker holds as many request bodies as it may. Send large ones in bearer form, which streams."
                    raise Refused(503, _Code.UNAVAILABLE, message, retry=True, retry_after_s=1.0)
                pieces.append(piece)
        except BaseException:
            self.held -= taken
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def give(self, size: int) -> None:
        self.held -= size

    def _too_large(self) -> Refused:
        message = f"The envelope is larger than {self._each} bytes. Send the ticket as a bearer token: such bodies stream and have no limit."
        return Refused(413, _Code.BODY_TOO_LARGE, message)


def headers_for_model(request: web.BaseRequest, request_id: str, *, length: int | None) -> bytes:
    """Header lines as they came, less those for one connection and those for us. `length`: of a payload out of an envelope, which is
    JSON; None: the request's own body passes through, framed as it came.
    """
    dropped = _FROM_BEARER if length is None else _FROM_ENVELOPE
    named = request.headers.get("Connection")
    if named:
        dropped |= {name.strip().lower().encode("utf-8", "surrogateescape") for name in named.split(",")}
    lines = [b"%s: %s\r\n" % header for header in request.raw_headers if header[0].lower() not in dropped]
    lines.append(b"X-Request-Id: %s\r\n" % request_id.encode())
    if length is not None:
        lines.append(b"Content-Type: application/json\r\nContent-Length: %d\r\n" % length)
    elif is_chunked(request):
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif "Content-Length" in request.headers:
        lines.append(b"Content-Length: %s\r\n" % request.headers["Content-Length"].encode())
    elif request.method in _USUALLY_WITH_BODY:
        lines.append(b"Content-Length: 0\r\n")
    return b"".join(lines)


def is_chunked(request: web.BaseRequest) -> bool:
    return "Transfer-Encoding" in request.headers


_USUALLY_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def headers_for_client(upstream: CIMultiDictProxy[str], more: dict[str, str]) -> CIMultiDict[str]:
    """Of the model's answer. Content-Length and Content-Encoding stay: the body is passed on as it is."""
    dropped = _HOP_BY_HOP
    named = upstream.get("Connection")
    if named:
        dropped |= {name.strip().lower() for name in named.split(",")}
    passed = CIMultiDict((name, value) for name, value in upstream.items() if name.lower() not in dropped and _clean(value))
    passed.update(more)
    return passed


def _clean(value: str) -> bool:
    """Bytes that are no UTF-8 came in as surrogates and cannot be sent on; such a header is left out."""
    return value.isascii() or value.isprintable()


def without_api_key(query: str) -> str:
    """The query string of a request in envelope form, less the key that Vast's clients put there."""
    if "api" not in query.lower() and "%" not in query:
        return query
    return "&".join(part for part in query.split("&") if unquote_plus(part.partition("=")[0]).lower() != "api_key")
