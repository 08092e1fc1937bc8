"""How it goes right now: core NATS, at most once, level-triggered. A lost one is mended by the next.

Counters are totals since `boot`, so a receiver takes differences and a lost message loses nothing.
"""

from __future__ import annotations

import msgspec

from .ids import EndpointId, GroupId, WorkerId
from .records import Failure
from .states import WorkerState

PROTOCOL = 1  #: version of what PyWorkers and the control plane say to each other
#: Vast's own PyWorker: it reports to a router over HTTP, hears no orders, and takes requests in Vast's envelope only.
VAST_PROTOCOL = 0


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as NVML sees it."""

    index: int
    name: str = ""
    utilization_ratio: float | None = None  #: 0..1
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Worker -> scaler, routers, operators on corral.v1.hb.<ep>.<wid>: once a second and at once on a change of state. For a worker
    that does not speak NATS (Vast's) a router says it.
    """

    worker_id: WorkerId
    endpoint_id: EndpointId
    group_id: GroupId
    boot: str  #: changes with every start of the process
    seq: int  #: grows by one per heartbeat of a boot
    sent_at: float
    state: WorkerState
    revision: int = 1
    url: str = ""  #: where clients reach this PyWorker; no trailing slash
    perf: float = 0.0  #: work units per second, from the benchmark
    slots: int = 1  #: requests served at once
    load: float = 0.0  #: work units accepted and not yet finished
    inflight: int = 0  #: requests at the model
    queued: int = 0  #: requests accepted and waiting here
    oldest_queued_s: float = 0.0
    requests_total: int = 0  #: accepted
    served_total: int = 0  #: finished well
    failed_total: int = 0  #: the model failed them
    cancelled_total: int = 0  #: the client left
    rejected_total: int = 0  #: refused here, with a good ticket
    unauthorized_total: int = 0  #: refused for a bad ticket; never counted as load
    served_units_total: float = 0.0  #: work units finished well
    busy_s_total: float = 0.0  #: seconds with at least one request at the model
    queue_s_total: float = 0.0  #: seconds that requests waited here, over all that reached the model
    service_s_total: float = 0.0  #: seconds that requests were at the model, over all that finished well
    model_load_s: float | None = None  #: from process start to the model's first good health answer
    bench_s: float | None = None
    failure: Failure | None = None
    draining: bool = False
    last_ticket_exp_at: float = 0.0  #: latest expiry among the tickets seen; drain evidence
    gpus: tuple[GpuReading, ...] = ()
    version: str = ""
    protocol: int = PROTOCOL
    tls_fingerprint: str = ""
    started_at: float = 0.0
    via: str = ""  #: the router that speaks for it; empty: it speaks itself
    age_s: float = 0.0  #: how long ago all this was so; a router repeats what the worker last reported


class DemandReport(msgspec.Struct, frozen=True, kw_only=True):
    """Router -> scaler on corral.v1.load.<ep>.<router>: each second while there is anything to say, and at once when the first
    request must wait.
    """

    router: str
    endpoint_id: EndpointId
    boot: str
    seq: int
    sent_at: float
    arrivals_total: int = 0  #: distinct requests
    arrived_units_total: float = 0.0
    routed_total: int = 0
    routed_units_total: float = 0.0
    refused_total: int = 0  #: answered "no" or given up
    waiting: int = 0
    waiting_units: float = 0.0
    oldest_wait_s: float = 0.0
    reserved_units: float = 0.0  #: promised by tickets, not yet reported by workers
    wait_s_sum: float = 0.0  #: over routed requests, total
    failed_workers: dict[str, int] = {}  #: worker id -> complaints of clients, total
    last_arrival_at: float = 0.0  #: 0: none since boot
    sizes: dict[int, int] = {}  #: class of size (`sizes`) -> distinct requests
    late_total: int = 0  #: routed after, or to, a longer wait than the endpoint's target_queue_time
    leaving: bool = False  #: the router ends; it will say no more


class Promised(msgspec.Struct, frozen=True, array_like=True):
    """Tickets for one worker: how many, and for how much work."""

    requests: int
    units: float


class Reservations(msgspec.Struct, frozen=True, kw_only=True):
    """Router -> other routers on corral.v1.rsv.<ep>.<router>: load promised by tickets since the last of these messages. Sent a
    few times a second, in one piece, so that telling peers costs a small part of what a ticket costs.
    """

    router: str
    workers: dict[WorkerId, Promised]  #: worker id -> what was promised to it
    ttl_s: float  #: after this the promise is void, unless the worker's own reports have counted it before


class ControlOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Scaler or provisioner -> worker on corral.v1.ctl.<wid>, request/reply."""

    op: str  #: drain, undrain, stop
    deadline_s: float = 0.0  #: how long in-flight work may go on
    reason: str = ""


class ControlReply(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    state: WorkerState
    inflight: int = 0
    message: str = ""


class EnrollRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Admin API -> provisioner on corral.v1.adm.enroll: a machine that somebody brings. Answered with EnrollReply."""

    endpoint_id: EndpointId
    group_id: GroupId
    url: str = ""  #: where clients will reach it, when known already
    ttl_s: float = 365 * 86400.0  #: life of its credentials


class EnrollReply(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    worker_id: WorkerId = WorkerId("w0")
    token: str = ""  #: for CORRAL_WORKER_TOKEN; holds a WorkerBundle; a secret
    message: str = ""


class WorkerBundle(msgspec.Struct, frozen=True, kw_only=True):
    """All that a PyWorker must know about itself and its control plane. Written by the provisioner into a 0600 file
    (CORRAL_WORKER_BUNDLE) or handed out as a token (CORRAL_WORKER_TOKEN = "corral1." + unpadded base64url of this JSON).
    """

    worker_id: WorkerId
    endpoint_id: EndpointId
    group_id: GroupId
    nats_urls: tuple[str, ...]
    nats_jwt: str  #: scoped to this worker's own subjects
    nats_seed: str  #: nkey seed; a secret
    control_url: str  #: the router: /.well-known/jwks.json, /pubkey/
    issuer: str = "corral"
    revision: int = 1
    endpoint_name: str = ""
    expires_at: float = 0.0
