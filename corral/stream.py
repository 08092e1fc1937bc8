"""An answer that is read while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Self

import msgspec

from .answer import Answer, Attempt, Timing
from .budget import Meter
from .errors import AnswerTooLarge, ModelError, StreamBroken
from .journey import Journey, Opened, Pieces
from .sse import Event, EventParser, LineSplitter
from .wire import http

_BROKE_OFF = frozenset({http.ErrorCode.MODEL_DIED, http.ErrorCode.MODEL_TIMEOUT, http.ErrorCode.MODEL_UNREACHABLE})


class _ErrorDetail(msgspec.Struct):
    message: str
    code: str


class _ErrorEvent(msgspec.Struct):
    """How a worker says, in a stream that has begun, that it will not be finished."""

    error: _ErrorDetail


class Stream:
    """`async with endpoint.stream(...) as stream:` and then one of `bytes()`, `lines()`, `events()`.

    Entering finds a worker and waits for the first byte; leaving early closes the connection, which stops the model's work.
    """

    def __init__(self, journey: Journey, meter: Meter, now: Callable[[], float], *, cold_start: Callable[[], bool]) -> None:
        self._journey = journey
        self._meter = meter
        self._now = now
        self._cold_start = cold_start
        self._opened: Opened | None = None
        self._pieces: Pieces | None = None

    async def __aenter__(self) -> Self:
        """Raises BudgetExceeded, GaveUp, EndpointStopped, WrongForm, ApiError."""
        self._opened = await self._journey.open()
        self._pieces = Pieces(self._opened, self._meter, self._now)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        response = self._open.response
        if response.content.at_eof():
            response.release()
        else:
            response.close()
            await asyncio.sleep(0)  # let the transport go before the loop does

    @property
    def _open(self) -> Opened:
        if self._opened is None:
            raise RuntimeError("the stream is not open; use `async with endpoint.stream(...) as stream:`")
        return self._opened

    @property
    def status(self) -> int:
        return self._open.response.status

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def headers(self) -> Mapping[str, str]:
        return self._open.response.headers

    @property
    def worker_id(self) -> str:
        return self._open.ready.worker_id

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(self._journey.attempts)

    @property
    def timing(self) -> Timing:
        """As of now; `total_s` grows until the stream is read to its end."""
        opened = self._open
        return Timing(
            route_wait_s=self._meter.spent_s["queue"],
            queue_s=_queue_s(self.headers),
            connect_s=opened.connect_s,
            first_byte_s=opened.first_byte_s,
            total_s=self._now() - self._meter.started_at,
            cold_start=self._cold_start(),
        )

    def bytes(self) -> AsyncIterator[bytes]:
        """The answer as it comes off the wire. Raises StreamBroken, BudgetExceeded."""
        if self._pieces is None:
            raise RuntimeError("the stream is not open; use `async with endpoint.stream(...) as stream:`")
        return self._pieces

    async def lines(self) -> AsyncIterator[str]:
        """Text lines without their ends. Raises as bytes(); ModelError when the model answered an error."""
        await self._raise_for_status()
        splitter = LineSplitter()
        async for piece in self.bytes():
            for line in splitter.feed(piece):
                yield line.decode("utf-8", "replace")
        for line in splitter.flush():
            yield line.decode("utf-8", "replace")

    async def events(self) -> AsyncIterator[Event]:
        """Server-sent events, `[DONE]` included. Raises as lines(); the worker's own last word, that the model died in the
        middle, is raised too and not yielded.
        """
        await self._raise_for_status()
        parser = EventParser()
        async for piece in self.bytes():
            for event in parser.feed(piece):
                self._raise_if_broken(event)
                yield event
        for event in parser.flush():
            self._raise_if_broken(event)
            yield event

    async def answer(self, max_answer_bytes: int) -> Answer:
        """Read to the end. Raises as bytes(); AnswerTooLarge."""
        parts: list[bytes] = []
        size = 0
        async for piece in self.bytes():
            parts.append(piece)
            size += len(piece)
            if size > max_answer_bytes:
                raise AnswerTooLarge(
                    f"the answer is longer than max_answer_bytes={max_answer_bytes}", "raise the limit, or use stream()"
                )
        return Answer(
            status=self.status,
            headers=self.headers,
            content=b"".join(parts),
            worker_id=self.worker_id,
            group_id=self._open.ready.group_id,
            attempts=self.attempts,
            timing=self.timing,
        )

    def _raise_if_broken(self, event: Event) -> None:
        if event.name != "error":
            return
        try:
            error = msgspec.json.decode(event.data.encode(), type=_ErrorEvent).error
        except msgspec.DecodeError:
            return  # the model's own event of that name
        if error.code in _BROKE_OFF:
            assert self._pieces is not None
            raise StreamBroken(
                f"worker {self.worker_id}: {error.message}",
                received_bytes=self._pieces.received_bytes,
                worker_id=self.worker_id,
                hint="ask again; nothing is repeated by itself once an answer has begun",
            )

    async def _raise_for_status(self) -> None:
        if self.ok:
            return
        body = b""
        async for piece in self.bytes():
            body += piece
            if len(body) > 4096:
                break
        raise ModelError(self.status, body, self.worker_id)


def _queue_s(headers: Mapping[str, str]) -> float | None:
    """What the worker says of its own queue."""
    try:
        return float(headers["X-Queue-Time-Ms"]) / 1000
    except (KeyError, ValueError):
        return None
