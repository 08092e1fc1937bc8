"""Requests over one inbox: answers find their way by the last token of the subject.

nats-py's own request() waits out its timeout when the connection breaks or a permission is missing. This one fails at once in
both cases, and it can take many answers to one request, which batched reads and pull consumers need.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Any

from nats.aio.msg import Msg

from .connection import Link, Subscribed
from .errors import BusError, BusRefused, BusUnavailable

NO_RESPONDERS = "503"


def status_of(message: Msg) -> str:
    """The status of a message that the server itself made; "" for a message of somebody else."""
    return (message.headers or {}).get("Status", "")


class Exchange:
    """One request and where its answers go. `fail` is called at most once, and nothing after it."""

    def __init__(self, subject: str, on_message: Callable[[Msg], None], fail: Callable[[BusError], None]) -> None:
        self.subject = subject
        self.on_message = on_message
        self.fail = fail


class Replies:
    def __init__(self, link: Link, inbox_prefix: str) -> None:
        self._link = link
        self._inbox_prefix = inbox_prefix
        self._prefix = f"{self.new_inbox()}."
        self._tokens = itertools.count()
        self._open: dict[str, Exchange] = {}
        self._subscribed: Subscribed | None = None
        link.on_down.append(self._on_down)
        link.on_denied.append(self._on_denied)

    def new_inbox(self) -> str:
        """A subject of our own that nobody else listens on."""
        return f"{self._inbox_prefix}.{secrets.token_hex(8)}"

    async def start(self) -> None:
        self._subscribed = await self._link.subscribe(f"{self._prefix}*", self._on_message)

    async def request(self, subject: str, data: bytes, timeout_s: float, *, headers: dict[str, str] | None = None) -> Msg:
        """One request, one answer. Raises BusUnavailable when none comes, BusRefused when we may not ask."""
        answered: asyncio.Future[Msg] = expected()
        token = self.begin(Exchange(subject, _resolve(answered), _reject(answered)))
        try:
            await self.send(token, data, headers=headers)
            async with asyncio.timeout(timeout_s):
                message = await answered
        except TimeoutError:
            raise BusUnavailable(f"no answer on {subject} within {timeout_s:g} s") from None
        finally:
            self.end(token)
        if status_of(message) == NO_RESPONDERS and not message.data:
            raise BusUnavailable(f"nobody answers on {subject}")
        return message

    def begin(self, exchange: Exchange) -> str:
        """Expect answers; returns the token for send() and end()."""
        token = f"{next(self._tokens):x}"
        self._open[token] = exchange
        return token

    async def send(self, token: str, data: bytes, *, headers: dict[str, str] | None = None) -> None:
        """Raises BusUnavailable at once when not connected."""
        await self._link.publish(self._open[token].subject, data, reply=self._prefix + token, headers=headers)

    def end(self, token: str) -> None:
        """Later answers are dropped."""
        self._open.pop(token, None)

    def _on_message(self, message: Msg) -> None:
        exchange = self._open.get(message.subject[len(self._prefix) :])
        if exchange is not None:
            exchange.on_message(message)

    def _on_down(self) -> None:
        self._fail_all(lambda _: True, lambda subject: BusUnavailable(f"the connection broke while waiting on {subject}"))

    def _on_denied(self, denied_subject: str) -> None:
        self._fail_all(
            lambda subject: subject.lower() == denied_subject,
            lambda subject: BusRefused(
                f"publishing on {subject} is not permitted", "compare runtime/permissions.py with the role in use"
            ),
        )

    def _fail_all(self, which: Callable[[str], bool], error: Callable[[str], BusError]) -> None:
        for token, exchange in list(self._open.items()):
            if which(exchange.subject):
                del self._open[token]
                exchange.fail(error(exchange.subject))


def expected() -> asyncio.Future[Any]:
    """A future that may fail after whoever waited for it was cancelled: nobody has to hear of that."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _resolve(future: asyncio.Future[Msg]) -> Callable[[Msg], None]:
    def resolve(message: Msg) -> None:
        if not future.done():
            future.set_result(message)

    return resolve


def _reject(future: asyncio.Future[Msg]) -> Callable[[BusError], None]:
    def reject(error: BusError) -> None:
        if not future.done():
            future.set_exception(error)

    return reject
