"""Ending a worker without cutting anything: proof, not hope.

ready --drain--> shown (its record says draining: routers sign no more tickets)
|  ticket_ttl + skew later the last signed ticket has expired
v
closed --a heartbeat from after that says 0 in flight, 0 queued--> done
|
+--drain deadline--> done, cut short
any time before done: --undrain--> ready
the worker is lost or has failed: done, there is nothing left to protect
it was still on its way up, and does not say that it is ready for some seconds after it was shown: done, no ticket can name it
"""

from __future__ import annotations

import msgspec

from schemas.states import WorkerState

from .types import Liveness, Policy, WorkerFact

#: After its record says draining, so long may news take that somebody on its way up had become ready before.
NEWS_S = 3.0


class Progress(msgspec.Struct, frozen=True):
    """How far a drain is, and the evidence once it is done."""

    done: bool
    waited_s: float
    ticket_window_s: float
    inflight: int
    cut_short: bool = False
    window_left_s: float | None = 0.0  #: until the last ticket has expired; None: its record does not say draining yet

    @property
    def waits_for(self) -> str:
        """In words, while it is not done."""
        if self.done:
            return ""
        if self.window_left_s is None:
            return "its record to say draining"
        if self.window_left_s > 0:
            return f"tickets signed before it was known to drain, {self.window_left_s:.0f} s"
        return f"{self.inflight} requests in flight" if self.inflight else "a heartbeat from after the ticket window"


def progress(worker: WorkerFact, policy: Policy, now: float) -> Progress:
    """How far this worker's drain is. Raises ValueError when it is not draining."""
    drain = worker.drain
    if drain is None:
        raise ValueError(f"{worker.worker_id} is not draining")
    window_s = policy.ticket_ttl_s + policy.clock_skew_s
    waited_s = max(0.0, now - drain.since_at)
    inflight = worker.inflight + worker.queued
    if worker.state is WorkerState.ERROR or worker.liveness is Liveness.LOST or now >= drain.deadline_at:
        return Progress(True, waited_s, window_s, inflight, cut_short=inflight > 0)
    if drain.shown_at is None:
        return Progress(False, waited_s, window_s, inflight, window_left_s=None)
    if drain.unready:
        left_s = max(0.0, drain.shown_at + NEWS_S - now)
        return Progress(left_s <= 0, waited_s, NEWS_S, inflight, window_left_s=left_s)
    closed_at = drain.shown_at + window_s
    was_heard = worker.beat_at is not None and worker.beat_at >= closed_at
    done = now >= closed_at and not inflight and was_heard
    return Progress(done, waited_s, window_s, inflight, window_left_s=max(0.0, closed_at - now))
