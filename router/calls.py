"""HTTP of the router on aiohttp's low-level server: one handler, a table of paths beside it, problems as JSON.

/route/ is answered before the table is looked at. Everything else is rare and goes the comfortable way.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web
from aiohttp.web_exceptions import HTTPException, HTTPRequestEntityTooLarge

from runtime.errors import BusError, Conflict
from schemas.http import MAX_ADMIN_BODY_BYTES, ErrorCode

from . import problems
from .api_keys import KeyRing, Principal
from .problems import HttpProblem

log = structlog.get_logger()

T = TypeVar("T")
JSON = "application/json"
_PERHAPS_THERE = frozenset({ErrorCode.BAD_KEY, ErrorCode.NO_ENDPOINT, ErrorCode.NO_GROUP, ErrorCode.NO_WORKER})
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class Call:
    """One HTTP call, as the handlers of the table see it."""

    def __init__(self, request: web.BaseRequest, params: Mapping[str, str], keys: KeyRing, now: Callable[[], float]) -> None:
        self.request = request
        self.params = params
        self._keys = keys
        self._now = now

    async def body(self) -> bytes:
        """Raises HttpProblem 413."""
        return await read(self.request, MAX_ADMIN_BODY_BYTES)

    async def json(self, kind: type[T]) -> T:
        """The body as this struct; an empty body is an empty object. Raises HttpProblem 400, 413, 422."""
        try:
            return msgspec.json.decode(await self.body() or b"{}", type=kind)
        except msgspec.ValidationError as error:
            raise problems.wrong_type(error) from error
        except msgspec.DecodeError as error:
            raise problems.bad_json(str(error)) from error

    async def who(self) -> Principal:
        """Raises HttpProblem 401."""
        key = key_of(self.request)
        if key is None and self.request.can_read_body:
            key = await self._key_in_body()
        principal = self._keys.who(key, self._now())
        if principal is None:
            raise problems.bad_key() if key else problems.no_key()
        return principal

    async def admin(self, what: str) -> Principal:
        """Raises HttpProblem 401, 403."""
        principal = await self.who()
        if not principal.is_admin:
            raise problems.forbidden(what)
        return principal

    def number(self, name: str) -> int:
        """A number in the path. Raises HttpProblem 404."""
        text = self.params[name]
        if not text.isascii() or not text.isdecimal() or len(text) > 16:
            raise problems.not_found(f"{self.request.path}")
        return int(text)

    async def _key_in_body(self) -> str | None:
        """Vast's clients put the key there, sometimes only there."""
        try:
            return msgspec.json.decode(await self.body(), type=_KeyInBody).api_key
        except msgspec.MsgspecError:
            return None  # the handler will say what is wrong with the body


class _KeyInBody(msgspec.Struct):
    api_key: str | None = None


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Table:
    """Paths and their handlers. Vast's clients are not of one mind about the last slash, so both forms are known."""

    def __init__(self) -> None:
        self._router = web.UrlDispatcher()
        self._handlers: dict[tuple[str, str], Handler] = {}

    def add(self, method: str, path: str, handler: Handler) -> None:
        for form in {path.rstrip("/") or "/", path if path.endswith("/") else path + "/"}:
            resource = self._router.add_route(method, form, _never).resource
            assert resource is not None
            self._handlers[method, resource.canonical] = handler

    async def find(self, request: web.BaseRequest) -> tuple[Handler, Mapping[str, str]]:
        """Raises HttpProblem 404 or 405."""
        match = await self._router.resolve(request)  # type: ignore[arg-type]
        if match.http_exception is not None:
            if match.http_exception.status == 405:
                allowed = match.http_exception.headers.get("Allow", "")
                raise HttpProblem(
                    405, ErrorCode.METHOD, f"{request.path} takes {allowed}, not {request.method}.", headers={"Allow": allowed}
                )
            raise problems.not_found(request.path, "Check the path; nothing else is wrong with the call.")
        resource = match.route.resource
        assert resource is not None
        return self._handlers[match.route.method, resource.canonical], match


async def _never(request: web.Request) -> web.StreamResponse:
    """Aiohttp's table wants its own kind of handler; ours is looked up beside it."""
    raise AssertionError(request.path)


def key_of(request: web.BaseRequest) -> str | None:
    """The API key from the header or the query."""
    header = request.headers.get("Authorization")
    if header is not None and header[:7].lower() == "bearer ":
        return header[7:].strip() or None
    if request.query_string:
        return request.query.get("api_key") or None
    return None


async def read(request: web.BaseRequest, limit_bytes: int) -> bytes:
    """The body. Raises HttpProblem 413."""
    length = request.content_length
    if length is not None and length > limit_bytes:
        raise problems.too_large(limit_bytes)
    try:
        body = await request.read()
    except HTTPRequestEntityTooLarge as error:
        raise problems.too_large(limit_bytes) from error
    if len(body) > limit_bytes:
        raise problems.too_large(limit_bytes)
    return body


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON, headers=headers)


def told(error: Exception, request_id: str, *, synced: bool) -> web.Response:
    """The error as an answer. Until all is heard that there is (`synced`), what is not known may be there all the same."""
    problem = as_problem(error, request_id)
    if not synced and problem.problem.error in _PERHAPS_THERE:
        problem = problems.unavailable("This router has just started and does not know yet what there is", "Ask again.")
    # Vast's command line looks for `success`, so it is said and not left to its default.
    body = {"success": False, **msgspec.to_builtins(problem.problem), "request_id": request_id}
    return reply(body, problem.status, {**problem.headers, "X-Request-Id": request_id})


def request_id_of(request: web.BaseRequest) -> str:
    """The caller's, if it is fit to be repeated."""
    return fit_request_id(request.headers.get("X-Request-Id", "")) or new_request_id()


def fit_request_id(given: str) -> str:
    """The caller's own, or "" when it is not fit to be repeated."""
    return given if _REQUEST_ID.fullmatch(given) else ""


def new_request_id() -> str:
    return secrets.token_hex(8)


def as_problem(error: Exception, request_id: str) -> HttpProblem:
    """What the caller is told about an error. One that nobody foresaw is logged under the request's id."""
    if isinstance(error, HttpProblem):
        return error
    if isinstance(error, Conflict):
        return HttpProblem(409, ErrorCode.CONFLICT, "Somebody else changed this at the same time. Read it and try again.")
    if isinstance(error, BusError):
        return problems.unavailable("The control plane's message bus does not answer", "Routing goes on; try this again soon.")
    if isinstance(error, HTTPException):
        return HttpProblem(error.status, ErrorCode.BAD_FIELD, error.reason)
    log.error("request_failed", request_id=request_id, error=type(error).__name__, exc_info=error)
    return HttpProblem(500, ErrorCode.INTERNAL, "The router failed on this request; its log has the cause.")
