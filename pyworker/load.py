"""What a worker counts. Totals since the start of the process; readers take differences, so nothing is lost in a report.

Pure: times are arguments, monotonic seconds.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    SERVED = "served"  #: the model answered below 500 and the client has the last byte
    FAILED = "failed"  #: the model did not answer, broke off, or answered 5xx
    CANCELLED = "cancelled"  #: the client left


class Job:
    """One accepted request. Its units count as load from acceptance until its end, whatever the end is."""

    __slots__ = ("accepted_at", "lane", "started_at", "units")

    def __init__(self, units: float, lane: str = "", accepted_at: float = 0.0) -> None:
        self.units = units
        self.lane = lane
        self.accepted_at = accepted_at
        self.started_at: float | None = None  #: None while it waits


class Load:
    """The counters of one process. A job that ends twice is an error of ours and raises KeyError."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._busy_since: float | None = None
        self._busy_s = 0.0
        self.units = 0.0  #: accepted and not finished
        self.inflight = 0  #: at the model
        self.queued = 0
        self.requests_total = 0
        self.served_total = 0
        self.failed_total = 0
        self.cancelled_total = 0
        self.rejected_total = 0  #: refused with a good ticket
        self.unauthorized_total = 0  #: refused for the ticket; never load
        self.served_units_total = 0.0
        self.queue_s_total = 0.0  #: over all that reached the model
        self.service_s_total = 0.0  #: over all that finished well

    def accept(self, job: Job) -> None:
        self._jobs[id(job)] = job
        self.requests_total += 1
        self.queued += 1
        self.units += job.units

    def start(self, job: Job, now: float) -> None:
        job.started_at = now
        self.queue_s_total += now - job.accepted_at
        self.queued -= 1
        self.inflight += 1
        if self.inflight == 1:
            self._busy_since = now

    def end(self, job: Job, outcome: Outcome, now: float) -> None:
        del self._jobs[id(job)]
        # Sums of floats drift; with nothing left the load is zero by definition.
        self.units = max(self.units - job.units, 0.0) if self._jobs else 0.0
        if job.started_at is None:
            self.queued -= 1
        else:
            self.inflight -= 1
            if self.inflight == 0 and self._busy_since is not None:
                self._busy_s += now - self._busy_since
                self._busy_since = None
        if outcome is Outcome.SERVED:
            self.served_total += 1
            self.served_units_total += job.units
            self.service_s_total += now - job.started_at if job.started_at is not None else 0.0
        elif outcome is Outcome.FAILED:
            self.failed_total += 1
        else:
            self.cancelled_total += 1

    def busy_s(self, now: float) -> float:
        return self._busy_s + (now - self._busy_since if self._busy_since is not None else 0.0)

    def oldest_queued_s(self, now: float) -> float:
        """O(jobs); asked once a second."""
        return max((now - job.accepted_at for job in self._jobs.values() if job.started_at is None), default=0.0)

    @property
    def open(self) -> int:
        return len(self._jobs)
