"""What is: the values in the KV buckets. One writer per bucket (see `subjects`).

Wire rules: fields are only ever added, each with a default; readers ignore what they do not know.
Times are unix seconds (`_at`), durations seconds (`_s`), work is in the endpoint's own unit (for language models: tokens).
"""

from __future__ import annotations

import msgspec

from .ids import CommandId, EndpointId, GroupId, WorkerId
from .reasons import Cause, Phase
from .states import EndpointState, WorkerState


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of all records."""


class ScalingSettings(Record, frozen=True, kw_only=True):
    """An endpoint's scaling parameters, under Vast's names. `None` means: not set, Corral decides.

    This is the one place where defaults are written; CLI help, docs and JSON Schema are generated from it.
    """

    min_load: float = 0.0  #: work units per second always kept hot
    target_util: float = 0.9  #: planned load / capacity of the hot pool, in (0, 1]
    cold_mult: float | None = None  #: total capacity / active load; None: by break-even
    min_cold_load: float | None = None  #: work units per second always kept, hot or cold
    cold_workers: int | None = None  #: workers always kept, hot or cold (also called min_workers)
    max_workers: int = 20  #: ceiling over hot and cold
    inactivity_timeout: float | None = None  #: s without requests before zero; 0: at once; < 0: never; None: 60
    max_queue_time: float = 30.0  #: s of expected wait above which a worker gets no more tickets
    target_queue_time: float = 5.0  #: s of wait the scaler aims to stay under

    def inactivity_timeout_s(self) -> float | None:
        """Seconds of silence before the hot pool may go to zero; None means never."""
        if self.inactivity_timeout is None:
            return DEFAULT_INACTIVITY_TIMEOUT_S
        return None if self.inactivity_timeout < 0 else self.inactivity_timeout

    def problems(self) -> tuple[str, ...]:
        """Contradictions, each as one sentence for the user; empty when the settings make sense."""
        found = [
            f"{name} must be a finite number of at least 0"
            for name in ("min_load", "max_queue_time", "target_queue_time")
            if not 0 <= getattr(self, name) < float("inf")
        ]
        for name in ("cold_mult", "min_cold_load"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                found.append(f"{name} must be a finite number of at least 0")
        if self.inactivity_timeout is not None and not abs(self.inactivity_timeout) < float("inf"):
            found.append("inactivity_timeout must be a finite number")
        if not 0 < self.target_util <= 1:
            found.append("target_util must be above 0 and at most 1")
        if not 0 <= self.max_workers <= MAX_WORKERS_LIMIT:
            found.append(f"max_workers must be between 0 and {MAX_WORKERS_LIMIT}")
        if self.cold_workers is not None and self.cold_workers < 0:
            found.append("cold_workers must be at least 0")
        if self.cold_workers is not None and self.cold_workers > self.max_workers:
            found.append(f"cold_workers ({self.cold_workers}) is more than max_workers ({self.max_workers})")
        return tuple(found)


DEFAULT_INACTIVITY_TIMEOUT_S = 60.0
MAX_WORKERS_LIMIT = 10_000


class Template(Record, frozen=True, kw_only=True):
    """What runs on a worker. Frozen into the group that uses it, so a revision is reproducible."""

    name: str
    command: tuple[str, ...] = ()  #: argv; {WORKER_PORT} and the like are expanded from the worker's environment
    env: dict[str, str] = {}
    image: str = ""  #: for providers that run containers
    cwd: str = ""  #: working directory for local processes
    disk_gb: float = 0.0
    gpus: int = 0  #: GPUs per worker; 0: none needed
    start_timeout_s: float = 600.0  #: from launch to ready; after it: cause "hang"
    stop_timeout_s: float = 10.0  #: from SIGTERM to SIGKILL


class WorkerGroup(Record, frozen=True, kw_only=True):
    """A template on a kind of hardware, inside an endpoint."""

    id: GroupId
    template: Template
    name: str = ""
    provider: str = "process"
    search_params: str = ""  #: Vast's query string; which hardware
    launch_args: str = ""
    weight: float = 1.0  #: share of the traffic among groups of one tier
    tier: int = 0  #: overflow order; lower first
    gpu_ram: float | None = None  #: GB
    price_cap_usd_per_hour: float | None = None
    expected_perf: float | None = None  #: work units per second before any benchmark is known
    revision: int = 1
    created_at: float = 0.0


class EndpointRecord(Record, frozen=True, kw_only=True):
    """KV corral_endpoints, key = endpoint token. Writer: the admin API, by compare-and-set. Groups live inside it, so
    one write changes an endpoint as a whole.
    """

    id: EndpointId
    name: str
    settings: ScalingSettings = ScalingSettings()
    state: EndpointState = EndpointState.ACTIVE
    groups: tuple[WorkerGroup, ...] = ()
    created_at: float = 0.0
    changed_at: float = 0.0
    revision: int = 1  #: counts changes
    key_version: int = 1  #: raises when the endpoint's own API key is rotated

    def group(self, group_id: GroupId) -> WorkerGroup | None:
        return next((group for group in self.groups if group.id == group_id), None)


class ApiKeyRecord(Record, frozen=True, kw_only=True):
    """KV corral_keys, key = SHA-256 of the API key in hex. The key itself is stored nowhere."""

    id: str
    name: str = ""
    role: str = "client"  #: "admin": everything; "client": route only
    endpoints: tuple[EndpointId, ...] = ()  #: empty: all
    created_at: float = 0.0
    expires_at: float | None = None


class Failure(Record, frozen=True, kw_only=True):
    """What went wrong, for a machine and for a person."""

    cause: Cause
    message: str = ""  #: one sentence; never a payload
    phase: Phase | None = None
    at: float = 0.0
    log_tail: str = ""  #: last lines of the worker's own log, at most 4 KiB


class InstanceRecord(Record, frozen=True, kw_only=True):
    """KV corral_instances, key = <endpoint token>.<worker id>. Writer: the provisioner. What the provider has.

    `state` is one of creating, running, stopping, stopped, starting, destroying, gone, failed. A `gone` record is a tombstone and
    expires with the bucket's per-key TTL.
    """

    worker_id: WorkerId
    endpoint_id: EndpointId
    group_id: GroupId
    provider: str
    state: str
    revision: int = 1
    template: Template | None = None
    provider_ref: str = ""  #: the provider's own name for it (pid file, contract id)
    url: str = ""  #: where clients reach its PyWorker, once known
    host: str = ""
    gpu_name: str = ""
    num_gpus: int = 0
    usd_per_hour: float = 0.0  #: while hot
    storage_usd_per_hour: float = 0.0
    created_at: float = 0.0
    state_at: float = 0.0
    starts: int = 0  #: how often it was started
    command_id: CommandId = CommandId("")  #: the last command that touched it
    commanded_at: float = 0.0  #: issued_at of that command; an older stop or start that arrives late is superseded
    mtoken_sha256: str = ""  #: hash of MASTER_TOKEN, by which Vast's PyWorker reports
    failure: Failure | None = None
    gone_at: float | None = None  #: the provider gave notice that it takes the machine back then


class WorkerRecord(Record, frozen=True, kw_only=True):
    """KV corral_workers, key = <endpoint token>.<worker id>. Writer: the scaler, only when something slow changed.
    The routers' feed: who may get tickets, where, how fast.
    """

    worker_id: WorkerId
    endpoint_id: EndpointId
    group_id: GroupId
    state: WorkerState
    revision: int = 1
    url: str = ""
    perf: float = 0.0  #: work units per second, measured; 0: not known
    slots: int = 0  #: requests served at once; 0: not known, treated as 1
    boot: str = ""  #: changes with every start of the PyWorker process
    state_at: float = 0.0
    created_at: float = 0.0
    ready_at: float | None = None  #: when it last became ready
    suspect: bool = False  #: silent for a while, not yet lost
    then: str = ""  #: while draining: what follows, "stop" or "destroy"
    drain_since_at: float | None = None
    provider: str = ""
    host: str = ""
    gpu_name: str = ""
    num_gpus: int = 0
    usd_per_hour: float = 0.0
    reliability: float = 1.0
    version: str = ""  #: PyWorker's version
    protocol: int = 1
    tls_fingerprint: str = ""
    failure: Failure | None = None


class DemandMark(Record, frozen=True, kw_only=True):
    """KV corral_demand, key = <endpoint token>.<router>. Writer: that router. Says durably that somebody waits, so that
    neither a crash of the router nor of the scaler loses the wish to wake an endpoint.
    """

    endpoint_id: EndpointId
    router: str
    waiting_since_at: float
    cost: float = 0.0


class Intent(Record, frozen=True, kw_only=True):
    """KV corral_idem, key = command id with dots as dashes. Writer: the provisioner. Claimed before the provider is called, done after."""

    command_id: CommandId
    op: str
    worker_id: WorkerId
    status: str  #: claimed, done, failed
    owner: str = ""
    attempts: int = 1
    at: float = 0.0
    epoch: int = 0
    failure: Failure | None = None
    body: str = ""  #: the command as it was sent, so that a claim whose message expired can still be settled


class LeaseRecord(Record, frozen=True, kw_only=True):
    """KV corral_lease, key = scaler.<shard>. Per-key TTL; the revision at acquisition is the fencing epoch."""

    owner: str
    epoch: int = 0
