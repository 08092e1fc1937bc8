"""What to do when a worker does not answer as hoped. Pure.

The rule: a request may be taken to another worker as long as no byte of its answer was seen and either the worker certainly did
not begin it, or the caller says that beginning it twice is harmless (`idempotent`). What the model itself answers is the answer.
"""

from __future__ import annotations

import random

import msgspec

from .wire import http

Codes = http.ErrorCode


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How stubborn a request is."""

    max_attempts: int = 6  #: workers asked, at most
    backoff_s: float = 0.1  #: before the third attempt; doubles; the second goes out at once
    backoff_max_s: float = 3.0
    idempotent: bool = True  #: asking a second worker is harmless even when the first may have begun


class Setback(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that brought no answer."""

    code: str  #: connect_failed, connection_lost, or the worker's own error code
    message: str
    status: int | None = None
    began: bool = False  #: the model may have worked on it
    avoid_s: float = 0.0  #: how long not to ask this worker again


LONGEST_AVOID_S = 60.0

CONNECT_FAILED = "connect_failed"
CONNECTION_LOST = "connection_lost"

#: code -> (may have begun, seconds to avoid the worker). Everything else that a worker says is the answer.
_REFUSALS: dict[str, tuple[bool, float]] = {
    Codes.TICKET_EXPIRED: (False, 0.0),
    Codes.TICKET_NOT_YET: (False, 5.0),
    Codes.TICKET_REPLAYED: (False, 0.0),
    Codes.TICKET_UNKNOWN_KEY: (False, 5.0),
    Codes.TICKET_WRONG_WORKER: (False, 30.0),
    Codes.LOADING: (False, 15.0),
    Codes.DRAINING: (False, 30.0),
    Codes.QUEUE_FULL: (False, 1.0),
    Codes.MODEL_UNREACHABLE: (False, 15.0),
    Codes.MODEL_DIED: (True, 15.0),
    Codes.MODEL_TIMEOUT: (True, 15.0),
}
#: Statuses of which nobody but something between us and the model is the author.
_GATEWAY = {502: (True, 15.0), 504: (True, 15.0), 421: (False, 30.0)}
#: Statuses whose body is worth a look for a refusal.
LOOK_AT = frozenset({401, 409, 421, 429, 502, 503, 504})
#: What Vast's PyWorker says by itself has no body: it does not know the router's key, its queue is too long, its model did not answer.
_VAST = {401: (Codes.TICKET_UNKNOWN_KEY, False, 15.0), 429: (Codes.QUEUE_FULL, False, 1.0), 500: (Codes.MODEL_DIED, True, 15.0)}
VAST_LOOK_AT = frozenset(_VAST)


def refusal(status: int, body: bytes, retry_after_s: float | None, *, vast: bool = False) -> Setback | None:
    """What a worker's reply means: None when it is the model's own answer and belongs to the caller. `vast`: of Vast's PyWorker."""
    problem = _problem(body)
    if problem is not None and problem.error in _REFUSALS:
        began, avoid_s = _REFUSALS[problem.error]
        code, message = problem.error, problem.msg
    elif status in _GATEWAY:
        began, avoid_s = _GATEWAY[status]
        code, message = f"http_{status}", f"something before the model answered {status}"
    elif vast and not body and status in _VAST:
        code, began, avoid_s = _VAST[status]
        message = f"Vast's PyWorker answered {status} without a word"
    else:
        return None
    if retry_after_s is not None and avoid_s:
        avoid_s = min(max(retry_after_s, 0.0), LONGEST_AVOID_S)
    return Setback(code=code, message=message, status=status, began=began, avoid_s=avoid_s)


def _problem(body: bytes) -> http.Problem | None:
    try:
        return msgspec.json.decode(body, type=http.Problem)
    except msgspec.DecodeError:
        return None


def may_go_on(setback: Setback, policy: Policy, attempts_made: int) -> bool:
    return attempts_made < policy.max_attempts and (policy.idempotent or not setback.began)


def pause_s(policy: Policy, attempts_made: int, rng: random.Random) -> float:
    """Seconds before the next attempt: none before the second, then doubling with jitter of half."""
    if attempts_made < 2:
        return 0.0
    base = min(policy.backoff_s * 2.0 ** min(attempts_made - 2, 20), policy.backoff_max_s)
    return base * rng.uniform(0.5, 1.0)


class Avoided:
    """Workers that failed this request, each until its time is up: a lone worker that was full a moment ago must get
    another chance. Who fails it again is avoided for twice as long: it may still not know that it was called back, and
    attempts are few.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._times: dict[str, int] = {}

    def add(self, worker_id: str, avoid_s: float, now: float) -> None:
        times = self._times[worker_id] = self._times.get(worker_id, 0) + 1
        until = now + max(avoid_s, min(avoid_s * 2.0 ** min(times - 1, 10), LONGEST_AVOID_S))
        self._until[worker_id] = max(until, self._until.get(worker_id, until))

    def now(self, now: float) -> tuple[str, ...]:
        return tuple(sorted(worker for worker, until in self._until.items() if until > now))

    def next_change_s(self, now: float) -> float | None:
        """Seconds until one of them may be asked again; None when none is avoided."""
        return min((until - now for until in self._until.values() if until > now), default=None)


def retry_after_s(headers: object) -> float | None:
    """`retry-after-ms` or `Retry-After` in seconds; None when absent or a date (dates need a clock nobody agrees on)."""
    get = getattr(headers, "get", None)
    if get is None:
        return None
    for name, scale in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        value = get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            continue
        if 0 <= seconds < 86400:
            return seconds
    return None
