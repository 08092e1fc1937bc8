"""What is: the values in the KV buckets. One writer per bucket (see `subjects`).

Wire rules: fields are only ever added, each with a default; readers ignore what they do not know.
Times are unix seconds (`_at`), durations seconds (`_s`), work is in the endpoint's own unit (for language models: tokens).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from .ids import CommandId, EndpointId, GroupId, WorkerId, is_token
from .reasons import Cause, Phase
from .states import EndpointState, WorkerState


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of all records."""


DEFAULT_INACTIVITY_TIMEOUT_S = 60.0
DEFAULT_TARGET_QUEUE_TIME_S = 5.0
MAX_WORKERS_LIMIT = 10_000


class ScalingSettings(Record, frozen=True, kw_only=True):
    """An endpoint's scaling parameters, under Vast's names. `None` means: not set, Corral decides.

    This is the one place where defaults are written; CLI help, docs and JSON Schema are generated from it.
    """

    min_load: Annotated[float, Meta(description="Work units per second always kept hot.")] = 0.0
    target_util: Annotated[float, Meta(description="Planned load / capacity of the hot pool, above 0 and at most 1.")] = 0.9
    cold_mult: Annotated[
        float | None,
        Meta(
            description="Capacity of hot and cold together / active load; below 1 none is kept cold. "
            "Unset: Corral decides by break-even."
        ),
    ] = None
    min_cold_load: Annotated[float | None, Meta(description="Work units per second always kept, hot or cold.")] = None
    cold_workers: Annotated[int | None, Meta(description="Workers always kept, hot or cold (also called min_workers).")] = None
    max_workers: Annotated[int, Meta(description="Ceiling over hot and cold workers.")] = 20
    inactivity_timeout: Annotated[
        float | None,
        Meta(
            description="Seconds without requests before the hot pool goes to zero; 0: at once; below 0: never. "
            f"Unset: {DEFAULT_INACTIVITY_TIMEOUT_S:g}, and on for as long as it pays."
        ),
    ] = None
    max_queue_time: Annotated[float, Meta(description="Seconds of expected wait above which a worker gets no more tickets.")] = (
        30.0
    )
    target_queue_time: Annotated[float, Meta(description="Seconds of wait the scaler aims to stay under.")] = (
        DEFAULT_TARGET_QUEUE_TIME_S
    )

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
            found.append(
                f"cold_workers ({self.cold_workers}) is more than max_workers ({self.max_workers}): lower the first or raise the second"
            )
        if self.max_workers == 0 and 0 < self.min_load < float("inf"):
            found.append(
                f"max_workers (0) allows no worker, and min_load ({self.min_load:g}) keeps some hot: raise max_workers, set min_load "
                "to 0, or stop the endpoint by its state"
            )
        if self.max_workers == 0 and 0 < (self.min_cold_load or 0.0) < float("inf"):
            found.append(
                f"max_workers (0) allows no worker, and min_cold_load ({self.min_cold_load:g}) keeps some in reserve: raise "
                "max_workers, or set min_cold_load to 0"
            )
        if self.max_workers == 0 and self.inactivity_timeout_s() is None:
            found.append(
                f"max_workers (0) allows no worker, and inactivity_timeout ({self.inactivity_timeout:g}) says never to go to zero: "
                "raise max_workers, or set inactivity_timeout to 0 or more"
            )
        # A low max_queue_time alone is no contradiction: who set it said nothing of a target.
        target_s, most_s = self.target_queue_time, self.max_queue_time
        if target_s != DEFAULT_TARGET_QUEUE_TIME_S and 0 <= most_s < target_s < float("inf"):
            found.append(
                f"target_queue_time ({target_s:g}) is more than max_queue_time ({most_s:g}), above which workers get no more tickets: "
                "lower the first or raise the second"
            )
        return tuple(found)


class Schedule(Record, frozen=True, kw_only=True):
    """A floor by the calendar: from each moment of `cron`, for `lasts_s`, at least `hot_min` hot workers. `schedules` knows when
    that is.
    """

    cron: str  #: five fields: minute, hour, day of month, month, day of week
    lasts_s: float  #: from each moment of cron, a week at most
    hot_min: int  #: hot workers there are at least, started early enough to be ready when it begins
    time_zone: str = "UTC"  #: a name of the tz database, such as Europe/Berlin


