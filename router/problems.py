"""Errors as clients see them: a status, a Problem body that says what, why and what to do, and truthful retry headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.http import ErrorCode, Problem, problem


class HttpProblem(Exception):
    """Answer the call with this."""

    def __init__(self, status: int, error: str, message: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.problem: Problem = problem(error, message, **more)
        self.headers = dict(headers or {})


def bad_json(why: str) -> HttpProblem:
    return HttpProblem(400, ErrorCode.BAD_JSON, f"The body is not the JSON that this call takes: {why}")


def bad_fields(fields: Mapping[str, str]) -> HttpProblem:
    """`fields`: name -> what is wrong with it."""
    told = "; ".join(f"{name}: {what}" for name, what in fields.items())
    return HttpProblem(422, ErrorCode.BAD_FIELD, f"Wrong value. {told}", fields=dict(fields))


def wrong_type(error: msgspec.ValidationError) -> HttpProblem:
    """JSON of the wrong shape. The message names the field and the type, never the value."""
    what, _, where = str(error).partition(" - at ")
    field = where.strip("`").removeprefix("$.") or "body"
    if field == "body" and "missing required field" in what:
        field, what = what.split("`")[1], "is required"
    return HttpProblem(422, ErrorCode.BAD_FIELD, f"{field}: {what}", fields={field: what})


def contradiction(sentences: tuple[str, ...]) -> HttpProblem:
    return HttpProblem(
        422,
        ErrorCode.CONTRADICTION,
        "These settings cannot be: " + "; ".join(sentences) + ".",
        detail={"problems": list(sentences)},
    )


def no_key() -> HttpProblem:
    return HttpProblem(
        401,
        ErrorCode.NO_KEY,
        "No API key. Send `Authorization: Bearer KEY`, `?api_key=KEY`, or `api_key` in the body.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def bad_key() -> HttpProblem:
    return HttpProblem(
        401,
        ErrorCode.BAD_KEY,
        "This API key is not known, was revoked, or has expired. Ask an administrator for another.",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )


def forbidden(what: str) -> HttpProblem:
    return HttpProblem(403, ErrorCode.FORBIDDEN, f"This API key may not {what}. Use one that may, such as an admin key.")


def no_endpoint(name: object) -> HttpProblem:
    return HttpProblem(
        404, ErrorCode.NO_ENDPOINT, f"There is no endpoint {_short(name)}. Check the name, or create it: POST /api/v0/endptjobs/."
    )


def not_found(what: str, hint: str = "") -> HttpProblem:
    return HttpProblem(404, ErrorCode.NOT_FOUND, f"{what} does not exist. {hint}".strip())


def too_large(limit_bytes: int) -> HttpProblem:
    return HttpProblem(
        413,
        ErrorCode.BODY_TOO_LARGE,
        f"The body is larger than {limit_bytes} bytes. Payloads go to the worker, not here.",
        detail={"limit_bytes": limit_bytes},
        headers={"Connection": "close"},
    )


def unavailable(what: str, hint: str) -> HttpProblem:
    return HttpProblem(503, ErrorCode.UNAVAILABLE, f"{what}. {hint}", headers={"Retry-After": "2"})


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
