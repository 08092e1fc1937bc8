"""What the demo does: ask a cold endpoint, ask in a burst, be quiet; and what it sees meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from corral import Budgets, Corral, CorralError
from corral.apply import carry_out, plan
from corral.apply.manifest import Manifest
from corral.cli.call import token
from corral.wire import events, http

from .record import Asked, Decision, Phase, Record, Seen
from .screen import Screen

PATH = "/v1/chat/completions"
QUESTIONS = (
    "Say hello to a new user of a GPU cluster.",
    "What is a horse? Answer in two sentences.",
    "Name three colours of the sky.",
    "Why do people count sheep?",
    "What does a shepherd do all day?",
    "Tell me about rain in one sentence.",
    "What is a queue?",
    "Write one line about autumn.",
)
_WATCH_S = 0.4


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How big the demo is."""

    inactivity_s: float = 8.0
    max_workers: int = 3
    users: int = 10  #: who ask at the same time in the burst
    burst_s: float = 75.0  #: at most; it ends once two workers have answered
    burst_requests: int = 24  #: at least
    quiet_s: float = 60.0  #: at most
    answer_tokens: int = 40


class Story:
    """`await tell()`; everything that is seen goes into `record`."""

    def __init__(self, corral: Corral, wanted: Manifest, scale: Scale, screen: Screen, record: Record, *, began: float) -> None:
        """`began`: when the demo did, on the monotonic clock."""
        self._corral = corral
        self._scale = scale
        self._screen = screen
        self.record = record
        self._began = began
        self._began_at = time.time() - (time.monotonic() - began)
        self._rng = random.Random(7)
        self._wanted = shrunk(wanted, scale)
        self._endpoint = self._wanted.endpoints[0].name
        self._changed = asyncio.Condition()

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    async def tell(self) -> None:
        """Raises CorralError when it cannot go on."""
        watchers = [asyncio.create_task(self._watch_workers()), asyncio.create_task(self._watch_events())]
        try:
            await self._race(self._phases(), watchers)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def _race(self, phases: Any, watchers: list[asyncio.Task[None]]) -> None:
        telling = asyncio.ensure_future(phases)
        try:
            await asyncio.wait({telling, *watchers}, return_when=asyncio.FIRST_COMPLETED)
            for watcher in watchers:
                if watcher.done():
                    watcher.result()
            await telling
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _phases(self) -> None:
        async with self._phase("setup", "a template and an endpoint with no worker at all"):
            admin = self._corral.admin
            steps = plan.plan(self._wanted, await carry_out.current(admin, self._wanted))
            await carry_out.carry_out(
                admin, self._wanted, steps, lambda step: self._screen.note(f"{step.verb} {step.kind} {step.name}")
            )
        async with self._phase("from zero", "a client asks; it waits while a worker starts and loads the model"):
            await self._ask("from zero", QUESTIONS[0], aloud=True)
        async with self._phase("burst", f"{self._scale.users} clients ask at the same time; the scaler adds workers"):
            await self._burst()
        async with self._phase("quiet", "nobody asks; the workers go cold"):
            await self._until_zero()

    # --- the client -----------------------------------------------------------------------------------------------

    async def _ask(self, phase: str, question: str, *, aloud: bool = False) -> None:
        began = time.monotonic()
        first_at: float | None = None
        pieces: list[str] = []
        payload = {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self._scale.answer_tokens,
            "stream": True,
        }
        budgets = Budgets(queue_s=120, first_byte_s=120, total_s=180)
        stream = self._corral.endpoint(self._endpoint, budgets=budgets).stream(
            PATH, payload, cost=len(question) / 4 + self._scale.answer_tokens, on_wait=self._waiting if aloud else None
        )
        worker, cold, attempts, error = "", False, 0, ""
        try:
            async with stream:
                worker, cold = stream.worker_id, stream.timing.cold_start
                async for event in stream.events():
                    text = token(event)
                    if not text:
                        continue
                    first_at = first_at or time.monotonic()
                    pieces.append(text)
                    if aloud:
                        self._screen.token(text)
                attempts = len(stream.attempts)
        except CorralError as failure:
            error = failure.message
            self._screen.note(f"error: {error}")
        if aloud:
            self.record.first_answer = self.record.first_answer or "".join(pieces)
            self._screen.token("")
        now = time.monotonic()
        self.record.asked.append(
            Asked(
                phase=phase,
                at_s=began - self._began,
                wait_s=(first_at or now) - began,
                total_s=now - began,
                tokens=len(pieces),
                worker_id=worker,
                cold_start=cold,
                attempts=attempts,
                error=error,
            )
        )

    def _waiting(self, waiting: http.RouteWaiting) -> None:
        self._screen.note(waiting.status)

    async def _burst(self) -> None:
        """Everybody asks again and again until two workers have answered, enough was asked, or time is up."""
        end = time.monotonic() + self._scale.burst_s
        sent = 0

        def enough() -> bool:
            if self.record.asked and self.record.asked[-1].error:
                return True
            seen_two = any(moment.ready >= 2 for moment in self.record.seen)
            answered_by = {asked.worker_id for asked in self.record.asked if asked.phase == "burst"}
            return sent >= self._scale.burst_requests and seen_two and len(answered_by) >= 2

        async def user(number: int) -> None:
            nonlocal sent
            while not enough() and time.monotonic() < end:
                sent += 1
                await self._ask("burst", self._rng.choice(QUESTIONS), aloud=number == 0)
                answered = [asked for asked in self.record.asked if not asked.error]
                self._screen.traffic(sent + 1, len(answered), sum(asked.tokens for asked in answered))

        async with asyncio.TaskGroup() as users:
            for number in range(self._scale.users):
                users.create_task(user(number))

    # --- the watcher ----------------------------------------------------------------------------------------------

    async def _watch_workers(self) -> None:
        while True:
            with contextlib.suppress(CorralError):
                shown = await self._corral.admin.workers()
                moment = Seen(at_s=self.elapsed_s(), states={worker["id"]: worker["state"] for worker in shown})
                async with self._changed:
                    self.record.see(moment)
                    self._changed.notify_all()
                self._screen.workers(moment, shown)
            await asyncio.sleep(_WATCH_S)

    async def _watch_events(self) -> None:
        since = self._began_at - 1
        known: set[str] = set()
        while True:
            with contextlib.suppress(CorralError):
                async for event in self._corral.admin.events(since=since, follow=True):
                    if isinstance(event, events.Decided) and event.id not in known:
                        known.add(event.id)
                        self._decided(event)
            await asyncio.sleep(_WATCH_S)

    def _decided(self, event: events.Decided) -> None:
        acts = tuple(f"{action.op} {action.worker_id or ''}".strip() for action in event.actions if action.op != "hold")
        decision = Decision(
            at_s=max(event.at - self._began_at, 0.0),
            actions=acts,
            why=str(event.why),
            reason=event.reason,
            hot_before=event.hot_before,
            hot_wanted=event.hot_wanted,
        )
        self.record.decisions.append(decision)
        self._screen.decision(decision)

    async def _until_zero(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._scale.quiet_s), self._changed:
                await self._changed.wait_for(lambda: bool(self.record.seen) and not self.record.seen[-1].hot)

    @contextlib.asynccontextmanager
    async def _phase(self, name: str, what: str) -> AsyncIterator[None]:
        self._screen.phase(f"{name}: {what}")
        began = self.elapsed_s()
        try:
            yield
        finally:
            self.record.phases.append(Phase(name=name, began_s=began, ended_s=self.elapsed_s()))


def shrunk(wanted: Manifest, scale: Scale) -> Manifest:
    """The same endpoint, at zero, and quick to go back there."""
    endpoint = wanted.endpoints[0]
    settings = msgspec.structs.replace(
        endpoint.settings,
        min_load=0.0,
        cold_workers=None,
        min_cold_load=None,
        max_workers=scale.max_workers,
        inactivity_timeout=scale.inactivity_s,
    )
    return Manifest(wanted.templates, (msgspec.structs.replace(endpoint, settings=settings),))
