"""Time budgets of one request, and who ran out. Pure: the clock is an argument.

    |<-------------------------- total ---------------------------->|
    |<-- queue -->|<- connect ->|<------ first_byte ------>|<-idle->|   idle: between any two pieces of the answer
    route, wait    to the worker  request sent, model works    answer

`queue` adds up over all attempts, because the caller waits that long; `connect` and `first_byte` begin anew at each worker.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from .errors import BudgetExceeded

Phase = Literal["queue", "connect", "first_byte", "idle"]
PHASES: tuple[Phase, ...] = ("queue", "connect", "first_byte", "idle")


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; None means no limit."""

    queue_s: float | None = 300.0  #: to get a worker, cold starts included
    connect_s: float | None = 5.0  #: to reach one worker
    first_byte_s: float | None = 120.0  #: from the request sent to the first byte of the answer
    idle_s: float | None = 60.0  #: between two pieces of an answer
    total_s: float | None = 900.0  #: everything together

    def __post_init__(self) -> None:
        for name in (*PHASES, "total"):
            value = getattr(self, f"{name}_s")
            if value is not None and not value > 0:
                raise ValueError(f"{name}_s must be above 0 seconds, or None for no limit; it is {value!r}")


class Allowance(msgspec.Struct, frozen=True):
    """How long the next step may take, and which budget is the one that ends it."""

    seconds: float  #: may be infinite, never negative
    budget: str

    @property
    def timeout_s(self) -> float | None:
        """For asyncio.timeout()."""
        return None if math.isinf(self.seconds) else self.seconds


class Meter:
    """What one request has spent so far."""

    def __init__(self, budgets: Budgets, now: float) -> None:
        self.budgets = budgets
        self.started_at = now
        self.spent_s: dict[str, float] = dict.fromkeys(PHASES, 0.0)

    def spend(self, phase: Phase, seconds: float) -> None:
        self.spent_s[phase] += max(seconds, 0.0)

    def allow(self, phase: Phase, now: float) -> Allowance:
        """The smaller of what the phase and what the whole request has left."""
        limit = getattr(self.budgets, f"{phase}_s")
        of_phase = math.inf if limit is None else limit - (self.spent_s["queue"] if phase == "queue" else 0.0)
        of_total = math.inf if self.budgets.total_s is None else self.budgets.total_s - (now - self.started_at)
        seconds, budget = min((of_phase, phase), (of_total, "total"), key=lambda pair: pair[0])
        return Allowance(max(seconds, 0.0), budget)

    def exceeded(self, budget: str, detail: str = "", hint: str = "") -> BudgetExceeded:
        """The error to raise when this budget ended a step."""
        limit = getattr(self.budgets, f"{budget}_s") or 0.0
        return BudgetExceeded(budget, limit_s=limit, spent_s=self.spent_s, detail=detail, hint=hint)
