"""One request from the first question to the first byte of its answer: route, knock, and go on to another worker if need be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace

import aiohttp
import msgspec

from . import retry
from .answer import Attempt
from .body import read_up_to
from .budget import Meter
from .envelope import envelope
from .errors import BudgetExceeded, CorralError, GaveUp, StreamBroken
from .routing import Routing
from .wire import http

_REFUSAL_BODY_BYTES = 64 * 1024


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker is asked: passed through to the model byte for byte."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


class Opened:
    """An answer that has begun: status, headers and the first piece are here, the rest is on its way."""

    def __init__(self, response: aiohttp.ClientResponse, first: bytes, ready: http.RouteReady) -> None:
        self.response = response
        self.first = first
        self.ready = ready
        self.connect_s = 0.0
        self.first_byte_s = 0.0


class _Watch(SimpleNamespace):
    """Carried through aiohttp's tracing to learn when the connection stands."""

    connected: Callable[[], None]


def tracing() -> aiohttp.TraceConfig:
    """For the session that workers are reached with."""

    async def connected(_session: object, context: SimpleNamespace, _params: object) -> None:
        watch = context.trace_request_ctx
        if isinstance(watch, _Watch):
            watch.connected()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(connected)
    trace.on_connection_reuseconn.append(connected)
    return trace


class Failed(Exception):
    """A turn of the road: one worker brought no answer. The journey decides what that means."""

    def __init__(self, setback: retry.Setback) -> None:
        super().__init__(setback.message)
        self.setback = setback


class Journey:
    """Use once: `await open()`."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        routing: Routing,
        call: Call,
        meter: Meter,
        policy: retry.Policy,
        avoided: retry.Avoided,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._session = session
        self._routing = routing
        self._call = call
        self._meter = meter
        self._policy = policy
        self._avoided = avoided
        self._now = now
        self._rng = rng
        self.attempts: list[Attempt] = []

    async def open(self) -> Opened:
        """The first answer that belongs to the caller. Raises BudgetExceeded, GaveUp, EndpointStopped, WrongForm, ApiError."""
        while True:
            ready = await self._routing.next_worker()
            started = self._now()
            try:
                opened = await self._knock(ready)
            except Failed as failed:
                setback = failed.setback
                self._note(ready, setback.code, setback.message, setback.status, started)
                if setback.avoid_s > 0:
                    self._avoided.add(ready.worker_id, setback.avoid_s, self._now())
                if not retry.may_go_on(setback, self._policy, len(self.attempts)):
                    raise self._gave_up(setback) from failed
                await self._pause()
            except BudgetExceeded as error:
                self._note(ready, f"{error.budget}_budget", error.message, None, started)
                raise
            else:
                self._note(ready, "answered", "", opened.response.status, started)
                return opened

    async def _knock(self, ready: http.RouteReady) -> Opened:
        """Ask one worker. Raises Failed when another may be asked, BudgetExceeded when time is up, WrongForm."""
        body, headers = self._form(ready)
        started = self._now()
        connected_at: float | None = None
        allowance = self._meter.allow("connect", started)
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(allowance.timeout_s) as clock:

                def connected() -> None:
                    nonlocal connected_at, allowance
                    connected_at = self._now()
                    allowance = self._meter.allow("first_byte", connected_at)
                    timeout_s = allowance.timeout_s
                    clock.reschedule(None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s)

                response = await self._session.request(
                    self._call.method,
                    ready.url + self._call.path,
                    data=body or None,
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=_Watch(connected=connected),
                )
                opened = await self._look(response, ready)
        except TimeoutError as error:
            _drop(response)
            if connected_at is not None or allowance.budget == "total":
                self._spend(started, connected_at)
                raise self._meter.exceeded(
                    allowance.budget, f"worker {ready.worker_id} at {ready.url} had not answered yet"
                ) from error
            message = f"no connection to {ready.url} within {allowance.seconds:g} s"
            raise Failed(retry.Setback(code=retry.CONNECT_FAILED, message=message, avoid_s=10.0)) from error
        except (aiohttp.ClientError, OSError) as error:
            _drop(response)
            self._spend(started, connected_at)
            code = retry.CONNECT_FAILED if connected_at is None else retry.CONNECTION_LOST
            message = f"{ready.url}: {error or type(error).__name__}"
            raise Failed(retry.Setback(code=code, message=message, began=connected_at is not None, avoid_s=10.0)) from error
        except Failed:
            self._spend(started, connected_at)
            raise
        except BaseException:
            _drop(response)
            raise
        self._spend(started, connected_at)
        opened.connect_s = (connected_at or started) - started
        opened.first_byte_s = self._now() - (connected_at or started)
        return opened

    def _form(self, ready: http.RouteReady) -> tuple[bytes, dict[str, str]]:
        """Body and headers as this worker takes them. Raises WrongForm."""
        call = self._call
        if not ready.envelope:
            return call.body, {**call.headers, "Authorization": f"Bearer {ready.ticket}"}
        kept = {name: value for name, value in call.headers.items() if name.lower() != "content-type"}
        return envelope(call.method, call.body, call.headers, ready), {**kept, "Content-Type": "application/json"}

    async def _look(self, response: aiohttp.ClientResponse, ready: http.RouteReady) -> Opened:
        """Is this the model's answer, or the worker's refusal?"""
        if response.status in retry.LOOK_AT or (ready.envelope and response.status in retry.VAST_LOOK_AT):
            body, _ = await read_up_to(response.content, _REFUSAL_BODY_BYTES)
            after_s = retry.retry_after_s(response.headers)
            setback = retry.refusal(response.status, body, after_s, vast=ready.envelope)
            if setback is not None:
                response.release()
                raise Failed(setback)
            return Opened(response, body, ready)
        return Opened(response, await response.content.readany(), ready)

    def _spend(self, started: float, connected_at: float | None) -> None:
        now = self._now()
        self._meter.spend("connect", (connected_at or now) - started)
        if connected_at is not None:
            self._meter.spend("first_byte", now - connected_at)

    async def _pause(self) -> None:
        started = self._now()
        pause = min(retry.pause_s(self._policy, len(self.attempts), self._rng), self._meter.allow("queue", started).seconds)
        if pause > 0:
            await asyncio.sleep(pause)
            self._meter.spend("queue", self._now() - started)

    def _note(self, ready: http.RouteReady, outcome: str, message: str, status: int | None, started: float) -> None:
        took_s = self._now() - started
        self.attempts.append(
            Attempt(worker_id=ready.worker_id, url=ready.url, outcome=outcome, message=message, status=status, took_s=took_s)
        )

    def _gave_up(self, setback: retry.Setback) -> CorralError:
        told = "; ".join(f"{attempt.worker_id}: {attempt.outcome}" for attempt in self.attempts)
        if setback.began and not self._policy.idempotent:
            message, hint = (
                f"the worker failed after it had begun, and the request may not be repeated: {setback.message}",
                "pass idempotent=True when asking twice is harmless",
            )
        else:
            message, hint = (
                f"{len(self.attempts)} attempts, none answered ({told})",
                "`corral worker list` shows what the workers do",
            )
        return GaveUp(message, self.attempts, hint)


def _drop(response: aiohttp.ClientResponse | None) -> None:
    """Close the connection: the worker sees that nobody listens any more and stops the model's work."""
    if response is not None:
        response.close()


