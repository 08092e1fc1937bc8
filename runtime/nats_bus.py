"""The bus on a real nats-server. See runtime.bus for what it promises.

Two connections: one for heartbeats and gossip, one for JetStream, so that a burst of the first never delays a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from schemas import ids, subjects

from . import tail
from .bus import Appended, Bucket, Bus, Delivery, Message, OnChange, Subscription, View
from .connection import Link
from .credentials import Credentials
from .errors import BusUnavailable, SettingsError
from .jetstream import H_MSG_ID, H_TTL, JetStream, Stored
from .kv import NatsBucket
from .replies import Replies
from .view import KVView
from .work import Puller

log = structlog.get_logger()

_QUEUE = "answers"  #: several processes that answer on one subject: one of them gets each request
_APPEND_WAIT_S = (0.05, 0.5)
_MAX_ANSWERS_AT_ONCE = 64


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach nats-server. The same in every room: CORRAL_NATS_URLS, CORRAL_NATS_CREDS and so on."""

    urls: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    creds: str = ""  #: path of a .creds file; read again when its JWT is about to expire
    name: str = ""  #: of this participant; "": the name in the credentials, to which permissions are bound
    tls_ca: str = ""  #: path of the certificate authority that signed the server's certificate; "": the system's, for tls:// URLs
    connect_timeout_s: float = 30.0  #: for the first connection; later ones are tried for ever
    request_timeout_s: float = 2.0
    append_timeout_s: float = 10.0  #: longer than an election of a stream's leader, which takes up to 6.5 s


@contextlib.asynccontextmanager
async def connect(settings: NatsSettings) -> AsyncIterator[NatsBus]:
    """A bus for as long as the context is open. Raises BusUnavailable, BusRefused, SettingsError."""
    bus = NatsBus(settings)
    try:
        await bus.open()
        yield bus
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def open_client(settings: NatsSettings) -> AsyncIterator[Client]:
    """A bare nats-py client, for the care of streams (runtime.topology). Raises as `connect` does."""
    link = _link(settings, _credentials(settings))
    try:
        await link.open(settings.connect_timeout_s)
        yield link.client
    finally:
        await link.close()


