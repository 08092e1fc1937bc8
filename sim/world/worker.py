"""One PyWorker process, from its launch to its end: the pure parts of the real one, with a clock instead of a model.

What it says and decides is pyworker's own code (lifecycle, load, admission, tickets, replays, heartbeat); sockets and the model
server are left out. A request holds a slot for units / (perf / slots) seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from pyworker import admit, report
from pyworker.config import HandlerConfig, WorkerConfig
from pyworker.lifecycle import IllegalMove, Life
from pyworker.link import BEAT_S
from pyworker.load import Job, Load, Outcome
from pyworker.reach import Found, NotReached, Reach, Who
from pyworker.replay import ReplayCache
from pyworker.verify import Refused, Verifier
from runtime.bus import BusUnavailable, Message
from schemas import codec, subjects
from schemas.ids import WorkerId
from schemas.reasons import Phase
from schemas.records import Failure
from schemas.signals import ControlOrder, ControlReply, Heartbeat, WorkerBundle
from schemas.states import WorkerState
from sim.broker import Broker
from sim.bus import MemoryBus
from sim.virtual_time import virtual_loop

from .plan import Kind

_MAX_QUEUE_TIME_S = 30.0  #: as HandlerConfig has it
_RETRY_S = 1.0


class Cut(Exception):
    """The connection broke while the request was there: the process ended under it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The worker says no, as its HTTP answer would."""

    status: int
    code: str
    message: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Served:
    queued_s: float
    took_s: float


class Boot:
    """How a start goes: seconds from the launch to each step; what fails, if anything."""

    def __init__(self, ready_s: float, failure: Failure | None = None, *, hangs: bool = False) -> None:
        self.model_loading_s = 0.2 * ready_s
        self.benchmarking_s = 0.9 * ready_s
        self.ready_s = ready_s
        self.failure = failure
        self.hangs = hangs


class Worker:
    """launch() it, kill() it. `at` says who answers at a URL."""

    def __init__(
        self,
        broker: Broker,
        bundle: WorkerBundle,
        kind: Kind,
        boot: Boot,
        *,
        start_no: int,
        keys: Callable[[], Mapping[str, bytes]],
        at: Callable[[str], Worker | None],
        on_failed: Callable[[Failure], None],
        is_silent: Callable[[], bool],
    ) -> None:
        self.id = bundle.worker_id
        self.kind = kind
        self.url = url_of(bundle.worker_id)
        self.bus = MemoryBus(broker, bundle.worker_id)
        self.load = Load()
        self.silent = False  #: its heartbeats do not come through
        self.stuck = False  #: the model takes requests and never answers
        self._broker = broker
        self._bundle = bundle
        self._boot = boot
        self._boot_id = f"{bundle.worker_id}-{start_no}"
        self._seq = 0
        self._loop = virtual_loop()
        self._born_s = self._loop.time()
        self._born_at = broker.now()
        self._config = WorkerConfig(slots=kind.slots, handlers=[HandlerConfig(route="/*", allow_parallel_requests=True)])
        self._gate = admit.Gate(slots=kind.slots, max_queued=self._config.max_queued)
        self._measured = report.Measured()
        self._verifier = Verifier(
            worker_id=self.id,
            issuer=bundle.issuer,
            keys=keys(),
            replays=ReplayCache(),
            now=broker.now,
            uptime_s=lambda: self._loop.time() - self._born_s,
        )
        self._life = Life(since=self._born_at)
        self._at = at
        self._reach = Reach(self._who, timeout_s=self._config.reach_timeout_s, monotonic=self._loop.time)
        self._open: dict[Job, asyncio.Future[Served]] = {}
        self._ends: dict[Job, asyncio.TimerHandle] = {}
        self._beating: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._on_failed = on_failed
        self._is_silent = is_silent
        self._alive = False

    # --- its life --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> WorkerState:
        return self._life.state

    @property
    def let_through(self) -> bool:
        """Whether callers get past the provider's gateway, where there is one."""
        gateway_s = self.kind.gateway_s
        return gateway_s == 0 or self._loop.time() >= self._born_s + self._boot.ready_s + gateway_s

    def launch(self) -> None:
        self._alive = True
        self._tasks = [
            self._loop.create_task(self._answer_orders(), name=f"{self.id} orders"),
            self._loop.create_task(self._come_up(), name=f"{self.id} boot"),
        ]
        self._beat()

    async def kill(self, why: str, *, last_word: bool = False) -> int:
        """It ends now; how many requests that cut. With a last word it says that it drains, as a process that got SIGTERM does."""
        if not self._alive:
            return 0
        if last_word:
            self._set(self._life.drain(self._broker.now(), leaving=True))
        self._alive = False
        if self._beating is not None:
            self._beating.cancel()
        for task in self._tasks:
            task.cancel()
        cut = len(self._open)
        for end in self._ends.values():
            end.cancel()
        for future in self._open.values():
            if not future.done():
                future.set_exception(Cut(why))
        self._open.clear()
        await self.bus.close()
        return cut

    def crash_model(self, failure: Failure) -> None:
        """The model server dies; the worker lives on and says so."""
        self._set(self._life.fail(failure, self._broker.now()))
        for job in list(self._open):
            self._end(job, Outcome.FAILED, Cut("the model died"))

    async def _come_up(self) -> None:
        boot = self._boot
        for due_s, state in (
            (boot.model_loading_s, WorkerState.MODEL_LOADING),
            (boot.benchmarking_s, WorkerState.BENCHMARKING),
            (boot.ready_s, WorkerState.READY),
        ):
            await asyncio.sleep(self._born_s + due_s - self._loop.time())
            if state is WorkerState.BENCHMARKING:
                if boot.hangs:
                    return
                if boot.failure is not None:
                    self._fail(boot.failure)
                    return
            if state is WorkerState.READY:
                self._measured = report.Measured(
                    perf=self.kind.perf, model_load_s=boot.benchmarking_s, bench_s=0.1 * boot.ready_s
                )
                try:
                    await self._reach.confirm(self.url, self.url)
                except NotReached as error:
                    self._fail(Failure(cause=error.cause, message=str(error), phase=Phase.BENCH))
                    return
            self._set(self._life.to(state, self._broker.now()))

    def _fail(self, failure: Failure) -> None:
        failure = msgspec.structs.replace(failure, at=self._broker.now())
        self._set(self._life.fail(failure, self._broker.now()))
        self._on_failed(failure)

    async def _who(self, url: str) -> Found:
        """As pyworker.reach.Asking does."""
        return Found(Who.SELF) if self._at(url) is self else Found(Who.STRANGER, "the gateway answers 502")

    # --- what it says ----------------------------------------------------------------------------------------------------

    def _set(self, life: Life) -> None:
        if life is not self._life:
            self._life = life
            self._beat()

    def _beat(self) -> None:
        """Now, and again a second later."""
        if not self._alive:
            return
        if self._beating is not None:
            self._beating.cancel()
        self._beating = self._loop.call_later(BEAT_S, self._beat)
        self._seq += 1
        if self.silent or self._is_silent() or not self.bus.connected:
            return
        with contextlib.suppress(BusUnavailable):
            self.bus.publish_now(subjects.heartbeat(self._bundle.endpoint_id, self.id), codec.encode(self._heartbeat()))

    def _heartbeat(self) -> Heartbeat:
        return report.heartbeat(
            self._bundle,
            self._config,
            self._life,
            self.load,
            self._measured,
            boot=self._boot_id,
            seq=self._seq,
            url=self.url,
            now=self._broker.now(),
            tick=self._loop.time(),
            last_ticket_exp_at=self._verifier.last_ticket_exp_at,
            gpus=(),
            tls_fingerprint="",
            started_at=self._born_at,
        )

    async def _answer_orders(self) -> None:
        while True:
            try:
                await self.bus.respond(subjects.control(self.id), self._obey)
                return
            except BusUnavailable:
                await asyncio.sleep(_RETRY_S)

    async def _obey(self, message: Message) -> bytes:
        """As pyworker.agent does."""
        order = codec.decode(message.data, ControlOrder)
        ok, said = True, ""
        if order.op == "drain":
            self._set(self._life.drain(self._broker.now()))
        elif order.op == "undrain":
            try:
                self._set(self._life.undrain(self._broker.now()))
            except IllegalMove as error:
                ok, said = False, str(error)
        else:
            ok, said = False, f"unknown order {order.op!r}"
        return codec.encode(ControlReply(ok=ok, state=self._life.state, inflight=self.load.open, message=said))

    # --- what it serves --------------------------------------------------------------------------------------------------

    async def serve(self, token: str) -> Served | Refusal:
        """One call of a client with a ticket. Raises Cut when the process ends under it."""
        job = self._admit(token)
        if isinstance(job, Refusal):
            return job
        future: asyncio.Future[Served] = self._loop.create_future()
        self._open[job] = future
        if job.started_at is not None:
            self._start(job)
        try:
            return await future
        finally:
            if job in self._open:  # the client left
                self._end(job, Outcome.CANCELLED, None)

    def _admit(self, token: str) -> Job | Refusal:
        """As pyworker.serve does: the ticket, the door, the queue; then the ticket is spent."""
        try:
            claims = self._verifier.check(token)
        except Refused as refused:
            self.load.unauthorized_total += 1
            return Refusal(refused.status, refused.code, refused.message, refused.retry_after_s)
        now_s = self._loop.time()
        if (no := admit.doorway(self._life, claims.iat)) is not None:
            self.load.rejected_total += 1
            return Refusal(503, no.code, no.message, no.retry_after_s)
        job = Job(claims.cost, admit.PARALLEL, now_s)
        verdict = self._gate.offer(job, max_queue_time_s=_MAX_QUEUE_TIME_S, perf=self.kind.perf, now=now_s)
        if isinstance(verdict, admit.Refuse):
            self.load.rejected_total += 1
            return Refusal(429, verdict.code, verdict.message, verdict.retry_after_s)
        self._verifier.spend(claims)
        self.load.accept(job)
        if isinstance(verdict, admit.Start):
            self.load.start(job, now_s)
        return job

    def _start(self, job: Job) -> None:
        if self.stuck:
            return
        takes_s = job.units * self.kind.slots / (self.kind.perf * self.kind.speed)
        self._ends[job] = self._loop.call_exactly_at(self._loop.time() + takes_s, self._end, job, Outcome.SERVED, None)

    def _end(self, job: Job, outcome: Outcome, error: Exception | None) -> None:
        now_s = self._loop.time()
        future = self._open.pop(job)
        end = self._ends.pop(job, None)
        if end is not None:
            end.cancel()
        self.load.end(job, outcome, now_s)
        if not future.done():
            if error is not None:
                future.set_exception(error)
            else:
                started_s = job.accepted_at if job.started_at is None else job.started_at
                future.set_result(Served(started_s - job.accepted_at, now_s - job.accepted_at))
        following = self._gate.leave(job)
        if following is not None:
            self.load.start(following, now_s)
            self._start(following)


def url_of(worker_id: WorkerId) -> str:
    return f"http://{worker_id}.sim"