class Override(Record, frozen=True, kw_only=True):
    """A person's word over the engine's, with owner and end. Limits of the settings stay law."""

    owner: str  #: name of the API key that said so
    expires_at: float  #: unix seconds, 30 days from now at most
    hot_min: int | None = None  #: at least so many hot workers
    hot_max: int | None = None  #: at most so many
    reason: str = ""  #: why, for whoever wonders
    set_at: float = 0.0

    def says(self) -> str:
        """What it asks for, in words."""
        if self.hot_min is not None and self.hot_min == self.hot_max:
            return f"exactly {self.hot_min} hot"
        floor = [] if self.hot_min is None else [f"at least {self.hot_min} hot"]
        ceiling = [] if self.hot_max is None else [f"at most {self.hot_max} hot"]
        return " and ".join(floor + ceiling)

    def problems(self, settings: ScalingSettings, now: float, state: EndpointState = EndpointState.ACTIVE) -> tuple[str, ...]:
        """Why it cannot be set now, each as one sentence for the user; `now` unix s, `state` the endpoint's."""
        found = []
        if self.hot_min is None and self.hot_max is None:
            found.append("an override needs hot_min or hot_max, or both")
        found += [
            f"{name} must be at least 0"
            for name in ("hot_min", "hot_max")
            if getattr(self, name) is not None and getattr(self, name) < 0
        ]
        if self.hot_min is not None and self.hot_max is not None and self.hot_min > self.hot_max:
            found.append(f"hot_min ({self.hot_min}) is more than hot_max ({self.hot_max}): lower the first or raise the second")
        if self.hot_min is not None and self.hot_min > settings.max_workers:
            found.append(
                f"hot_min ({self.hot_min}) is more than max_workers ({settings.max_workers}): lower the first or raise the second"
            )
        if (self.hot_min or 0) > 0 and state is not EndpointState.ACTIVE:
            found.append(
                f"hot_min ({self.hot_min}) would do nothing, because the endpoint is {state}: make it active first, with "
                "`corral endpoint resume`"
            )
        if not now < self.expires_at <= now + MAX_OVERRIDE_S:
            found.append(f"an override must end between now and {MAX_OVERRIDE_S / 86400:.0f} days from now")
        return tuple(found)


#: A word that is to hold for longer than this is a setting or a schedule.
MAX_OVERRIDE_S = 30 * 86400.0


MAX_TIER = 1000

#: A command to create a worker carries both of these, and the bus takes commands of 64 KiB.
MAX_TEMPLATE_BYTES = 40 * 1024
MAX_QUERY_CHARS = 4096

#: People bring these machines; they are never bought, stopped or destroyed here.
UNMANAGED_PROVIDERS = frozenset({"external"})


class Template(Record, frozen=True, kw_only=True):
    """What runs on a worker. Frozen into the group that uses it, so a revision is reproducible. No more than 40 KiB in all."""

    name: str  #: letters, digits, _ and -
    command: tuple[str, ...] = ()  #: argv; {WORKER_PORT} and the like are expanded from the worker's environment
    env: dict[str, str] = {}  #: environment of the worker
    image: str = ""  #: for providers that run containers
    cwd: str = ""  #: working directory for local processes
    disk_gb: float = 0.0  #: for providers that rent disks
    gpus: int = 0  #: GPUs per worker; 0: none needed
    slots: int = 0  #: requests a worker serves at once, where it does not say so itself (Vast's PyWorker); 0: one
    start_timeout_s: float = 600.0  #: from launch to ready; after it: cause "hang"
    stop_timeout_s: float = 10.0  #: from SIGTERM to SIGKILL

    def problems(self) -> dict[str, str]:
        """What makes no sense, by field, as the end of a sentence that begins with the field's name."""
        found = {}
        if not is_token(self.name):
            found["name"] = "must be 1 to 128 letters, digits, '-' or '_'"
        if not self.command and not self.image:
            found["command"] = "is required, unless `image` is given"
        for name in ("start_timeout_s", "stop_timeout_s"):
            if not 0 < getattr(self, name) < float("inf"):
                found[name] = "must be a number of seconds above 0"
        for name in ("gpus", "disk_gb", "slots"):
            if not 0 <= getattr(self, name) < float("inf"):
                found[name] = "must be a finite number of at least 0"
        size = len(msgspec.json.encode(self))
        if size > MAX_TEMPLATE_BYTES:
            largest = max(("command", "env", "image", "cwd"), key=lambda name: len(msgspec.json.encode(getattr(self, name))))
            found.setdefault(
                largest,
                f"makes the template {size} bytes long, and {MAX_TEMPLATE_BYTES} is the limit: put what is large into a file or an "
                "image, and name it here",
            )
        return found