class NatsBus:
    """See runtime.bus.Bus. Use `connect`."""

    def __init__(self, settings: NatsSettings) -> None:
        """Raises SettingsError when credentials are unreadable or belong to another name."""
        credentials = _credentials(settings)
        self.name = _name(settings, credentials)
        self._settings = settings
        inbox_prefix = subjects.inbox(self.name)
        self._core = _link(settings, credentials)
        self._stored = _link(settings, credentials, "/jetstream")
        self._core_replies = Replies(self._core, inbox_prefix)
        self._stored_replies = Replies(self._stored, inbox_prefix)
        self._js = JetStream(self._stored_replies, settings.request_timeout_s)
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Raises BusUnavailable, BusRefused."""
        await self._core.open(self._settings.connect_timeout_s)
        await self._stored.open(self._settings.connect_timeout_s)
        await self._core_replies.start()
        await self._stored_replies.start()

    async def close(self) -> None:
        for task in list(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)
        await self._stored.close()
        await self._core.close()

    @property
    def connected(self) -> bool:
        return self._core.connected and self._stored.connected

    # --- core --------------------------------------------------------------------------------------------------------

    async def publish(self, subject: str, data: bytes) -> None:
        await self._core.publish(subject, data)

    async def subscribe(self, subject: str, on_message: Callable[[Message], None]) -> Subscription:
        return await self._core.subscribe(subject, lambda message: on_message(Message(message.subject, message.data)))

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        return (await self._core_replies.request(subject, data, timeout_s)).data

    async def respond(self, subject: str, answer: Callable[[Message], Awaitable[bytes]]) -> Subscription:
        def on_request(message: Msg) -> None:
            if len(self._answering) >= _MAX_ANSWERS_AT_ONCE:
                log.warning("request_dropped", subject=message.subject, answering=len(self._answering))
                return
            task = asyncio.create_task(self._answer(message, answer), name=f"answer {subject}")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

        return await self._core.subscribe(subject, on_request, queue=_QUEUE)

    async def _answer(self, message: Msg, answer: Callable[[Message], Awaitable[bytes]]) -> None:
        try:
            data = await answer(Message(message.subject, message.data))
            if message.reply:
                await self._core.publish(message.reply, data)
        except BusUnavailable as error:
            log.warning("answer_not_sent", subject=message.subject, error=error.message)
        except Exception:
            log.exception("request_failed", subject=message.subject)

    # --- stored ------------------------------------------------------------------------------------------------------

    async def append(
        self, subject: str, data: bytes, *, msg_id: str, ttl_s: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Appended:
        all_headers = {**(headers or {}), H_MSG_ID: msg_id}
        if ttl_s is not None:
            all_headers[H_TTL] = f"{max(1, ttl_s)}s"
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._settings.append_timeout_s
        wait_s = _APPEND_WAIT_S[0]
        while True:
            try:
                return Appended(*await self._js.append(subject, data, all_headers))
            except BusUnavailable:
                if loop.time() + wait_s >= give_up_at:
                    raise
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _APPEND_WAIT_S[1])

    def bucket(self, name: str) -> Bucket:
        return NatsBucket(self._js, name)

    @contextlib.asynccontextmanager
    async def view(self, name: str, on_change: OnChange | None = None) -> AsyncIterator[View]:
        view = KVView(self._stored, self._js, name, on_change)
        await view.start()
        try:
            yield view
        finally:
            await view.stop()

    async def work(
        self, stream: str, durable: str, handle: Callable[[Delivery], Awaitable[None]], *, concurrency: int = 8
    ) -> None:
        await Puller(self._stored, self._stored_replies, self._js, stream, durable).run(handle, concurrency)

    async def tail(
        self,
        stream: str,
        subjects: Sequence[str],
        on_message: Callable[[str, bytes, int], None],
        *,
        since_at: float | None = None,
        room: Callable[[], Awaitable[None]] | None = None,
        caught_up: Callable[[], None] | None = None,
    ) -> None:
        await tail.follow(self._stored, self._js, stream, subjects, on_message, since_at=since_at, room=room, caught_up=caught_up)

    # --- for the care of the streams themselves ---------------------------------------------------------------------

    async def stored(self, stream: str, seq: int) -> Stored | None:
        """One message of a stream by its sequence, from the leader; None when it is gone."""
        return await self._js.at(stream, seq)

    async def remove(self, stream: str, seq: int) -> bool:
        """Take one message out of a stream; False when it was gone already."""
        return await self._js.delete(stream, seq)


def _name(settings: NatsSettings, credentials: Credentials | None) -> str:
    name = settings.name or (credentials.name if credentials is not None else "")
    if not ids.is_token(name):
        raise SettingsError(f"not a name for a participant: {name!r}", "set CORRAL_NATS_NAME or CORRAL_NATS_CREDS")
    if credentials is not None and credentials.name != name:
        raise SettingsError(
            f"the credentials in {credentials.path} are for {credentials.name!r}, not for {name!r}",
            "permissions are bound to the name: use the credentials of that name, or leave the name away",
        )
    return name


def _credentials(settings: NatsSettings) -> Credentials | None:
    return Credentials(Path(settings.creds)) if settings.creds else None


def _link(settings: NatsSettings, credentials: Credentials | None, suffix: str = "") -> Link:
    name = _name(settings, credentials)
    return Link(settings.urls, name=name + suffix, inbox_prefix=subjects.inbox(name), credentials=credentials, tls=_tls(settings))


def _tls(settings: NatsSettings) -> ssl.SSLContext | None:
    if settings.tls_ca:
        try:
            return ssl.create_default_context(cafile=settings.tls_ca)
        except OSError as error:
            raise SettingsError(f"cannot read {settings.tls_ca}: {error}", "set CORRAL_NATS_TLS_CA to a PEM file") from error
    if any(url.startswith(("tls://", "wss://")) for url in settings.urls):
        return ssl.create_default_context()
    return None


if TYPE_CHECKING:
    _keeps_the_promises: Bus = NatsBus(NatsSettings())
