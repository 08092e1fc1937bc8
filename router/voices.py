"""What is said on the bus for workers that cannot say it there. Vast's PyWorker reports to a router over HTTP, at most 11 s apart;
the router makes of that the heartbeat that every other worker sends.

    a report came          ours: said at once, and again each second while the report is fresh
    another router spoke   theirs: quiet, unless they fall silent while their report is still fresh
    FRESH_S passed         nobody speaks: the worker is silent, and lost like any other

A worker reports to one address, behind which there may be several routers: whoever got the newest report speaks, and goes on where the
other stopped. Who takes over repeats the last words, which is no lie: each heartbeat says how old its ground is.

Times are monotonic s of this router, but for `wall`, which is unix s.
"""

from __future__ import annotations

import re

import msgspec

from schemas.http import FinishedRequests, WorkerStatus
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.reasons import Cause, Phase
from schemas.records import Failure, WorkerRecord
from schemas.signals import VAST_PROTOCOL, Heartbeat
from schemas.states import WorkerState

_replace = msgspec.structs.replace

#: Reports come at most 11 s apart; a little more than one of them may be late.
FRESH_S = 15.0
SPEAK_EVERY_S = 1.0
#: Silence of the router that spoke, after which another does.
TAKE_OVER_S = 1.5
#: The age of words of which no report is known here.
UNKNOWN_AGE_S = 86_400.0
#: What must be older than this is not called older: another router's report took a moment to be heard here.
_SAME_GROUND_S = 0.5
_UNKNOWN = float("-inf")
_MESSAGE_CHARS = 200

_MEMORY = re.compile(r"out of memory|OutOfMemoryError|bad_alloc|MemoryError|cannot allocate memory", re.IGNORECASE)
_PORT = re.compile(r"address already in use|EADDRINUSE|errno 98\b", re.IGNORECASE)
_KEY = re.compile(r"public key|pubkey", re.IGNORECASE)
_BENCHMARK = re.compile(r"benchmark", re.IGNORECASE)
#: What a worker may have been when the record was written, so that its words are worth repeating.
_SPEAKING = frozenset(
    {
        WorkerState.LOADING,
        WorkerState.MODEL_LOADING,
        WorkerState.BENCHMARKING,
        WorkerState.READY,
        WorkerState.DRAINING,
    }
)


