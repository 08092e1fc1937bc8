"""What the router knows of a worker, folded from its record (KV, written by the scaler) and its own heartbeats.

The record says who belongs and who may serve; the heartbeat says how it goes. A worker is routable when both agree, with
one exception each way: a worker that has not been heard yet is believed by its record (a router that just started must
serve at once), and a worker that reports ready is believed before the scaler has written it down.

Times are monotonic seconds of this router; a worker's own clock is only compared with itself.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.records import WorkerRecord
from schemas.signals import VAST_PROTOCOL
from schemas.states import COMING, WorkerState

from .choose import backlog
from .reservations import PROMISE_TTL_S, Ledger

#: Silence, measured against the heartbeats of the others (see Liveness), after which others are preferred.
SUSPECT_AFTER_S = 3.5
#: Silence after which no more tickets are given out for it.
LOST_AFTER_S = 10.0
#: So late the words of a process that ended may still come.
LAST_WORDS_S = 5.0

#: A heartbeat's, and the longest that is believed.
USUAL_INTERVAL_S = 1.0
MAX_INTERVAL_S = 10.0
#: Of a shorter interval in the smoothed one: heartbeats also come at once on a change.
INTERVAL_WEIGHT = 0.1

_BELONGS = COMING | {WorkerState.READY}
#: The record says it goes down and comes back as another process; its last words as ready must not count.
_NEEDS_NEW_BOOT = frozenset({WorkerState.STARTING, WorkerState.REBOOTING, WorkerState.UPDATING})


class Pulse(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The part of a Heartbeat that routing and the tallies of groups need; skipping the rest makes decoding cheaper."""

    worker_id: WorkerId
    endpoint_id: EndpointId
    boot: str
    seq: int
    sent_at: float
    state: WorkerState
    url: str = ""
    perf: float = 0.0
    slots: int = 1
    load: float = 0.0
    inflight: int = 0
    queued: int = 0
    requests_total: int = 0
    served_total: int = 0
    failed_total: int = 0
    cancelled_total: int = 0
    rejected_total: int = 0
    served_units_total: float = 0.0
    queue_s_total: float = 0.0
    service_s_total: float = 0.0
    draining: bool = False
    tls_fingerprint: str = ""
    via: str = ""
    age_s: float = 0.0


class Standing(IntEnum):
    """How far a worker may be trusted with a ticket; a larger one is worse."""

    GOOD = 0
    SUSPECT = 1  #: only when there is no good one
    OUT = 2


class Worker:
    """One worker as this router sees it. Changed only by the fold functions below and by its pool."""

    __slots__ = (
        "benched_until",
        "envelope",
        "heard_at",
        "id",
        "inflight",
        "interval_s",
        "ledger",
        "paid_at",
        "perf",
        "pulse",
        "record",
        "reported_at",
        "slots",
        "stamp",
        "standing",
        "there",
        "there_at",
        "tie",
        "tls",
        "url",
    )

    def __init__(self, record: WorkerRecord, tie: int = 0) -> None:
        self.id = record.worker_id
        self.record = record
        self.pulse: Pulse | None = None
        self.url = record.url
        self.perf = record.perf or 1.0
        self.slots = record.slots or 1
        self.tls = record.tls_fingerprint
        self.envelope = record.protocol == VAST_PROTOCOL  #: takes requests in Vast's envelope only
        self.inflight = 0  #: requests at the worker by its last report
        self.reported_at = float("-inf")
        self.heard_at = float("-inf")
        self.interval_s = USUAL_INTERVAL_S  #: between its heartbeats; grows at once, shrinks slowly
        self.there = 0.0  #: requests thought to be there at `there_at`, reported or promised
        self.there_at = float("-inf")
        self.ledger = Ledger()
        self.benched_until = float("-inf")
        self.paid_at: float | None = None  #: up to here its price is counted
        self.standing = Standing.OUT
        self.tie = tie  #: this router's own order among equals
        self.stamp = 0  #: which of the pool's entries is the valid one

    @property
    def promised(self) -> int:
        return self.ledger.requests

    @property
    def group_id(self) -> GroupId:
        return self.record.group_id


