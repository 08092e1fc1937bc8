"""HTTP bodies: Vast's field names where Vast has a contract (`/route/`, `/api/v0/...`), ours beside them.

Vast's clients are lenient and odd: null means "not given", unknown fields are ignored.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .ids import WorkerId

MAX_ROUTE_BODY_BYTES = 16 * 1024
MAX_ADMIN_BODY_BYTES = 256 * 1024
MAX_REPORT_BODY_BYTES = 256 * 1024
MAX_COST = 1e12


class RouteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /route/. The answer is RouteReady or RouteWaiting, both with status 200."""

    endpoint: str
    cost: float = 100.0  #: work units, finite, 0 <= cost <= MAX_COST
    api_key: str | None = None  #: or Authorization: Bearer, or ?api_key=
    request_idx: int | None = None  #: 0 or absent: a new request; else the number a former answer gave
    replay_timeout: float | None = None  #: s; Vast's clients send 60; how long a waiting request is remembered
    wait_s: float | None = None  #: s to be held until a worker is ready, at most MAX_WAIT_S
    exclude_workers: tuple[WorkerId, ...] = ()  #: that failed this request before
    session: str | None = None


MAX_WAIT_S = 300.0


class RouteReady(msgspec.Struct, frozen=True, kw_only=True):
    """A worker is chosen. Vast's client hands this whole object to the worker as auth_data."""

    endpoint: str
    url: str  #: no trailing slash
    cost: float
    reqnum: int  #: fresh for every answer
    request_idx: int  #: never 0
    signature: str  #: Vast's RSA signature over the url
    ticket: str  #: ours, for `Authorization: Bearer`
    worker_id: WorkerId
    expires_at: int  #: unix seconds until which the ticket may arrive
    group_id: int = 0
    wait_s: float = 0.0  #: how long the router held this request
    cold_start: bool = False  #: waited for a worker to start
    expected_wait_s: float = 0.0  #: in the worker's own queue
    envelope: bool = False  #: this worker takes Vast's envelope only: POST {"auth_data": this answer, "payload": {...}}


class RouteWaiting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """No worker yet. There is no `url` key: that is how Vast's clients tell it from RouteReady."""

    endpoint: str
    request_idx: int
    status: str  #: one sentence
    wait_reason: str = ""  #: from reasons.WaitReason
    position: int = 0
    retry_after_s: float = 1.0
    eta_s: float | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every error body. `error`, `msg` and `error_msg` are the three places where Vast's clients look."""

    error: str  #: code, from ErrorCode
    msg: str  #: what, why, what to do
    success: bool = False
    error_msg: str = ""
    fields: dict[str, str] = {}  #: field -> what is wrong with it
    request_id: str = ""
    detail: dict[str, Any] = {}


def problem(error: str, msg: str, **more: Any) -> Problem:
    return Problem(error=error, msg=msg, error_msg=msg, **more)


class ErrorCode:
    """Codes of Problem.error, router and worker alike. docs/errors.md explains each."""

    BAD_JSON = "bad_json"
    BAD_FIELD = "bad_field"
    BODY_TOO_LARGE = "body_too_large"
    NO_KEY = "no_key"
    BAD_KEY = "bad_key"
    FORBIDDEN = "forbidden"
    NO_ENDPOINT = "no_endpoint"
    NO_GROUP = "no_group"
    NO_WORKER = "no_worker"
    NO_TEMPLATE = "no_template"
    BAD_WORKER_TOKEN = "bad_worker_token"  # noqa: S105 - a code, not a token
    NAME_TAKEN = "name_taken"
    CONTRADICTION = "contradiction"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"
    NOT_FOUND = "not_found"
    METHOD = "method_not_allowed"
    INTERNAL = "internal"
    # worker
    NO_TICKET = "no_ticket"
    TICKET_MALFORMED = "ticket_malformed"
    TICKET_FORGED = "ticket_forged"
    TICKET_EXPIRED = "ticket_expired"
    TICKET_NOT_YET = "ticket_not_yet_valid"
    TICKET_REPLAYED = "ticket_replayed"
    TICKET_WRONG_WORKER = "ticket_wrong_worker"
    TICKET_UNKNOWN_KEY = "ticket_unknown_key"
    NO_HANDLER = "no_handler"
    LOADING = "loading"
    DRAINING = "draining"
    QUEUE_FULL = "queue_full"
    MODEL_UNREACHABLE = "model_unreachable"
    MODEL_DIED = "model_died"
    MODEL_TIMEOUT = "model_timeout"


class AuthData(msgspec.Struct, frozen=True, kw_only=True):
    """The `auth_data` of Vast's envelope, as the worker reads it. `ticket` is ours; extra keys are ignored."""

    cost: float = 0.0
    endpoint: str = ""
    reqnum: int = 0
    request_idx: int = 0
    signature: str = ""
    url: str = ""
    ticket: str = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a worker call in Vast's form. `payload` stays raw bytes: it is passed on as it came."""

    auth_data: AuthData
    payload: msgspec.Raw
    session_id: str | None = None


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """POST /worker_status/: the report of Vast's PyWorker, each second while something changes, else every 10 to 11 s. Its boot scripts
    send a part of it; what is absent or null says nothing.

    Left out is what a router must not believe (`rej_load` and the like: callers without a ticket can raise it) or counts itself (`new_load`).
    """

    id: int | str  #: CONTAINER_ID
    mtoken: str  #: MASTER_TOKEN; a secret
    version: str | None = None
    loadtime: float | None = None  #: s from its start to ready; 0 until then
    max_perf: float | None = None  #: work units per second, from its benchmark; 0 until ready
    error_msg: str | None = None  #: once set, it stays for the life of that process
    cur_load: float | None = None  #: work units in flight, its queue and open sessions included
    cur_perf: float | None = None  #: work units served since its last report that was answered: an amount, no rate
    num_requests_working: int | None = None
    num_requests_recieved: int | None = None  #: sic; ever, in this process
    url: str | None = None


class FinishedRequest(msgspec.Struct, frozen=True):
    """`status` is Success, Error, Cancelled or Rejected; a cancelled one counts as a success."""

    status: str = ""
    success: bool = False


class FinishedRequests(msgspec.Struct, frozen=True, kw_only=True):
    """POST /delete_requests/: what ended at Vast's PyWorker since it last said so. Older ones send `request_idxs` and one `success`
    for all of them.
    """

    worker_id: int | str
    mtoken: str
    requests: tuple[FinishedRequest, ...] = ()
    request_idxs: tuple[int, ...] = ()
    success: bool = False