class SlotsOf(msgspec.Struct, frozen=True):
    """The part of a Template that matters here."""

    slots: int = 0


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an InstanceRecord that says who may report as this worker, and what the provider knows of it."""

    worker_id: WorkerId
    endpoint_id: EndpointId
    group_id: GroupId
    state: str
    revision: int = 1
    url: str = ""
    starts: int = 0
    mtoken_sha256: str = ""
    template: SlotsOf | None = None


class Voice(msgspec.Struct, frozen=True, kw_only=True):
    """The newest words for one worker, whoever said them."""

    words: Heartbeat
    ground_at: float  #: when the report came that they rest on; -inf: before anybody here could hear it
    fresh_until: float  #: nobody says them after this
    due_at: float  #: when this router says them next


def start_of(known: Known) -> int | None:
    """Which start of the worker may speak now, counted from 1; None: it is not supposed to run."""
    if known.state == "running":
        return known.starts
    # The start is counted when it is done; its process speaks a little before that is written.
    return known.starts + 1 if known.state in ("creating", "starting") else None


def is_about(voice: Voice, known: Known) -> bool:
    """Whether these are words of the process that is supposed to run."""
    start = start_of(known)
    return start is not None and voice.words.boot.startswith(_boot(start, ""))


def is_due(voice: Voice, now: float) -> bool:
    return voice.due_at <= now < voice.fresh_until


def reported(
    voice: Voice | None, known: Known, report: WorkerStatus, *, router: str, salt: str, now: float, wall: float
) -> Voice | None:
    """The voice after the worker reported, due at once; None when this worker is not supposed to run. `salt` is a fresh random token.

    Amounts are added to what was said before, so that it does not matter which router got which report.
    """
    start = start_of(known)
    if start is None:
        return None
    base = voice.words if voice is not None and is_about(voice, known) and voice.ground_at > _UNKNOWN else None
    if base is None or _began_anew(base, report):
        base = _silence(known, _boot(start, salt))
    loadtime = base.model_load_s if report.loadtime is None else report.loadtime or None
    perf = base.perf if report.max_perf is None else report.max_perf
    state, failure = _state(base, loadtime, perf, report.error_msg, wall)
    working = base.inflight + base.queued if report.num_requests_working is None else report.num_requests_working
    slots = max(1, known.template.slots if known.template is not None else 0)
    total = report.num_requests_recieved
    words = _replace(
        base,
        state=state,
        failure=failure,
        revision=known.revision,
        url=known.url or (report.url or "").rstrip("/") or base.url,
        perf=perf,
        slots=slots,
        load=base.load if report.cur_load is None else report.cur_load,
        # It does not say which of them wait in its own queue; more than its slots cannot be at the model.
        inflight=min(working, slots),
        queued=max(0, working - slots),
        requests_total=base.requests_total if total is None else total,
        served_units_total=base.served_units_total + (report.cur_perf or 0.0),
        model_load_s=loadtime,
        version=base.version if report.version is None else f"vast/{report.version[:40]}",
        via=router,
    )
    return Voice(words=words, ground_at=now, fresh_until=now + FRESH_S, due_at=now)


def finished(voice: Voice, report: FinishedRequests) -> Voice:
    """The voice with the outcomes counted. They are for people: no request is closed on this word, which may be lost or repeated.
    What was refused is not counted, because callers without a ticket are refused too.
    """
    outcomes = [("Success" if report.success else "Error")] * len(report.request_idxs) + [one.status for one in report.requests]
    words = voice.words
    return _replace(
        voice,
        words=_replace(
            words,
            served_total=words.served_total + outcomes.count("Success"),
            failed_total=words.failed_total + outcomes.count("Error"),
            cancelled_total=words.cancelled_total + outcomes.count("Cancelled"),
        ),
    )


def overheard(voice: Voice | None, words: Heartbeat, now: float) -> Voice:
    """The voice after another router spoke for the worker: theirs, if their words are the newer ones."""
    ground_at = now - words.age_s if words.age_s < UNKNOWN_AGE_S else _UNKNOWN
    if voice is not None:
        last = voice.words
        newer = words.seq > last.seq if words.boot == last.boot else words.sent_at >= last.sent_at
        if not newer or ground_at < voice.ground_at - _SAME_GROUND_S:
            return voice
    if ground_at > _UNKNOWN:
        fresh_until = ground_at + FRESH_S
    elif voice is None:
        fresh_until = now + FRESH_S
    else:
        fresh_until = voice.fresh_until  # two who know nothing do not encourage each other
    return Voice(words=words, ground_at=ground_at, fresh_until=fresh_until, due_at=now + TAKE_OVER_S)


def remembered(record: WorkerRecord, now: float) -> Voice | None:
    """The voice of a worker that reported before this router began to listen, from what the scaler wrote down; None when there is
    none. It bridges the time until the next report, so that a router's restart makes nobody look dead.
    """
    if record.protocol != VAST_PROTOCOL or record.state not in _SPEAKING or not record.boot:
        return None
    words = Heartbeat(
        worker_id=record.worker_id,
        endpoint_id=record.endpoint_id,
        group_id=record.group_id,
        boot=record.boot,
        seq=0,
        sent_at=0.0,
        state=WorkerState.READY if record.state is WorkerState.DRAINING else record.state,
        revision=record.revision,
        url=record.url,
        perf=record.perf,
        slots=record.slots or 1,
        version=record.version,
        protocol=VAST_PROTOCOL,
    )
    return Voice(words=words, ground_at=_UNKNOWN, fresh_until=now + FRESH_S, due_at=now + TAKE_OVER_S)


def said(voice: Voice, *, router: str, now: float, wall: float) -> Voice:
    """The voice whose words are said now. Sequence numbers are clock time, so that they grow over routers and restarts."""
    words = _replace(
        voice.words,
        seq=max(voice.words.seq + 1, int(wall * 1000)),
        sent_at=wall,
        via=router,
        age_s=min(max(now - voice.ground_at, 0.0), UNKNOWN_AGE_S),
    )
    return _replace(voice, words=words, due_at=now + SPEAK_EVERY_S)


def wrong_values(report: WorkerStatus) -> dict[str, str]:
    """What is wrong with a well-formed report; empty when nothing is."""
    wrong = {
        name: "must be a finite number of at least 0"
        for name in ("loadtime", "max_perf", "cur_load", "cur_perf")
        # One comparison chain is false for NaN and the infinities too.
        if (value := getattr(report, name)) is not None and not 0 <= value < float("inf")
    }
    for name in ("num_requests_working", "num_requests_recieved"):
        value = getattr(report, name)
        if value is not None and not 0 <= value < 2**53:
            wrong[name] = "must be a count of at least 0"
    if report.url and not re.fullmatch(r"https?://[^\s/?#]{1,255}/?", report.url):
        wrong["url"] = "must be http://HOST:PORT or https://HOST:PORT"
    return wrong


def _boot(start: int, salt: str) -> str:
    return f"vast-{start}-{salt}"


def _silence(known: Known, boot: str) -> Heartbeat:
    """Before the first word of a process."""
    return Heartbeat(
        worker_id=known.worker_id,
        endpoint_id=known.endpoint_id,
        group_id=known.group_id,
        boot=boot,
        seq=0,
        sent_at=0.0,
        state=WorkerState.MODEL_LOADING,
        protocol=VAST_PROTOCOL,
    )


def _began_anew(before: Heartbeat, report: WorkerStatus) -> bool:
    """Whether another process speaks now: counters of one process never fall, and it loads once."""
    if report.num_requests_recieved is not None and report.num_requests_recieved < before.requests_total:
        return True
    return before.model_load_s is not None and report.loadtime is not None and report.loadtime != before.model_load_s


def _state(
    base: Heartbeat, loadtime: float | None, perf: float, error_msg: str | None, wall: float
) -> tuple[WorkerState, Failure | None]:
    if error_msg is None and base.failure is not None:
        return base.state, base.failure
    if error_msg:
        failure = _failure(error_msg, loadtime, perf, wall)
    elif loadtime is None:
        return WorkerState.MODEL_LOADING, None
    elif perf > 0:
        return WorkerState.READY, None
    else:
        failure = _failure(
            "the benchmark measured no work; does workload_calculator give 0 for its requests?", loadtime, perf, wall
        )
    # Told again with each report: the same failure keeps its time.
    same = base.failure is not None and base.failure.message == failure.message
    return WorkerState.ERROR, base.failure if same else failure


def _failure(text: str, loadtime: float | None, perf: float, wall: float) -> Failure:
    if _MEMORY.search(text):
        cause = Cause.MODEL_OOM
    elif _PORT.search(text):
        cause = Cause.PORT_CONFLICT
    elif _KEY.search(text):
        cause = Cause.AUTH
    elif _BENCHMARK.search(text):
        cause = Cause.BENCH_FAILED
    else:
        cause = Cause.START_CRASH
    benched = cause is Cause.BENCH_FAILED
    phase = Phase.BENCH if benched else Phase.SERVE if loadtime is not None and perf > 0 else Phase.MODEL
    printable = " ".join(text.split())[:_MESSAGE_CHARS]
    return Failure(cause=cause, message=f"Vast's PyWorker reports: {printable}", phase=phase, at=wall)