class WorkerGroup(Record, frozen=True, kw_only=True):
    """A template on a kind of hardware, inside an endpoint."""

    id: GroupId
    template: Template
    name: str = ""  #: unique in its endpoint
    provider: str = "process"  #: where its machines come from; external: people bring them
    search_params: str = ""  #: Vast's query string; which hardware
    launch_args: str = ""  #: for the provider, when it creates a machine
    weight: float = 1.0  #: share of the traffic among groups of one tier
    tier: int = 0  #: overflow order; lower first
    by_cost: bool = False  #: no weight was given: in a tier without any, the cheapest delivered work goes first
    max_workers: int | None = None  #: ceiling over this group's hot and cold; then the next tier helps out
    overflow_util: float | None = None  #: this group helps out once the tiers below are used above this, in (0, 1]
    overflow_queue_s: float | None = None  #: or once a request has waited this long
    gpu_ram: float | None = None  #: GB
    price_cap_usd_per_hour: float | None = None  #: nothing dearer is rented
    usd_per_hour: float | None = None  #: what a hot worker costs, where you know better than its provider (your own machines)
    expected_perf: float | None = None  #: work units per second before any benchmark is known
    revision: int = 1
    oldest_revision: int = 0  #: workers older than this make way for new ones; 0: all that are not of `revision`
    created_at: float = 0.0

    def problems(self) -> dict[str, str]:
        """What makes no sense, by field, as the end of a sentence that begins with the field's name."""
        found = {
            name: "must be a finite number of at least 0"
            for name in ("weight", "gpu_ram", "price_cap_usd_per_hour", "usd_per_hour", "expected_perf", "overflow_queue_s")
            if (value := getattr(self, name)) is not None and not 0 <= value < float("inf")
        }
        for name in ("search_params", "launch_args"):
            if len(getattr(self, name)) > MAX_QUERY_CHARS:
                found[name] = f"has {len(getattr(self, name))} characters, and {MAX_QUERY_CHARS} is the limit"
        if not 0 <= self.tier <= MAX_TIER:
            found["tier"] = f"must be from 0 to {MAX_TIER}"
        if self.max_workers is not None and not 0 <= self.max_workers <= MAX_WORKERS_LIMIT:
            found["max_workers"] = f"must be from 0 to {MAX_WORKERS_LIMIT}"
        if self.overflow_util is not None and not 0 < self.overflow_util <= 1:
            found["overflow_util"] = "must be above 0 and at most 1"
        for name in ("overflow_util", "overflow_queue_s"):
            if getattr(self, name) is not None and self.tier == 0:
                found.setdefault(name, "says when a higher tier helps out, and this group is in tier 0: set its tier")
        price, cap = self.usd_per_hour, self.price_cap_usd_per_hour
        if price is not None and cap is not None and price > cap:
            found.setdefault(
                "usd_per_hour",
                f"({price:g}) is more than price_cap_usd_per_hour ({cap:g}) allows: raise the cap, or take it away",
            )
        return found


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
    schedules: tuple[Schedule, ...] = ()
    override: Override | None = None  #: over when its time is, whether it still stands here or not

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
    storage_usd_per_hour: float = 0.0
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
