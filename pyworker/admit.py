"""May this request start now, wait, or must it go? Pure: state and times in, a verdict out.

A *lane* is a number of slots and a first-come queue. Handlers that allow no parallel requests share the lane `serial` with one
slot, as Vast's worker does; the others share `parallel` with the worker's slots.

The expected wait is a forecast of first-come service by n slots that each do perf/n units a second, with credit for what the
running requests have already done: slot i is free after remaining_i / (perf/n); each waiting request takes the slot that frees
first. Example: 2 slots, 100 units/s, running requests with 50 and 20 units left, one of 100 waiting: slots free after 1.0 and
0.4 s, the waiting one takes the second until 2.4 s, so the next request starts after 1.0 s.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable

import msgspec

from .lifecycle import Life
from .load import Job
from .wire import http, states

SERIAL = "serial"
PARALLEL = "parallel"
#: A draining worker keeps the promises made before it drained; routers may hear of it this much later.
DRAIN_GRACE_S = 5.0


class Start(msgspec.Struct, frozen=True):
    """Go to the model."""


class Wait(msgspec.Struct, frozen=True):
    """Take a place in the queue."""

    expected_s: float | None  #: None: no speed is known


class Refuse(msgspec.Struct, frozen=True):
    """Go elsewhere. The ticket is not used up."""

    code: str  #: of http.ErrorCode
    message: str
    retry_after_s: float


Verdict = Start | Wait | Refuse


def doorway(life: Life, ticket_iat: float) -> Refuse | None:
    """Does the worker take requests at all, and this one? None: yes."""
    if life.base is states.WorkerState.ERROR:
        return Refuse(http.ErrorCode.UNAVAILABLE, "The model of this worker has failed. Ask the router for another worker.", 5.0)
    if life.leaving or (life.draining_since is not None and ticket_iat > life.draining_since + DRAIN_GRACE_S):
        return Refuse(http.ErrorCode.DRAINING, "This worker takes no new requests. Ask the router for another worker.", 1.0)
    if life.base is not states.WorkerState.READY:
        return Refuse(http.ErrorCode.LOADING, "This worker is still loading its model. Ask the router again.", 2.0)
    return None


def expected_wait_s(remaining: Iterable[float], queued: Iterable[float], slots: int, perf: float) -> float | None:
    """Seconds until a request at the end of the queue starts; 0 when a slot is free; None when perf is not known."""
    free_at = [max(units, 0.0) for units in remaining]
    waiting = list(queued)
    if len(free_at) < slots and not waiting:
        return 0.0
    if perf <= 0:
        return None
    rate = perf / slots
    free_at = [units / rate for units in free_at] + [0.0] * (slots - len(free_at))
    heapq.heapify(free_at)
    for units in waiting:
        heapq.heapreplace(free_at, free_at[0] + units / rate)
    return free_at[0]


class _Lane:
    __slots__ = ("running", "slots", "waiting")

    def __init__(self, slots: int | None) -> None:
        self.slots = slots  #: None: no limit
        self.running: set[Job] = set()
        self.waiting: deque[Job] = deque()

    def has_room(self) -> bool:
        return not self.waiting and (self.slots is None or len(self.running) < self.slots)


class Gate:
    """Who runs and who waits. Holds at most `max_queued` waiting jobs over both lanes."""

    def __init__(self, *, slots: int | None, max_queued: int) -> None:
        self._lanes = {SERIAL: _Lane(1), PARALLEL: _Lane(slots)}
        self._max_queued = max_queued
        self._queued = 0

    def offer(self, job: Job, *, max_queue_time_s: float | None, perf: float, now: float) -> Verdict:
        """Decide, and on Start or Wait take the job in; it must be given to leave() when it ends or gives up."""
        lane = self._lanes[job.lane]
        if lane.has_room():
            lane.running.add(job)
            return Start()
        expected = self.expected_wait_s(job.lane, perf=perf, now=now)
        if self._queued >= self._max_queued:
            return Refuse(http.ErrorCode.QUEUE_FULL, f"{self._queued} requests wait here, which is the limit.", _later(expected))
        if max_queue_time_s is not None and expected is not None and expected > max_queue_time_s:
            message = f"A request would wait about {expected:.1f} s here, more than max_queue_time ({max_queue_time_s:g} s)."
            return Refuse(http.ErrorCode.QUEUE_FULL, message, _later(expected - max_queue_time_s))
        lane.waiting.append(job)
        self._queued += 1
        return Wait(expected)

    def leave(self, job: Job) -> Job | None:
        """The job ended or gave up waiting. The job that starts in its place, if any."""
        lane = self._lanes[job.lane]
        if job not in lane.running:
            lane.waiting.remove(job)
            self._queued -= 1
            return None
        lane.running.discard(job)
        if not lane.waiting:
            return None
        following = lane.waiting.popleft()
        self._queued -= 1
        lane.running.add(following)
        return following

    def expected_wait_s(self, lane_name: str, *, perf: float, now: float) -> float | None:
        lane = self._lanes[lane_name]
        if lane.slots is None:
            return 0.0
        rate = perf / lane.slots
        remaining = [j.units - (now - j.started_at if j.started_at is not None else 0.0) * rate for j in lane.running]
        return expected_wait_s(remaining, (j.units for j in lane.waiting), lane.slots, perf)


def _later(seconds: float | None) -> float:
    """A truthful Retry-After that is neither nothing nor for ever."""
    return min(max(seconds if seconds is not None else 1.0, 0.5), 60.0)
