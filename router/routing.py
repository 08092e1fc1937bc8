"""The route call, from a checked body to an answer: place, promise, sign; or hold until there is a worker.

No broker and no lock on this path. `start` is one plain call and the usual case; `finish` waits.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable

import msgspec

from schemas.http import MAX_COST, MAX_WAIT_S, RouteReady, RouteRequest, RouteWaiting
from schemas.ids import EndpointId, WorkerId, worker_id
from schemas.ticket import TicketClaims

from . import problems, waiting
from .api_keys import KeyRing, Principal
from .desk import Desk, Placement
from .requests import Phase, Request
from .switchboard import Switchboard
from .tickets import TicketSigner, VastSigner

#: How long a client that does not ask to be held (Vast's) is held all the same: it gives up after 10 s.
POLL_HOLD_S = 1.0
MAX_EXCLUDED = 64
MAX_NAME_CHARS = 255
#: JSON readers in other languages keep integers up to this whole.
MAX_IDX = 2**53

Answer = RouteReady | RouteWaiting


class Held(msgspec.Struct, frozen=True):
    """A call that must wait."""

    desk: Desk
    request: Request
    ask: RouteRequest
    who: Principal


class Routing:
    """`now` is unix s, `monotonic` never goes back. `on_waiting` hears of a desk whose queue has just begun, `on_ticket` of
    each promise.
    """

    def __init__(
        self,
        board: Switchboard,
        keys: KeyRing,
        tickets: TicketSigner,
        vast: VastSigner,
        *,
        issuer: str,
        ticket_ttl_s: float,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        draw: Callable[[int], bytes] = os.urandom,
        synced: Callable[[], bool],
        on_waiting: Callable[[Desk], None],
        on_ticket: Callable[[EndpointId, WorkerId, float], None],
    ) -> None:
        self.board = board
        self.keys = keys
        self.synced = synced  #: whether all was heard that there is
        self.outcomes: dict[tuple[str, str], int] = {}
        self._tickets = tickets
        self._vast = vast
        self._issuer = issuer
        self._ttl_s = math.ceil(ticket_ttl_s)
        self._now = now
        self._monotonic = monotonic
        self._on_waiting = on_waiting
        self._on_ticket = on_ticket
        # Worker-side tables are keyed by reqnum and jti; a random start keeps routers and restarts apart.
        self._reqnum = int.from_bytes(draw(4)) << 20
        self._boot = draw(6).hex()

    def who(self, key: str | None) -> Principal:
        """Raises HttpProblem 401."""
        principal = self.keys.who(key, self._now())
        if principal is None:
            raise problems.bad_key() if key else problems.no_key()
        return principal

    def start(self, ask: RouteRequest, who: Principal) -> RouteReady | Held:
        """The answer if there is a worker right now, or else a place in the queue to `finish`. Raises HttpProblem, and has
        then changed nothing.
        """
        desk = self._desk(ask, who)
        now, wall = self._monotonic(), self._now()
        request = self.board.begin(desk, ask, now, wall)
        placement = self.board.place(desk, request, now)
        if placement is not None:
            return self._ready(desk, request, placement, ask, who, wall)
        if len(desk.hold) == 1:
            self._on_waiting(desk)
        return Held(desk, request, ask, who)

    async def finish(self, held: Held) -> Answer:
        """Wait as long as the client wants to be held. Cancel it when the client hangs up."""
        desk, request, ask = held.desk, held.request, held.ask
        placement = await self._held(desk, request, POLL_HOLD_S if ask.wait_s is None else min(ask.wait_s, MAX_WAIT_S))
        if placement is not None:
            return self._ready(desk, request, placement, ask, held.who, self._now())
        return self._waiting(desk, request)

    async def answer(self, ask: RouteRequest, who: Principal) -> Answer:
        """`start` and, if need be, `finish`. Raises HttpProblem."""
        started = self.start(ask, who)
        return await self.finish(started) if isinstance(started, Held) else started

    async def _held(self, desk: Desk, request: Request, hold_s: float) -> Placement | None:
        """The placement, when there is one within `hold_s` seconds."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Placement | None] = loop.create_future()
        if hold_s <= 0 or not self.board.listen(desk, request, future.set_result):
            return None
        if request.not_before > self._monotonic():
            loop.call_later(request.not_before - self._monotonic(), self._pump, desk)
        left = True
        try:
            # Not asyncio.timeout(): that cancels the future some time before we are back here, and whoever places the request
            # in between would trip over it.
            await asyncio.wait((future,), timeout=hold_s)
            left = False
        finally:
            self.board.unlisten(desk, request, self._monotonic(), left=left)
        # Placed in the very moment in which the time ran out: it is theirs.
        return future.result() if future.done() else None

    def release(self) -> None:
        """The router stops: everybody who is held is told to ask again, elsewhere or after the restart."""
        for desk in self.board.desks.values():
            for request in desk.hold.listening():
                if request.wake is not None:
                    request.wake(None)
                    request.wake = None

    def _pump(self, desk: Desk) -> None:
        desk.pump(self._monotonic())

    def _desk(self, ask: RouteRequest, who: Principal) -> Desk:
        desk = self.board.desk(ask.endpoint)
        if desk is None:
            raise problems.no_endpoint(ask.endpoint)
        if not who.may_route(desk.id):
            raise problems.forbidden(f"use endpoint {desk.name}")
        return desk

    def _ready(
        self, desk: Desk, request: Request, placement: Placement, ask: RouteRequest, who: Principal, wall: float
    ) -> RouteReady:
        worker = placement.worker
        self._reqnum = reqnum = self._reqnum + 1
        issued_at = int(wall)
        expires_at = issued_at + self._ttl_s
        claims = TicketClaims(
            iss=self._issuer,
            aud=worker.id,
            ep=desk.name,
            rid=str(request.idx),
            jti=f"{self._boot}{reqnum:x}",
            reqnum=reqnum,
            cost=request.cost,
            iat=issued_at,
            nbf=issued_at,
            exp=expires_at,
            grp=worker.record.group_id,
            sess=ask.session or "",
            tls=worker.tls,
            key=who.key_id,
        )
        self._on_ticket(desk.id, worker.id, request.cost)
        self._count(desk, "rerouted" if placement.again else "ready")
        return RouteReady(
            endpoint=desk.name,
            url=worker.url,
            cost=request.cost,
            reqnum=reqnum,
            request_idx=request.idx,
            signature=self._vast.signature(worker.url),
            ticket=self._tickets.sign(claims),
            worker_id=worker.id,
            expires_at=expires_at,
            group_id=worker.record.group_id,
            wait_s=placement.waited_s,
            cold_start=request.cold_start,
            expected_wait_s=placement.expected_wait_s,
            envelope=worker.envelope,
        )

    def _waiting(self, desk: Desk, request: Request) -> RouteWaiting:
        why = waiting.why(desk, request, self._now(), self.board.halts)
        self._count(desk, f"waiting_{why.reason}")
        position = desk.hold.position(request) if request.phase is Phase.WAITING else len(desk.hold)
        return RouteWaiting(
            endpoint=desk.name,
            request_idx=request.idx,
            status=why.sentence,
            wait_reason=why.reason,
            position=position,
            retry_after_s=why.retry_after_s,
            eta_s=why.eta_s,
        )

    def _count(self, desk: Desk, outcome: str) -> None:
        key = (desk.name, outcome)
        self.outcomes[key] = self.outcomes.get(key, 0) + 1


