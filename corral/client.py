"""The client: name an endpoint, get an answer. Payloads go straight to the worker; the API key never does.

async with Corral() as corral:
    answer = await corral.endpoint("smollm").request("/v1/chat/completions", {"messages": [...]}, cost=200)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from .admin import Admin
from .answer import Answer
from .budget import Budgets, Meter
from .connection import find
from .control import Control
from .journey import Call, Journey, tracing
from .retry import Avoided, Policy
from .routing import Routing
from .stream import Stream
from .wire import http

DEFAULT_COST = 100.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024
_USER_AGENT = "corral-client"


class Corral:
    """A control plane and what can be done with it. Open once, use from many tasks, close at the end.

    `url` and `api_key` default to CORRAL_URL and CORRAL_API_KEY, then to what a `corral up` on this machine left in its data
    directory. Raises ConfigError when neither is known. `ssl` is for workers with certificates of their own.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        budgets: Budgets | None = None,
        policy: Policy | None = None,
        ssl: Any = True,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        found = find(url, api_key)
        self.url = found.url
        self._api_key = found.api_key
        self._budgets = budgets or Budgets()
        self._policy = policy or Policy()
        self._ssl = ssl
        self._now = now
        self._rng = rng or random.Random()
        self._session: aiohttp.ClientSession | None = None
        self._control: Control | None = None

    async def __aenter__(self) -> Self:
        # No limit on connections: how many requests run at once is the caller's business, and a request that waits for a
        # free connection of ours would hold a ticket that expires.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": _USER_AGENT},
            trace_configs=[tracing()],
        )
        self._control = Control(self._session, self.url, self._api_key)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Requests that still run fail."""
        session, self._session, self._control = self._session, None, None
        if session is not None:
            await session.close()

    @property
    def admin(self) -> Admin:
        """What operators do: endpoints, groups, templates, workers, keys, events. Needs an admin key."""
        return Admin(self._open_control())

    def endpoint(
        self, name: str, *, budgets: Budgets | None = None, policy: Policy | None = None, cost: float = DEFAULT_COST
    ) -> Endpoint:
        """A handle; nothing is sent yet. `cost` is in the endpoint's own work units, for language models tokens."""
        return Endpoint(self, name, budgets or self._budgets, policy or self._policy, cost)

    def _open_control(self) -> Control:
        if self._control is None:
            raise RuntimeError("the client is not open; use `async with Corral(...) as corral:`")
        return self._control

    def _stream(
        self,
        endpoint: str,
        call: Call,
        cost: float,
        budgets: Budgets,
        policy: Policy,
        on_wait: Callable[[http.RouteWaiting], None] | None,
    ) -> Stream:
        control = self._open_control()
        assert self._session is not None
        meter = Meter(budgets, self._now())
        avoided = Avoided()
        routing = Routing(
            control,
            endpoint=endpoint,
            cost=cost,
            meter=meter,
            avoided=avoided,
            now=self._now,
            rng=self._rng,
            on_wait=on_wait,
        )
        journey = Journey(
            session=self._session,
            routing=routing,
            call=call,
            meter=meter,
            policy=policy,
            avoided=avoided,
            now=self._now,
            rng=self._rng,
        )
        return Stream(journey, meter, self._now, cold_start=lambda: routing.waited_for_start)


class Endpoint:
    """A named pool of workers, as its users see it."""

    def __init__(self, corral: Corral, name: str, budgets: Budgets, policy: Policy, cost: float) -> None:
        self._corral = corral
        self.name = name
        self._budgets = budgets
        self._policy = policy
        self._cost = cost

    async def request(
        self,
        path: str,
        payload: Any = None,
        *,
        cost: float | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        budgets: Budgets | None = None,
        policy: Policy | None = None,
        on_wait: Callable[[http.RouteWaiting], None] | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """Ask, and read the whole answer. `payload` is sent as JSON, or untouched when it is bytes. `on_wait` hears the
        router each time that it says "not yet".

        Raises BudgetExceeded, GaveUp, StreamBroken, EndpointStopped, WrongForm, AnswerTooLarge, ApiError. A model's own error is an
        answer: see Answer.ok.
        """
        stream = self.stream(
            path, payload, cost=cost, method=method, headers=headers, budgets=budgets, policy=policy, on_wait=on_wait
        )
        async with stream:
            return await stream.answer(max_answer_bytes)

    def stream(
        self,
        path: str,
        payload: Any = None,
        *,
        cost: float | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        budgets: Budgets | None = None,
        policy: Policy | None = None,
        on_wait: Callable[[http.RouteWaiting], None] | None = None,
    ) -> Stream:
        """Ask, and read the answer while it is made; see Stream. Raises nothing before it is entered."""
        return self._corral._stream(  # noqa: SLF001 - two halves of one thing
            self.name,
            _call(method, path, payload, headers),
            self._cost if cost is None else cost,
            budgets or self._budgets,
            policy or self._policy,
            on_wait,
        )


def _call(method: str, path: str, payload: Any, headers: Mapping[str, str] | None) -> Call:
    if not path.startswith("/"):
        raise ValueError(f"path must begin with '/': {path!r}")
    sent = dict(headers or {})
    if any(name.lower() == "authorization" for name in sent):
        raise ValueError("the Authorization header belongs to the ticket; give the model's credentials to the worker instead")
    if isinstance(payload, bytes | bytearray | memoryview):
        return Call(method=method, path=path, body=bytes(payload), headers=sent)
    if payload is None:
        return Call(method=method, path=path, body=b"", headers=sent)
    if not any(name.lower() == "content-type" for name in sent):
        sent["Content-Type"] = "application/json"
    return Call(method=method, path=path, body=msgspec.json.encode(payload), headers=sent)


def request(
    endpoint: str, path: str, payload: Any = None, *, url: str | None = None, api_key: str | None = None, **options: Any
) -> Answer:
    """One request without asyncio, for scripts: opens a client, asks, closes. Options as Endpoint.request."""

    async def once() -> Answer:
        async with Corral(url, api_key) as corral:
            return await corral.endpoint(endpoint).request(path, payload, **options)

    return asyncio.run(once())
