"""What was seen during the demo, and whether it shows what it should. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the demo's client. Times are seconds since the demo began."""

    phase: str
    at_s: float
    wait_s: float  #: until the first token
    total_s: float
    tokens: int
    worker_id: str = ""
    cold_start: bool = False
    attempts: int = 1
    error: str = ""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The workers at one moment."""

    at_s: float
    states: dict[str, str]  #: worker id -> state

    def count(self, *states: str) -> int:
        return sum(state in states for state in self.states.values())

    @property
    def ready(self) -> int:
        return self.count("ready")

    @property
    def hot(self) -> int:
        """Serving, coming, or not yet done with going."""
        return sum(state not in _NOT_HOT for state in self.states.values())


_NOT_HOT = frozenset({"stopped", "gone", "destroying", "error"})


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    at_s: float
    actions: tuple[str, ...]
    why: str
    reason: str
    hot_before: int
    hot_wanted: int


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    began_s: float
    ended_s: float


class Record(msgspec.Struct, kw_only=True):
    """Grows while the demo runs."""

    asked: list[Asked] = []
    seen: list[Seen] = []
    decisions: list[Decision] = []
    phases: list[Phase] = []
    first_answer: str = ""

    def see(self, moment: Seen) -> None:
        """Keep it when it is news."""
        if not self.seen or self.seen[-1].states != moment.states:
            self.seen.append(moment)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The result: printed as a table, or as one JSON object."""

    ok: bool
    failures: tuple[str, ...]
    requests: int
    errors: int
    tokens: int
    first_wait_s: float
    first_cold_start: bool
    wait_p50_s: float
    wait_p95_s: float
    most_ready: int
    served_by: int  #: workers that answered at least one request
    hot_at_end: int
    took_s: float
    phases: tuple[Phase, ...]
    workers: tuple[Seen, ...]
    decisions: tuple[Decision, ...]
    error_messages: tuple[str, ...] = ()
    first_answer: str = ""


def summarise(record: Record, took_s: float, broken: str = "") -> Summary:
    """`broken`: why the demo could not go on; empty when it came to its end."""
    answered = [asked for asked in record.asked if not asked.error]
    errors = [asked.error for asked in record.asked if asked.error]
    waits = [asked.wait_s for asked in answered]
    first = record.asked[0] if record.asked else None
    most_ready = max((moment.ready for moment in record.seen), default=0)
    hot_at_end = record.seen[-1].hot if record.seen else 0
    failures = [broken] if broken else []
    if errors:
        failures.append(f"{len(errors)} of {len(record.asked)} requests failed, the first with: {errors[0]}")
    if not broken:
        failures += _what_is_missing(record, answered, most_ready, hot_at_end)
    return Summary(
        ok=not failures,
        failures=tuple(failures),
        requests=len(record.asked),
        errors=len(errors),
        tokens=sum(asked.tokens for asked in answered),
        first_wait_s=first.wait_s if first else 0.0,
        first_cold_start=first.cold_start if first else False,
        wait_p50_s=percentile(waits, 0.50),
        wait_p95_s=percentile(waits, 0.95),
        most_ready=most_ready,
        served_by=len({asked.worker_id for asked in answered}),
        hot_at_end=hot_at_end,
        took_s=took_s,
        phases=tuple(record.phases),
        workers=tuple(record.seen),
        decisions=tuple(record.decisions),
        error_messages=tuple(dict.fromkeys(errors)),
        first_answer=record.first_answer,
    )


def _what_is_missing(record: Record, answered: Sequence[Asked], most_ready: int, hot_at_end: int) -> list[str]:
    missing = []
    if not answered:
        missing.append("no request was answered")
    elif not record.asked[0].cold_start:
        missing.append("the first request did not wait for a cold worker")
    if answered and not all(asked.tokens for asked in answered):
        missing.append("an answer was empty")
    if most_ready < 2:
        missing.append(f"no scale-up was seen: never more than {most_ready} worker ready")
    if hot_at_end:
        missing.append(f"no scale-down to zero was seen: {hot_at_end} still hot at the end")
    if not any(decision.actions for decision in record.decisions):
        missing.append("no decision was seen in the event stream")
    return missing


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: a value that was really seen; 0 when there is none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
