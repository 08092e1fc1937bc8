"""Ending a worker without cutting anything: proof, not hope.

ready --drain--> shown (its record says draining: routers sign no more tickets)
|  ticket_ttl + skew later the last signed ticket has expired
v
closed --a heartbeat from after that says 0 in flight, 0 queued--> done
|
+--drain deadline--> done, cut short
any time before done: --undrain--> ready
the worker is lost or has failed: done, there is nothing left to protect
"""

from __future__ import annotations

import msgspec

from schemas.states import WorkerState

from .types import Liveness, Policy, WorkerFact


class Progress(msgspec.Struct, frozen=True):
    """How far a drain is, and the evidence once it is done."""

    done: bool
    waited_s: float
    ticket_window_s: float
    inflight: int
    cut_short: bool = False
    waits_for: str = ""  #: in words, while it is not done


def progress(worker: WorkerFact, policy: Policy, now: float) -> Progress:
    """How far this worker's drain is. Raises ValueError when it is not draining."""
    drain = worker.drain
    if drain is None:
        raise ValueError(f"{worker.worker_id} is not draining")
    window_s = policy.ticket_ttl_s + policy.clock_skew_s
    waited_s = max(0.0, now - drain.since_at)
    inflight = worker.inflight + worker.queued

    def answer(*, done: bool, cut_short: bool = False, waits_for: str = "") -> Progress:
        return Progress(done, waited_s, window_s, inflight, cut_short, waits_for)

    if worker.state is WorkerState.ERROR or worker.liveness is Liveness.LOST:
        return answer(done=True, cut_short=inflight > 0)
    if now >= drain.deadline_at:
        return answer(done=True, cut_short=inflight > 0)
    if drain.shown_at is None:
        return answer(done=False, waits_for="its record to say draining")
    closed_at = drain.shown_at + window_s
    if now < closed_at:
        return answer(done=False, waits_for=f"tickets signed before the drain, {closed_at - now:.0f} s")
    if inflight:
        return answer(done=False, waits_for=f"{inflight} requests in flight")
    if worker.beat_at is None or worker.beat_at < closed_at:
        return answer(done=False, waits_for="a heartbeat from after the ticket window")
    return answer(done=True)