def fold_record(worker: Worker, record: WorkerRecord) -> None:
    """The scaler wrote something about it."""
    worker.record = record
    if record.state not in _BELONGS and record.state is not WorkerState.DRAINING:
        worker.pulse = None
        worker.inflight = 0
        worker.there = 0.0
        worker.ledger.clear()
    if worker.pulse is None:
        worker.url = record.url
        worker.perf = record.perf or 1.0
        worker.slots = record.slots or 1
        worker.tls = record.tls_fingerprint
        worker.envelope = record.protocol == VAST_PROTOCOL


def fold_pulse(worker: Worker, pulse: Pulse, heard_at: float) -> bool:
    """A heartbeat came. False when it is a repeat or older than what is known, and changed nothing."""
    last = worker.pulse
    if last is not None:
        if pulse.boot == last.boot:
            if pulse.seq <= last.seq:
                return False
            arrived = pulse.requests_total + pulse.rejected_total - last.requests_total - last.rejected_total
            worker.ledger.cover(arrived)
        elif pulse.sent_at < last.sent_at and heard_at <= worker.heard_at + LAST_WORDS_S:
            return False  # of the process before; from one that is silent for long this is no more than a clock that was set back
        else:
            worker.ledger.clear()
    # A kept promise that no report counts was broken by the client; waiting longer would only keep the worker idle.
    worker.ledger.expire(heard_at - PROMISE_TTL_S)
    worker.pulse = pulse
    worker.url = pulse.url or worker.record.url
    worker.perf = pulse.perf or worker.record.perf or 1.0
    worker.slots = max(1, pulse.slots)
    worker.tls = pulse.tls_fingerprint or worker.record.tls_fingerprint
    worker.envelope = bool(pulse.via)
    worker.inflight = pulse.inflight + pulse.queued
    worker.there, worker.there_at = float(worker.inflight + worker.ledger.requests), heard_at - pulse.age_s
    if last is not None:
        gap_s = min(heard_at - worker.heard_at, MAX_INTERVAL_S)
        worker.interval_s = max(gap_s, worker.interval_s + INTERVAL_WEIGHT * (gap_s - worker.interval_s))
    worker.heard_at = heard_at
    worker.reported_at = heard_at - pulse.age_s
    return True


def fold_promise(worker: Worker, requests: int, own_units: float, usual_cost: float, now: float) -> None:
    """Tickets for it were given out, by this router (then with their work units) or by a peer."""
    worker.ledger.promise(now, own_units, requests)
    worker.there = backlog(worker, usual_cost, now) + requests
    worker.there_at = now


def fold_broken(worker: Worker, requests: int, usual_cost: float, now: float) -> None:
    """So many promises were not kept."""
    worker.there = max(0.0, backlog(worker, usual_cost, now) - requests)
    worker.there_at = now


def standing(worker: Worker, silent_s: float, now: float) -> Standing:
    """May it get tickets? `silent_s` is relative silence (see Liveness), `now` monotonic s."""
    record, pulse = worker.record, worker.pulse
    if not worker.url or worker.benched_until > now or record.state not in _BELONGS:
        return Standing.OUT
    if pulse is None:
        if record.state is not WorkerState.READY:
            return Standing.OUT
    elif (
        pulse.draining
        or pulse.state is not WorkerState.READY
        or silent_s >= LOST_AFTER_S
        or (record.state in _NEEDS_NEW_BOOT and pulse.boot == record.boot)
    ):
        return Standing.OUT
    if record.suspect or (pulse is not None and silent_s >= SUSPECT_AFTER_S):
        return Standing.SUSPECT
    return Standing.GOOD
