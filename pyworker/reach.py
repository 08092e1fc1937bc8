"""Does this worker answer where its clients are sent? Asked over HTTP, through its own port, before each `ready`.

    at the address clients use    at its own port    then
    this worker                   (not asked)        ready
    something else                (not asked)        not yet: whoever that is would get the requests
    nobody                        this worker        ready, with a warning: many networks do not let a machine call itself from outside
    nobody                        anything else      not yet

"Not yet" is asked again until the time is over, and then it is a failed start. An address at which anything ever answered can be
called from here, so its silence later on is not the network's doing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

import aiohttp
import msgspec
import structlog

from .wire import ids, reasons

log = structlog.get_logger()

#: What the worker says of itself on the paths that anybody may ask.
WORKER_HEADER, BOOT_HEADER = "X-Worker-Id", "X-Worker-Boot"
_PATH = "/livez"
#: Short, because it delays the start wherever calls from inside are dropped without a word.
CONNECT_S = 2.0
ANSWER_S = 5.0
RETRY_S = (0.1, 2.0)  #: first and longest pause


class Who(Enum):
    SELF = "self"
    STRANGER = "stranger"  #: connected, and what came was not our answer
    NOBODY = "nobody"  #: no connection


class Found(msgspec.Struct, frozen=True):
    """What was found at an address; `seen` describes it where it is not this worker."""

    who: Who
    seen: str = ""


class NotReached(Exception):
    """It did not answer in time where it should; the text says what was there instead and what to do."""

    def __init__(self, cause: reasons.Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Reach:
    """`ask` finds out who answers at a URL."""

    def __init__(self, ask: Callable[[str], Awaitable[Found]], *, timeout_s: float, monotonic: Callable[[], float]) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._told = ""
        self._callable_from_here = False

    async def confirm(self, advertised: str, own: str) -> None:
        """Returns when this worker answers at the address it advertises, or where that cannot be called from here, at its own port.
        Raises NotReached.
        """
        deadline = self._monotonic() + self._timeout_s
        pause_s = RETRY_S[0]
        while True:
            failure = await self._look(advertised, own)
            if failure is None:
                self._told = ""
                return
            if self._monotonic() + pause_s > deadline:
                raise failure
            if str(failure) != self._told:  # once per reason
                self._told = str(failure)
                log.warning("not_reached_yet", cause=failure.cause, message=self._told)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_S[1])

    async def _look(self, advertised: str, own: str) -> NotReached | None:
        found = await self._ask(advertised)
        if found.who is not Who.NOBODY:
            self._callable_from_here = True
        if found.who is Who.SELF:
            return None
        if found.who is Who.STRANGER:
            return _taken(advertised, own, found)
        if advertised == own or self._callable_from_here:
            return _silent(advertised, found)
        inside = await self._ask(own)
        if inside.who is Who.STRANGER:
            return _taken(own, own, inside)
        if inside.who is Who.NOBODY:
            return _silent(own, inside)
        log.warning(
            "reached_from_inside_only",
            url=advertised,
            error=found.seen,
            hint=f"many networks do not let a machine call itself from outside, so this may be well. If clients cannot connect, check {_settings(own)}",
        )
        return None


def _taken(url: str, own: str, found: Found) -> NotReached:
    message = f"what answers at {url} is not this worker: {found.seen}. Clients must not be sent there; check {_settings(own)}"
    return NotReached(reasons.Cause.PORT_CONFLICT, message)


def _silent(url: str, found: Found) -> NotReached:
    message = f"this worker does not answer at {url}, where it should: {found.seen}. Check that nothing on this machine blocks that port"
    return NotReached(reasons.Cause.HANG, message)


def _settings(own: str) -> str:
    port = own.rpartition(":")[2]
    return f"that PUBLIC_IPADDR and VAST_TCP_PORT_{port} lead to port {port} of this machine, and that no other process has that address"


class Asking:
    """Who answers at a URL, over HTTP. With TLS it must be our certificate: that is what clients are told to expect."""

    def __init__(self, *, worker_id: ids.WorkerId, boot: str, tls_fingerprint: str) -> None:
        self._worker_id = worker_id
        self._boot = boot
        self._tls = aiohttp.Fingerprint(bytes.fromhex(tls_fingerprint)) if tls_fingerprint else True

    async def __call__(self, url: str) -> Found:
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=ANSWER_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url + _PATH, allow_redirects=False, ssl=self._tls) as reply,
            ):
                return self._judge(reply)
        except aiohttp.ClientSSLError as error:
            return Found(Who.STRANGER, _text(error))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Found(Who.NOBODY, _text(error))
        except (aiohttp.ClientError, OSError) as error:
            return Found(Who.STRANGER, _text(error))

    def _judge(self, reply: aiohttp.ClientResponse) -> Found:
        name = reply.headers.get(WORKER_HEADER, "")
        if name == self._worker_id:
            same = reply.headers.get(BOOT_HEADER) == self._boot
            return Found(Who.SELF) if same else Found(Who.STRANGER, "an earlier run of it still has the port")
        return Found(Who.STRANGER, f"worker {name[:64]}" if name else f"a server that answered {reply.status}")


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:120]