class Pieces:
    """Asynchronous iterator over an answer's bytes, each wait bounded by the idle and the total budget.
    Raises StreamBroken when the worker is lost, BudgetExceeded.
    """

    def __init__(self, opened: Opened, meter: Meter, now: Callable[[], float]) -> None:
        self._opened = opened
        self._meter = meter
        self._now = now
        self._first: bytes | None = opened.first
        self.received_bytes = 0

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        piece = self._first if self._first is not None else await self._read()
        self._first = None
        if not piece:
            raise StopAsyncIteration
        self.received_bytes += len(piece)
        return piece

    async def _read(self) -> bytes:
        started = self._now()
        allowance = self._meter.allow("idle", started)
        try:
            async with asyncio.timeout(allowance.timeout_s):
                return await self._opened.response.content.readany()
        except TimeoutError as error:
            self._opened.response.close()
            raise self._meter.exceeded(allowance.budget, f"after {self.received_bytes} bytes of the answer") from error
        except (aiohttp.ClientError, OSError) as error:
            self._opened.response.close()
            worker_id = self._opened.ready.worker_id
            raise StreamBroken(
                f"worker {worker_id} was lost after {self.received_bytes} bytes of the answer: {error or type(error).__name__}",
                received_bytes=self.received_bytes,
                worker_id=worker_id,
                hint="ask again; nothing is repeated by itself once an answer has begun",
            ) from error
        finally:
            self._meter.spend("idle", self._now() - started)


__all__ = ["Call", "Journey", "Opened", "Pieces", "tracing"]
