"""HTTP to the control plane: one place that knows keys, error bodies and when trying again helps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from . import errors, retry
from .body import read_up_to
from .wire import http

_MAX_BODY_BYTES = 64 * 1024 * 1024
_BY_STATUS: dict[int, type[errors.ApiError]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Taken,
    410: errors.NotFound,
    413: errors.BadRequest,
    422: errors.BadRequest,
}
_HINTS = {
    http.ErrorCode.NO_KEY: "set CORRAL_API_KEY or pass --api-key; `corral up` prints where the admin key is",
    http.ErrorCode.BAD_KEY: "check CORRAL_API_KEY; `corral key list` shows the keys that exist",
    http.ErrorCode.FORBIDDEN: "use an admin key, or create one with `corral key create --role admin`",
    http.ErrorCode.NO_ENDPOINT: "`corral endpoint list` shows what exists; `corral apply -f FILE` creates it",
    http.ErrorCode.NO_TEMPLATE: "apply the template first: `corral apply -f FILE` with a `kind: Template` document",
    http.ErrorCode.UNAVAILABLE: "the control plane has lost its message bus for the moment; try again, or run `corral doctor`",
}


class Passing(Exception):
    """The control plane could not answer just now; asking again may help. `error` is what to raise when time is up."""

    def __init__(self, error: errors.CorralError, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s


class Control:
    """Requests to the router's address. The API key travels here and nowhere else."""

    def __init__(self, session: aiohttp.ClientSession, url: str, api_key: str) -> None:
        self._session = session
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> bytes:
        """One exchange. Raises Passing when trying again may help, ApiError when not."""
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                self.url + path,
                data=None if body is None else msgspec.json.encode(body),
                params=params,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(5.0, timeout_s)),
            ) as response:
                data, whole = await read_up_to(response.content, _MAX_BODY_BYTES)
                if not whole:
                    raise errors.AnswerTooLarge(f"{self.url}{path} answered more than {_MAX_BODY_BYTES} bytes")
                if response.status < 300:
                    return data
                self._refused(response.status, data, response.headers)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Passing(unreachable(self.url, error)) from error
        raise AssertionError("unreachable")  # _refused always raises

    async def ask(self, method: str, path: str, *, body: Any = None, params: Mapping[str, str] | None = None) -> Any:
        """JSON of one exchange, tried three times when that is harmless. Raises ApiError, Unreachable."""
        tries = 3 if method in {"GET", "PUT", "DELETE"} else 1
        for left in reversed(range(tries)):
            try:
                data = await self.call(method, path, body=body, params=params)
            except Passing as passing:
                if not left:
                    raise passing.error from passing
                await asyncio.sleep(min(passing.retry_after_s or 0.3, 5.0))
            else:
                return _json(data, self.url + path)
        raise AssertionError("unreachable")

    def events(self, params: Mapping[str, str]) -> Any:
        """The open response of the event stream; use as `async with`."""
        return self._session.get(
            self.url + "/api/v1/events",
            params=params,
            headers=self._headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
        )

    def _refused(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        error = refused(status, data, self.url)
        if status in {408, 429} or status >= 500:
            raise Passing(error, retry.retry_after_s(headers))
        raise error


def refused(status: int, data: bytes, url: str) -> errors.ApiError:
    """The error that a refusal of the control plane stands for."""
    try:
        problem = msgspec.json.decode(data, type=http.Problem)
    except msgspec.DecodeError:
        problem = http.Problem(error=f"http_{status}", msg=f"{url} answered {status} and not as a Corral router does")
        hint = "check that this address is a Corral router: `curl URL/livez`"
    else:
        hint = _HINTS.get(problem.error, "")
    message = problem.msg
    untold = [f"{name} {what}" for name, what in problem.fields.items() if name not in message]
    if untold:
        message += ": " + "; ".join(untold)
    kind = _BY_STATUS.get(status, errors.ApiError)
    return kind(message, status=status, code=problem.error, fields=problem.fields, request_id=problem.request_id, hint=hint)


def unreachable(url: str, error: BaseException) -> errors.Unreachable:
    why = "it did not answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return errors.Unreachable(
        f"no answer from the control plane at {url}: {why}",
        "is it running? `corral up` starts one here; `corral doctor` looks around",
    )


def _json(data: bytes, url: str) -> Any:
    if not data:
        return None
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise errors.Unreachable(f"{url} answered something that is not JSON", "is this address a Corral router?") from error
