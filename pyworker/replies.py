"""Error answers: one shape, headers that tell a client whether and when to come again."""

from __future__ import annotations

import math

import msgspec
from aiohttp import web

from .wire import http


def problem(
    status: int,
    code: str,
    message: str,
    *,
    request_id: str = "",
    worker_id: str = "",
    retry: bool = True,
    retry_after_s: float | None = None,
    fields: dict[str, str] | None = None,
) -> web.Response:
    """`retry=False` adds `x-should-retry: false`, which OpenAI's clients obey: the same call cannot succeed at this worker."""
    headers = {"Content-Type": "application/json"}
    if request_id:
        headers["X-Request-Id"] = request_id
    if worker_id:
        headers["X-Worker-Id"] = worker_id
    if not retry:
        headers["X-Should-Retry"] = "false"
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
        headers["Retry-After-Ms"] = str(max(1, round(retry_after_s * 1000)))
    if status in (429, 503):
        headers["X-Dropped-Reason"] = code
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = msgspec.json.encode(http.problem(code, message, request_id=request_id, fields=fields or {}))
    return web.Response(status=status, body=body, headers=headers)


def sse_error(code: str, message: str, request_id: str) -> bytes:
    """One event in the shape that OpenAI's streaming clients raise on."""
    error = {"message": message, "type": "server_error", "code": code, "param": None}
    return b"event: error\ndata: " + msgspec.json.encode({"error": error, "request_id": request_id}) + b"\n\n"
