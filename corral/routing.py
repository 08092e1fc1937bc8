"""Step one of a request: ask the router who answers it, and wait there until somebody can."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import msgspec

from . import retry
from .budget import Meter
from .control import Control, Passing
from .errors import EndpointStopped
from .wire import http, ids

#: One held request is at most this long, so that proxies with an idle limit between us and the router do not cut it.
HOLD_S = 20.0
_HOLD_MARGIN_S = 10.0
_PASSING_PAUSE_S = (0.1, 2.0)


class _Shape(msgspec.Struct):
    url: str | None = None


class Routing:
    """Finds a worker for one request, again and again if need be, under one request id."""

    def __init__(
        self,
        control: Control,
        *,
        endpoint: str,
        cost: float,
        meter: Meter,
        avoided: retry.Avoided,
        now: Callable[[], float],
        rng: random.Random,
        on_wait: Callable[[http.RouteWaiting], None] | None = None,
    ) -> None:
        self._control = control
        self._endpoint = endpoint
        self._cost = cost
        self._meter = meter
        self._avoided = avoided
        self._now = now
        self._rng = rng
        self._on_wait = on_wait
        self._request_idx: int | None = None
        self.waited_for_start = False

    async def next_worker(self) -> http.RouteReady:
        """Raises BudgetExceeded (queue or total), EndpointStopped, ApiError."""
        why, passings = "", 0
        while True:
            started = self._now()
            allowance = self._meter.allow("queue", started)
            if allowance.seconds <= 0:
                raise self._meter.exceeded(allowance.budget, why)
            change_s = self._avoided.next_change_s(started)
            wait_s = min(HOLD_S, allowance.seconds, HOLD_S if change_s is None else max(change_s, 0.05))
            try:
                answer = await self._ask(wait_s)
            except Passing as passing:
                why = passing.error.message
                pause = passing.retry_after_s or _passing_pause_s(passings, self._rng)
                passings += 1
            else:
                if isinstance(answer, http.RouteReady):
                    self._meter.spend("queue", self._now() - started)
                    self.waited_for_start |= answer.cold_start
                    return answer
                if answer.wait_reason == "stopped":
                    raise EndpointStopped(
                        f"endpoint {self._endpoint!r} is stopped: {answer.status}",
                        f"start it with `corral endpoint resume {self._endpoint}`",
                    )
                if self._on_wait is not None:
                    self._on_wait(answer)
                why, passings = answer.status, 0
                # A router that held us has done the waiting; one that answered early says how long to stay away.
                pause = 0.0 if self._now() - started >= wait_s * 0.8 else answer.retry_after_s
            left = allowance.seconds - (self._now() - started)
            await asyncio.sleep(max(min(pause, left), 0.0))
            self._meter.spend("queue", self._now() - started)

    async def _ask(self, wait_s: float) -> http.RouteReady | http.RouteWaiting:
        request = http.RouteRequest(
            endpoint=self._endpoint,
            cost=self._cost,
            request_idx=self._request_idx,
            replay_timeout=HOLD_S * 3,
            wait_s=round(wait_s, 3),
            exclude_workers=tuple(ids.WorkerId(worker) for worker in self._avoided.now(self._now())),
        )
        data = await self._control.call("POST", "/route/", body=request, timeout_s=wait_s + _HOLD_MARGIN_S)
        answer = _answer(data)
        self._request_idx = answer.request_idx
        return answer


def _answer(data: bytes) -> http.RouteReady | http.RouteWaiting:
    """Told apart by the presence of `url`, as Vast's clients do."""
    if msgspec.json.decode(data, type=_Shape).url is None:
        return msgspec.json.decode(data, type=http.RouteWaiting)
    return msgspec.json.decode(data, type=http.RouteReady)


def _passing_pause_s(passings: int, rng: random.Random) -> float:
    first, longest = _PASSING_PAUSE_S
    return min(first * 2.0 ** min(passings, 10), longest) * rng.uniform(0.5, 1.0)
