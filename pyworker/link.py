"""The worker's word to the control plane: heartbeats out, orders in. The only file that knows NATS.

A client that breaks for whatever reason is thrown away and a new one made, so there is one path and it is walked often. Nothing is
buffered: a heartbeat is full state, and an old one is worth less than none. Requests with tickets do not need any of this.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats.errors
import nkeys
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from .wire import codec, signals, subjects

log = structlog.get_logger()

BEAT_S = 1.0
_PING_INTERVAL_S = 5
_CONNECT_TIMEOUT_S = 2
_RETRY_S = (0.2, 2.0)  #: drawn anew each time, so that a fleet does not come back in step
_CLOSE_S = 2.0


class Link:
    """run() until cancelled. `bundle` is asked before each connection, so that renewed credentials are picked up."""

    def __init__(
        self,
        *,
        bundle: Callable[[], signals.WorkerBundle],
        heartbeat: Callable[[], signals.Heartbeat],
        on_order: Callable[[signals.ControlOrder], Awaitable[signals.ControlReply]],
    ) -> None:
        self._bundle = bundle
        self._heartbeat = heartbeat
        self._on_order = on_order
        self._client: Client | None = None
        self._kick = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()
        self.said = asyncio.Event()  #: at least one heartbeat was sent
        self.dropped = 0  #: heartbeats that could not be sent

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    def kick(self) -> None:
        """The state changed: say so now."""
        self._kick.set()

    async def run(self) -> None:
        """Connect, beat, start again when the connection breaks. On cancellation one last heartbeat is sent."""
        last_error = ""
        while True:
            client = Client()
            try:
                await self._connect(client)
                _stop_if_cancelled()
                self._client = client
                last_error = ""
                log.info("nats_connected")
                await self._beat(client)
                log.warning("nats_connection_lost", error=str(client.last_error or ""))
            except asyncio.CancelledError:
                await self._say_goodbye(client)
                raise
            except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
                text = str(error) or type(error).__name__
                if text != last_error:  # once per outage and reason, not once a second
                    log.warning("nats_connect_failed", error=text)
                last_error = text
            finally:
                self._client = None
                await _discard(client)
            _stop_if_cancelled()
            await asyncio.sleep(random.uniform(*_RETRY_S))

    async def _connect(self, client: Client) -> None:
        bundle = self._bundle()
        options: dict[str, Any] = {
            "servers": list(bundle.nats_urls),
            "name": bundle.worker_id,
            "inbox_prefix": subjects.inbox(bundle.worker_id),
            "pending_size": 0,
            "ping_interval": _PING_INTERVAL_S,
            "max_outstanding_pings": 2,
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0.1,  # between the servers of one attempt; pauses between attempts are ours
            "error_cb": _log_error,
        }
        if bundle.nats_seed:
            key = nkeys.from_seed(bundle.nats_seed.encode())
            options["user_jwt_cb"] = bundle.nats_jwt.encode
            options["signature_cb"] = lambda nonce: base64.b64encode(key.sign(nonce.encode()))
        await client.connect(**options)
        await client.subscribe(subjects.control(bundle.worker_id), cb=self._heard)

    async def _beat(self, client: Client) -> None:
        """Until the connection is gone."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while client.is_connected and not _loops_died(client):
            self._kick.clear()
            await self._send(client)
            now = loop.time()
            due = max(due + BEAT_S, now) if due <= now else due
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._kick.wait()

    async def _send(self, client: Client) -> None:
        beat = self._heartbeat()
        try:
            await client.publish(subjects.heartbeat(beat.endpoint_id, beat.worker_id), codec.encode(beat))
            self.said.set()
        except (nats.errors.Error, OSError) as error:
            self.dropped += 1
            log.debug("heartbeat_dropped", error=type(error).__name__)

    async def _heard(self, message: Msg) -> None:
        """Called inside nats-py's own task of the subscription; an order may take long, so it gets a task."""
        task = asyncio.create_task(self._answer(message), name="control order")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: Msg) -> None:
        try:
            order = codec.decode(message.data, signals.ControlOrder)
        except msgspec.MsgspecError as error:
            log.warning("order_unreadable", error=str(error))
            return
        reply = await self._on_order(order)
        if message.reply:
            with contextlib.suppress(nats.errors.Error, OSError):  # who asked will ask again
                await message.respond(codec.encode(reply))

    async def _say_goodbye(self, client: Client) -> None:
        if client.is_connected:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._send(client)
                    await client.flush()


def _stop_if_cancelled() -> None:
    """nats-py swallows a cancellation that meets it while it connects or closes; the task still knows of it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _log_error(error: Exception) -> None:
    """nats-py awaits this inside its read loop: it must not wait for anything. Most of it is told again by what follows."""
    log.debug("nats_error", error=str(error) or type(error).__name__)


def _loops_died(client: Client) -> bool:
    """A client whose read loop ended by an exception goes on calling itself connected."""
    tasks = (client._reading_task, client._flusher_task)  # noqa: SLF001
    return any(task is not None and task.done() for task in tasks)


async def _discard(client: Client) -> None:
    """Close, and do not wait for a peer that hangs."""
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await client.close()
