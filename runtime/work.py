"""Pull messages from a durable consumer and handle them, a bounded number at a time.

A pull asks for as many messages as there are free hands and stays open for half a minute; the server's heartbeats on it tell
that it still is. A handler that raises leaves its message unsettled, and the consumer's backoff brings it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from nats.aio.msg import Msg

from . import js_names
from .connection import Link
from .errors import BusError, BusRefused, BusUnavailable, StreamMissing
from .jetstream import JetStream
from .replies import NO_RESPONDERS, Replies, expected, status_of

log = structlog.get_logger()

_EXPIRES_S = 30.0
_HEARTBEAT_S = 2.0
_SILENT_S = 3 * _HEARTBEAT_S
_RETRY_S = (0.05, 2.0)
_ACK_TIMEOUT_S = 2.0

_HEARTBEAT = "100"
_REQUEST_OVER = {"404", "408"}  #: nothing there; expired

Handle = Callable[["NatsDelivery"], Awaitable[None]]


class NatsDelivery:
    """See runtime.bus.Delivery."""

    def __init__(self, link: Link, replies: Replies, message: Msg) -> None:
        self._link = link
        self._replies = replies
        self._reply = message.reply
        self.subject = message.subject
        self.data = message.data
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>, with two more tokens in front
        # of the stream when the server names domain and account.
        tokens = message.reply.split(".")
        self.deliveries = int(tokens[-5])
        self.seq = int(tokens[-4])

    async def ack(self) -> None:
        await self._replies.request(self._reply, b"+ACK", _ACK_TIMEOUT_S)

    async def retry(self, delay_s: float) -> None:
        body = msgspec.json.encode({"delay": int(delay_s * 1e9)})
        await self._link.publish(self._reply, b"-NAK " + body)

    async def term(self, reason: str) -> None:
        await self._replies.request(self._reply, b"+TERM " + " ".join(reason.split())[:200].encode(), _ACK_TIMEOUT_S)

    async def working(self) -> None:
        await self._link.publish(self._reply, b"+WPI")


class Puller:
    """Works one durable consumer; several processes may share it."""

    def __init__(self, link: Link, replies: Replies, jetstream: JetStream, stream: str, durable: str) -> None:
        self._link = link
        self._replies = replies
        self._js = jetstream
        self._stream = stream
        self._durable = durable
        self._subject = js_names.next_message(stream, durable)
        self._pull: _Pull | None = None
        self._busy = 0
        self._freed = asyncio.Event()
        self._ever_pulled = False

    async def run(self, handle: Handle, concurrency: int) -> None:
        """Until cancelled. Raises StreamMissing when there is no such consumer at the start, BusRefused when it is not ours."""
        inbox = self._replies.new_inbox()
        async with contextlib.AsyncExitStack() as stack:
            self._link.on_down.append(self._on_down)
            stack.callback(self._link.on_down.remove, self._on_down)
            self._link.on_denied.append(self._on_denied)
            stack.callback(self._link.on_denied.remove, self._on_denied)
            tasks: set[asyncio.Task[None]] = set()
            stack.push_async_callback(_cancel, tasks)

            def take(message: Msg) -> None:
                self._busy += 1
                task = asyncio.create_task(self._handle(handle, message), name=f"{self._durable} {message.subject}")
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            # A pulled message keeps its own subject, so it cannot come through the inbox that all requests share.
            subscribed = await self._link.subscribe(inbox, lambda message: self._on_message(message, take))
            stack.push_async_callback(subscribed.stop)
            wait_s = _RETRY_S[0]
            while True:
                while self._busy >= concurrency:
                    self._freed.clear()
                    await self._freed.wait()
                try:
                    await self._pull_once(inbox, concurrency - self._busy)
                    wait_s = _RETRY_S[0]
                except BusUnavailable as error:
                    if self._link.connected:
                        log.warning("pull_failed", stream=self._stream, durable=self._durable, error=error.message)
                    await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
                    wait_s = min(wait_s * 2, _RETRY_S[1])

    async def _pull_once(self, inbox: str, wanted: int) -> None:
        loop = asyncio.get_running_loop()
        pull = self._pull = _Pull(wanted, expected(), loop.time())
        body = {"batch": wanted, "expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
        try:
            await self._link.publish(self._subject, msgspec.json.encode(body), reply=inbox)
            while not pull.over.done():
                await asyncio.wait({pull.over}, timeout=_HEARTBEAT_S)
                if not pull.over.done() and loop.time() - pull.heard_at > _SILENT_S:
                    raise BusUnavailable(f"the server was silent for {_SILENT_S:g} s")
            status = pull.over.result()
        finally:
            self._pull = None
        if status == NO_RESPONDERS:
            await self._no_consumer()
        self._ever_pulled = True

    def _on_message(self, message: Msg, take: Callable[[Msg], None]) -> None:
        pull, status = self._pull, status_of(message)
        if pull is not None:
            pull.heard_at = asyncio.get_running_loop().time()
        if not status:
            take(message)  # even when its pull was given up: it is ours now, and would come again only after the time to ack
            if pull is not None:
                pull.taken += 1
                if pull.taken == pull.wanted:
                    pull.end("")
        elif pull is not None and status in {*_REQUEST_OVER, NO_RESPONDERS}:
            pull.end(status)
        elif pull is not None and status != _HEARTBEAT:
            description = (message.headers or {}).get("Description", "")
            pull.end(BusUnavailable(f"the server ended the pull: {status} {description}"))

    def _on_down(self) -> None:
        if self._pull is not None:
            self._pull.end(BusUnavailable("the connection broke"))

    def _on_denied(self, subject: str) -> None:
        if self._pull is not None and subject == self._subject.lower():
            self._pull.end(
                BusRefused(
                    f"{self._stream}/{self._durable} is not ours to work", "compare runtime/permissions.py with the role in use"
                )
            )

    async def _no_consumer(self) -> None:
        """Nobody answers a pull: either the server is not ready, or the consumer does not exist."""
        try:
            await self._js.consumer_exists(self._stream, self._durable)
        except StreamMissing as error:
            if not self._ever_pulled:
                raise
            raise BusUnavailable(error.message) from error
        raise BusUnavailable(f"{self._stream}/{self._durable} is not served now")

    async def _handle(self, handle: Handle, message: Msg) -> None:
        delivery = NatsDelivery(self._link, self._replies, message)
        try:
            await handle(delivery)
        except BusError as error:
            log.warning("work_interrupted", subject=delivery.subject, seq=delivery.seq, error=error.message)
        except Exception:
            log.exception("work_failed", subject=delivery.subject, seq=delivery.seq, deliveries=delivery.deliveries)
        finally:
            self._busy -= 1
            self._freed.set()


class _Pull:
    """One request for messages."""

    def __init__(self, wanted: int, over: asyncio.Future[str], now: float) -> None:
        self.wanted = wanted
        self.taken = 0
        self.heard_at = now
        self.over = over  #: the status that ended it; "" when it got all it wanted

    def end(self, result: str | BusError) -> None:
        if self.over.done():
            return
        if isinstance(result, BusError):
            self.over.set_exception(result)
        else:
            self.over.set_result(result)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
