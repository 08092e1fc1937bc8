"""What happens to one request, from its ticket to its last byte.

Order: ticket, door, user code, place in the queue, model. Nothing of a payload reaches user code, and nothing counts as load,
before the ticket is found good. A ticket is spent when its request is taken in; a refusal leaves it usable until it expires.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import aiohttp
import msgspec
import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from . import admit, call, replies, usercode
from .config import HandlerConfig, Payload, Timeouts, WorkerConfig
from .forward import ClientLeft, Relay, cut, is_short, read_whole
from .keys import KeyRing
from .lifecycle import Life
from .load import Job, Load, Outcome
from .metrics import Metrics
from .pulse import Pulse
from .stopwatch import Expired, Stopwatch
from .upstream import Answer, ModelClient, ModelTrouble, Upload, UploadBroken
from .verify import Refused, UnknownKey, Verifier
from .wire import http, ids, ticket

log = structlog.get_logger()

_Code = http.ErrorCode
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class Order(msgspec.Struct):
    """One accepted request on its way to the model."""

    request: web.BaseRequest
    handler: HandlerConfig
    path_qs: str
    request_id: str
    job: Job
    raw: memoryview | None  #: body for the model in envelope form; None: the request's own body streams through
    payload: Payload | None  #: decoded, only where user code asked for it


class Serving:
    """The requests of one worker. Single-threaded: between two awaits nothing else changes."""

    def __init__(
        self,
        *,
        config: WorkerConfig,
        worker_id: ids.WorkerId,
        verifier: Verifier,
        keys: KeyRing,
        gate: admit.Gate,
        load: Load,
        metrics: Metrics,
        budget: call.Budget,
        model: ModelClient,
        pulse: Pulse,
        life: Callable[[], Life],
        perf: Callable[[], float],
        on_trouble: Callable[[], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self._worker_id = worker_id
        self._verifier = verifier
        self._keys = keys
        self._gate = gate
        self._load = load
        self._metrics = metrics
        self._budget = budget
        self._model = model
        self._pulse = pulse
        self._life = life
        self._perf = perf
        self._on_trouble = on_trouble
        self._monotonic = monotonic
        self._turns: dict[Job, asyncio.Future[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Until no request is open."""
        await self._idle.wait()

    async def answer(self, request: web.BaseRequest, handler: HandlerConfig, path: str, query: str) -> web.StreamResponse:
        """Never raises for anything a client can do."""
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else ""
        held = 0
        raw: msgspec.Raw | None = None
        try:
            token = call.bearer(request)
            if token is None:
                query = call.without_api_key(query)
                body = await self._read_body(request)
                held = len(body)
                token, raw = self._open_envelope(body)
            claims = await self._claims(token)
            if raw is None and handler.remote_function is not None:
                body = await self._read_body(request)
                held = len(body)
                raw = msgspec.Raw(body)
            order, waits = self._admit(request, handler, f"{path}?{query}" if query else path, claims, raw, request_id)
            return await self._carry_out(order, waits=waits)
        except Refused as refused:
            log.debug("request_refused", code=refused.code, request_id=request_id)
            return replies.problem(
                refused.status,
                refused.code,
                refused.message,
                request_id=request_id,
                worker_id=self._worker_id,
                retry=refused.retry,
                retry_after_s=refused.retry_after_s,
                fields=refused.fields,
            )
        finally:
            self._budget.give(held)

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        await _say_continue(request)
        try:
            return await self._budget.read(request, self._config.timeouts.idle_s)
        except Expired as error:
            raise Refused(408, _Code.BAD_JSON, "The body did not arrive in time.", retry=True) from error
        except (RequestPayloadError, aiohttp.ClientError) as error:
            raise Refused(400, _Code.BAD_JSON, "The body could not be read to its end.") from error

    def _open_envelope(self, body: bytes) -> tuple[str, msgspec.Raw]:
        try:
            envelope = call.envelope(body)
        except Refused:
            self._load.unauthorized_total += 1
            raise
        return envelope.auth_data.ticket, envelope.payload

    async def _claims(self, token: str) -> ticket.TicketClaims:
        try:
            try:
                return self._verifier.check(token)
            except UnknownKey:
                await self._keys.look_again()
                return self._verifier.check(token)
        except Refused:
            self._load.unauthorized_total += 1
            raise

    def _admit(
        self,
        request: web.BaseRequest,
        handler: HandlerConfig,
        path_qs: str,
        claims: ticket.TicketClaims,
        raw: msgspec.Raw | None,
        request_id: str,
    ) -> tuple[Order, bool]:
        """From a good ticket to a place in the lane; True: it has to wait for its turn. Raises Refused."""
        try:
            if (refusal := admit.doorway(self._life(), claims.iat)) is not None:
                raise Refused(503, refusal.code, refusal.message, retry=True, retry_after_s=refusal.retry_after_s)
            body, payload, units = usercode.prepare(handler, raw, claims)
            now = self._monotonic()
            job = Job(units, admit.PARALLEL if handler.allow_parallel_requests else admit.SERIAL, now)
            verdict = self._gate.offer(job, max_queue_time_s=handler.max_queue_time, perf=self._perf(), now=now)
            if isinstance(verdict, admit.Refuse):
                raise Refused(429, verdict.code, verdict.message, retry=True, retry_after_s=verdict.retry_after_s)
            try:
                self._verifier.spend(claims)
            except Refused:
                self._pass_on(self._gate.leave(job), now)
                raise
        except Refused:
            self._load.rejected_total += 1
            raise
        order = Order(request, handler, path_qs, request_id or claims.rid, job, body, payload)
        return order, isinstance(verdict, admit.Wait)

    async def _carry_out(self, order: Order, *, waits: bool) -> web.StreamResponse:
        job = order.job
        self._load.accept(job)
        self._idle.clear()
        outcome = Outcome.CANCELLED  # what it is when the client leaves: then this task is cancelled
        try:
            if waits:
                turn = self._turns[job] = asyncio.get_running_loop().create_future()
                try:
                    await turn
                finally:
                    del self._turns[job]
            else:
                self._load.start(job, job.accepted_at)
            assert job.started_at is not None
            self._metrics.queue_s.observe(job.started_at - job.accepted_at)
            reply, outcome = await self._at_model(order)
            return reply
        finally:
            now = self._monotonic()
            self._load.end(job, outcome, now)
            self._metrics.duration_s.observe(now - job.accepted_at)
            self._pass_on(self._gate.leave(job), now)
            if self._load.open == 0:
                self._idle.set()

    def _pass_on(self, following: Job | None, now: float) -> None:
        """A place is free: the next in the queue has it."""
        if following is not None:
            self._load.start(following, now)
            turn = self._turns.get(following)
            if turn is not None and not turn.done():
                turn.set_result(None)

    async def _at_model(self, order: Order) -> tuple[web.StreamResponse, Outcome]:
        timeouts = order.handler.timeouts or self._config.timeouts
        relay: Relay | None = None
        answer: Answer | None = None
        try:
            with Stopwatch(timeouts.total_s) as watch:
                if order.handler.remote_function is not None:
                    watch.phase("the function", timeouts.first_byte_s)
                    return await self._run_function(order)
                await _say_continue(order.request)
                if order.handler.response_generator is not None:
                    watch.phase("the answer", timeouts.first_byte_s)
                    return await self._generate(order)
                body, headers = _outgoing(order, watch, timeouts)
                answer = await self._model.call(order.request.method, order.path_qs, headers, body, watch, timeouts)
                self._note_progress(order)
                ended_well = Outcome.FAILED if answer.status >= 500 else Outcome.SERVED
                if is_short(answer):
                    whole = await read_whole(answer)
                    self._pulse.answered(self._monotonic())
                    marked = call.headers_for_client(answer.headers, self._marks(order))
                    reply = web.Response(status=answer.status, reason=answer.reason, body=whole, headers=marked)
                    await _send(order.request, reply)
                    return reply, ended_well
                relay = Relay(order.request, answer, self._marks(order), order.request_id)
                self._pulse.streams(watch)
                try:
                    await relay.run(watch, timeouts)
                finally:
                    self._pulse.ended(watch)
                self._pulse.answered(self._monotonic())
                return relay.out, ended_well
        except Expired as error:
            if relay is not None and relay.writing:
                cut(order.request, relay.out)
                return relay.out, Outcome.CANCELLED
            if answer is None:
                self._pulse.timed_out()
            self._on_trouble()
            return await self._trouble(order, relay, ModelTrouble(504, _Code.MODEL_TIMEOUT, f"At the model, {error}."))
        except ModelTrouble as error:
            self._on_trouble()
            return await self._trouble(order, relay, error)
        except UploadBroken:
            return self._problem(order, 400, _Code.BAD_FIELD, "The body could not be read to its end."), Outcome.CANCELLED
        except ClientLeft:
            assert relay is not None
            return relay.out, Outcome.CANCELLED
        except Exception as error:  # noqa: BLE001 -- user code may raise anything; its text may quote a payload, so only the place is logged
            log.warning("request_crashed", request_id=order.request_id, error=type(error).__name__, where=usercode.where(error))
            if order.request.writer.output_size > 0:  # its own answer was begun: no second one can follow
                out = web.StreamResponse()
                cut(order.request, out)
                return out, Outcome.FAILED
            return self._problem(order, 500, _Code.INTERNAL, "The worker's own code failed on this request."), Outcome.FAILED
        finally:
            if answer is not None:
                answer.close()

    async def _trouble(self, order: Order, relay: Relay | None, trouble: ModelTrouble) -> tuple[web.StreamResponse, Outcome]:
        log.warning("model_trouble", code=trouble.code, request_id=order.request_id, mid_answer=relay is not None)
        if relay is not None:
            return await relay.break_off(trouble.code, trouble.message), Outcome.FAILED
        return self._problem(order, trouble.status, trouble.code, trouble.message), Outcome.FAILED

    def _problem(self, order: Order, status: int, code: str, message: str) -> web.Response:
        """After the ticket was spent, so the same call cannot be repeated here."""
        return replies.problem(status, code, message, request_id=order.request_id, worker_id=self._worker_id, retry=False)

    async def _generate(self, order: Order) -> tuple[web.StreamResponse, Outcome]:
        """The user's own answer, made from the model's."""
        body: bytes | aiohttp.StreamReader | None = bytes(order.raw) if order.raw is not None else _own_body(order)
        out, status = await usercode.generate(
            order.handler, order.request, self._model.base_url + order.path_qs, body, enveloped=order.raw is not None
        )
        self._note_progress(order)
        await _send(order.request, out)
        return out, Outcome.FAILED if status >= 500 else Outcome.SERVED

    async def _run_function(self, order: Order) -> tuple[web.StreamResponse, Outcome]:
        function = order.handler.remote_function
        assert function is not None
        result = await function(**(order.payload or {}))
        body = msgspec.json.encode({"result": result})
        self._note_progress(order)
        reply = web.Response(body=body, headers={"Content-Type": "application/json", **self._marks(order)})
        await _send(order.request, reply)
        return reply, Outcome.SERVED

    def _note_progress(self, order: Order) -> None:
        now = self._monotonic()
        self._pulse.answered(now)
        assert order.job.started_at is not None
        self._metrics.first_byte_s.observe(now - order.job.started_at)

    def _marks(self, order: Order) -> dict[str, str]:
        assert order.job.started_at is not None
        waited_ms = round((order.job.started_at - order.job.accepted_at) * 1000)
        return {"X-Worker-Id": self._worker_id, "X-Request-Id": order.request_id, "X-Queue-Time-Ms": str(waited_ms)}


def _outgoing(order: Order, watch: Stopwatch, timeouts: Timeouts) -> tuple[memoryview | Upload | None, bytes]:
    if order.raw is not None:
        return order.raw, call.headers_for_model(order.request, order.request_id, length=len(order.raw))
    headers = call.headers_for_model(order.request, order.request_id, length=None)
    content = _own_body(order)
    return Upload(content, watch, timeouts, chunked=call.is_chunked(order.request)) if content is not None else None, headers


def _own_body(order: Order) -> aiohttp.StreamReader | None:
    return order.request.content if order.request.body_exists else None


async def _say_continue(request: web.BaseRequest) -> None:
    """To clients that wait for a word before they send a large body; those with a bad bearer ticket never send it."""
    if request.headers.get("Expect", "").lower() == "100-continue" and not request.content.at_eof():
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def _send(request: web.BaseRequest, reply: web.StreamResponse) -> None:
    """Write it here and now, so that the outcome is known before it is counted."""
    try:
        await reply.prepare(request)
        await reply.write_eof()
    except ConnectionError:
        # finish_response of aiohttp meets the same error and closes; the model's work was done all the same.
        log.debug("client_left_at_the_end")