_decoder = msgspec.json.Decoder(RouteRequest)


def read_request(body: bytes) -> RouteRequest:
    """Raises HttpProblem 400 for what is no JSON object, 422 for wrong types and values."""
    try:
        ask = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise problems.wrong_type(error) from error
    except msgspec.DecodeError as error:
        raise problems.bad_json(str(error)) from error
    wrong = wrong_fields(ask)
    if wrong:
        raise problems.bad_fields(wrong)
    return ask


def wrong_fields(ask: RouteRequest) -> dict[str, str]:
    """What is wrong with a well-formed body; empty when nothing is."""
    # One comparison chain is false for NaN and the infinities too.
    if (
        0 <= ask.cost <= MAX_COST
        and 0 < len(ask.endpoint) <= MAX_NAME_CHARS
        and not ask.exclude_workers
        and ask.wait_s is None
        and ask.session is None
        and 0 <= (ask.request_idx or 0) <= MAX_IDX
        and 0 <= (ask.replay_timeout or 0) < math.inf
    ):
        return {}
    wrong: dict[str, str] = {}
    if not 0 <= ask.cost <= MAX_COST:
        wrong["cost"] = f"must be a number from 0 to {MAX_COST:g}, in the endpoint's work units"
    if not 0 < len(ask.endpoint) <= MAX_NAME_CHARS:
        wrong["endpoint"] = f"must be the endpoint's name, 1 to {MAX_NAME_CHARS} characters"
    if not 0 <= (ask.request_idx or 0) <= MAX_IDX:
        wrong["request_idx"] = "must be 0, or the number of a former answer"
    for name in ("wait_s", "replay_timeout"):
        value = getattr(ask, name)
        if value is not None and not 0 <= value < math.inf:
            wrong[name] = "must be a finite number of seconds, at least 0"
    if len(ask.exclude_workers) > MAX_EXCLUDED:
        wrong["exclude_workers"] = f"must hold at most {MAX_EXCLUDED} worker ids"
    for worker in ask.exclude_workers[:MAX_EXCLUDED]:
        try:
            worker_id(worker)
        except ValueError:
            wrong["exclude_workers"] = "must hold worker ids such as w123"
    if ask.session is not None and len(ask.session) > MAX_NAME_CHARS:
        wrong["session"] = f"must be at most {MAX_NAME_CHARS} characters"
    return wrong
