"""One connection to nats-server that stays up: nats-py with its known traps closed.

- Nothing is buffered while disconnected (pending_size=0), and what was buffered when the socket broke is thrown away: a command
  must not arrive after its sender has given it up.
- A dead read loop inside a client that calls itself connected is noticed and mended by reconnecting.
- A client that closed for good (any -ERR but two does that) is replaced, and every subscription made again.
- A socket whose peer hangs cannot hold up the reconnect: it is aborted instead of closed.
- A JWT is renewed by reconnecting at 80 % of its life, with the file read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import ssl
import time
from collections.abc import Callable
from typing import Any

import nats.errors
import structlog
from nats.aio.client import PING_PROTO, Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .credentials import Credentials
from .errors import BusRefused, BusUnavailable, CorralError

log = structlog.get_logger()

_PING_INTERVAL_S = 5
_MAX_OUTSTANDING_PINGS = 2
_RECONNECT_WAIT_S = (0.2, 0.5)  # drawn once per client, so that a fleet does not come back in step
_CONNECT_TIMEOUT_S = 1
_CLOSE_TIMEOUT_S = 2.0
_WATCH_S = 0.25
_REBUILD_WAIT_S = (0.1, 2.0)
_JWT_LIFE = 0.8
_JWT_RECHECK_S = 30.0
_ROUND_TRIP_S = 2.0

_DENIED = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"", re.IGNORECASE)
_AUTH_ERRORS = ("authorization violation", "authentication expired", "authentication revoked", "authentication timeout")

OnMessage = Callable[[Msg], None]


class Subscribed:
    """A wish to hear a subject. It outlives clients: a new one is given all of them."""

    def __init__(self, link: Link, subject: str, queue: str, on_message: OnMessage) -> None:
        self.subject = subject
        self.queue = queue
        self._link = link
        self._on_message = on_message
        self.current: Subscription | None = None
        self.denied = False

    async def deliver(self, message: Msg) -> None:
        try:
            self._on_message(message)
        except Exception:
            log.exception("message_handler_failed", subject=message.subject)

    async def stop(self) -> None:
        await self._link.unsubscribe(self)


class Link:
    """open(), use, close(). `on_up` and `on_down` callbacks run on the loop and must not block."""

    def __init__(
        self, urls: tuple[str, ...], *, name: str, inbox_prefix: str, credentials: Credentials | None, tls: ssl.SSLContext | None
    ) -> None:
        self._urls = urls
        self._name = name
        self._inbox_prefix = inbox_prefix
        self._credentials = credentials
        self._tls = tls
        self._client: Client | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._subscribed: dict[Subscribed, None] = {}
        self._closed = asyncio.Event()
        self._closing = False
        self._refused: str | None = None
        self._next_jwt_check_at = 0.0
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.on_denied: list[Callable[[str], None]] = []  #: a publish was refused: its subject, lower-cased

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    @property
    def client(self) -> Client:
        """The client of the moment: only for short errands, as it may be replaced."""
        if self._client is None:
            raise BusUnavailable("not connected")
        return self._client

    async def open(self, deadline_s: float) -> None:
        """Connect for the first time. Raises BusRefused when the server does not accept us, BusUnavailable after the deadline."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._build(give_up_when_refused=True)
        except TimeoutError:
            where = ", ".join(self._urls)
            raise BusUnavailable(
                f"no nats-server answers at {where} within {deadline_s:g} s", "is it running? see CORRAL_NATS_URLS"
            ) from None
        self._supervisor = asyncio.create_task(self._supervise(), name=f"supervise {self._name}")

    async def close(self) -> None:
        """Let the server read what was sent, then close."""
        self._closing = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        await self.round_trip(_CLOSE_TIMEOUT_S)
        if self._client is not None:
            await _discard(self._client)
        self._subscribed.clear()

    async def publish(self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Raises BusUnavailable at once when not connected."""
        client = self._client
        if client is None or not client.is_connected:
            raise BusUnavailable(f"not connected; {subject} was not sent")
        try:
            await client.publish(subject, data, reply=reply, headers=headers)
        except nats.errors.MaxPayloadError as error:
            raise BusRefused(f"{subject}: {len(data)} bytes is more than the server takes ({client.max_payload})") from error
        except nats.errors.BadSubjectError as error:
            raise BusRefused(f"not a subject: {subject!r}") from error
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(f"{subject} was not sent: {error}") from error

    async def subscribe(self, subject: str, on_message: OnMessage, *, queue: str = "") -> Subscribed:
        """Returns when the server knows, or, while disconnected, at once: then it will know after the reconnect.

        Raises BusRefused when our credentials do not allow it.
        """
        wanted = Subscribed(self, subject, queue, on_message)
        self._subscribed[wanted] = None
        client = self._client
        if client is None or client.is_closed:
            return wanted
        try:
            made = await client.subscribe(subject, queue=queue, cb=wanted.deliver)
            if client is self._client:
                wanted.current = made
        except nats.errors.BadSubjectError as error:
            del self._subscribed[wanted]
            raise BusRefused(f"not a subject: {subject!r}") from error
        except nats.errors.Error:
            return wanted  # it closed under our hands; the next client is given all
        await self.round_trip()
        if wanted.denied:
            await self.unsubscribe(wanted)
            raise BusRefused(f"subscribing to {subject} is not permitted", "compare runtime/permissions.py with the role in use")
        return wanted

    async def unsubscribe(self, wanted: Subscribed) -> None:
        self._subscribed.pop(wanted, None)
        if wanted.current is not None:
            with contextlib.suppress(nats.errors.Error):  # the connection is gone, and so is the subscription
                await wanted.current.unsubscribe()

    async def round_trip(self, timeout_s: float = _ROUND_TRIP_S) -> bool:
        """Wait until the server has read all that we sent; False when it did not say so in time.

        nats-py's own flush() cancels its future on a timeout, and the late answer then ends the read loop; and its PING overtakes
        what still waits to be written. This one is never cancelled and waits in line.
        """
        client = self._client
        if client is None or not client.is_connected:
            return False
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        client._pongs.append(answered)  # noqa: SLF001
        await client._send_command(PING_PROTO)  # noqa: SLF001
        await client._flush_pending()  # noqa: SLF001
        await asyncio.wait({answered}, timeout=timeout_s)
        return answered.done()

    async def reconnect(self) -> None:
        """Drop the connection and make a new one; subscriptions are kept."""
        if self._client is not None:
            await self._client.force_reconnect()

    # --- the client ------------------------------------------------------------------------------------------------

    async def _build(self, *, give_up_when_refused: bool) -> None:
        """Make a client and connect it, trying until it works."""
        wait_s = _REBUILD_WAIT_S[0]
        while True:
            self._closed.clear()
            self._refused = None
            client = Client()
            try:
                await client.connect(**self._options())
                client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
                break
            except asyncio.CancelledError:
                await _discard(client)
                raise
            except (nats.errors.Error, OSError, TimeoutError) as error:
                await _discard(client)
                refused = self._refused or (str(error) if _is_auth_error(str(error)) else None)
                if refused is not None and give_up_when_refused:
                    raise BusRefused(
                        f"nats-server refused us as {self._name}: {refused}",
                        "wrong, expired or revoked credentials: see CORRAL_NATS_CREDS",
                    ) from error
                log.warning("nats_connect_failed", name=self._name, error=str(error) or type(error).__name__)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _REBUILD_WAIT_S[1])
            self._reload_credentials()
        self._client = client
        for wanted in list(self._subscribed):
            with contextlib.suppress(nats.errors.Error):  # closed again already: the supervisor comes back here
                wanted.current = await client.subscribe(wanted.subject, queue=wanted.queue, cb=wanted.deliver)
        await self.round_trip()
        self._notify(self.on_up)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "servers": list(self._urls),
            "name": self._name,
            "inbox_prefix": self._inbox_prefix,
            "pending_size": 0,
            "ping_interval": _PING_INTERVAL_S,
            "max_outstanding_pings": _MAX_OUTSTANDING_PINGS,
            "reconnect_time_wait": random.uniform(*_RECONNECT_WAIT_S),
            "connect_timeout": _CONNECT_TIMEOUT_S,
            # While connecting for the first time, failures come back to _build, which can tell them apart.
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }
        if self._credentials is not None:
            options |= {"user_jwt_cb": self._credentials.jwt, "signature_cb": self._credentials.sign}
        if self._tls is not None:
            options["tls"] = self._tls
        return options

    async def _on_error(self, error: Exception) -> None:
        """nats-py awaits this inside its read loop: it must not wait for anything."""
        text = str(error)
        denied = _DENIED.search(text)
        if denied is not None:
            verb, subject = denied[1].lower(), denied[2]
            log.error("nats_permission_denied", name=self._name, verb=verb, subject=subject)
            if verb == "publish":
                for notify in self.on_denied:
                    notify(subject)
            else:
                for wanted in self._subscribed:
                    wanted.denied = wanted.denied or wanted.subject.lower() == subject.lower()
        elif isinstance(error, nats.errors.SlowConsumerError):
            log.error("nats_slow_consumer", name=self._name, subject=error.subject)
        else:
            if _is_auth_error(text):
                self._refused = text
            log.warning("nats_error", name=self._name, error=text or type(error).__name__)

    async def _on_disconnected(self) -> None:
        if self._client is not None:
            _forget_unsent(self._client)
            if not self._closing:
                log.warning("nats_disconnected", name=self._name)
                self._notify(self.on_down)

    async def _on_reconnected(self) -> None:
        log.info("nats_reconnected", name=self._name)
        self._notify(self.on_up)

    async def _on_closed(self) -> None:
        self._closed.set()

    @staticmethod
    def _notify(listeners: list[Callable[[], None]]) -> None:
        for listener in list(listeners):
            listener()

    # --- the supervisor --------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_S):
                    await self._closed.wait()
            try:
                await self._watch()
            except Exception:
                log.exception("nats_supervisor_failed", name=self._name)

    async def _watch(self) -> None:
        client = self._client
        if client is None or client.is_closed or self._closed.is_set():
            log.warning("nats_client_closed", name=self._name, error=str(client.last_error) if client is not None else "")
            self._notify(self.on_down)
            self._reload_credentials()
            await self._build(give_up_when_refused=False)
            log.info("nats_client_rebuilt", name=self._name)
            return
        if client.is_connected and _loops_died(client):
            log.warning("nats_read_loop_died", name=self._name)
            await client.force_reconnect()
        if client.is_reconnecting:
            _abort_closing_socket(client)
        if time.time() >= self._next_jwt_check_at:
            await self._renew_jwt(client)

    async def _renew_jwt(self, client: Client) -> None:
        credentials = self._credentials
        refresh_at = credentials.refresh_at(_JWT_LIFE) if credentials is not None else None
        if credentials is None or refresh_at is None:
            self._next_jwt_check_at = float("inf")
            return
        now = time.time()
        if now < refresh_at:
            self._next_jwt_check_at = refresh_at
            return
        self._next_jwt_check_at = now + min(_JWT_RECHECK_S, max(0.5, (credentials.claims.exp or now) - now) / 4)
        if self._reload_credentials():
            log.info("nats_credentials_renewed", name=self._name)
            self._next_jwt_check_at = 0.0
            await client.force_reconnect()
        else:
            log.warning(
                "nats_credentials_expire_soon", name=self._name, path=str(credentials.path), expires_at=credentials.claims.exp
            )

    def _reload_credentials(self) -> bool:
        if self._credentials is None:
            return False
        try:
            return self._credentials.reload()
        except CorralError as error:
            log.error("nats_credentials_unreadable", name=self._name, error=error.message)  # noqa: TRY400
            return False


def _is_auth_error(text: str) -> bool:
    return any(sign in text.lower() for sign in _AUTH_ERRORS)


# nats-py keeps the following to itself; there is no public way to see a dead loop, a hung close, or bytes not yet sent.


def _loops_died(client: Client) -> bool:
    loops = (client._reading_task, client._flusher_task)  # noqa: SLF001
    return any(task is not None and task.done() for task in loops)


def _forget_unsent(client: Client) -> None:
    client._pending = []  # noqa: SLF001
    client._pending_data_size = 0  # noqa: SLF001


def _abort_closing_socket(client: Client) -> None:
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001
    if writer is not None and writer.is_closing():
        writer.transport.abort()


def _abort_socket(client: Client) -> None:
    """What is closed already stays so. A client that was refused counts as closed before its socket is, and close() then does nothing."""
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001
    if writer is not None:
        writer.transport.abort()


async def _discard(client: Client) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await client.close()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        log.warning("nats_close_failed", error=str(error) or type(error).__name__)
    finally:
        _abort_socket(client)
