"""The boundary of the scaler's mind: what it remembers, how it thinks, what it answers. `observations` is what it is told.

    Observation --state.apply--> EndpointState --decide.decide(state, policy, now)--> Decision
                     ^                                                                   |
                     +------------------------- DecisionTaken <--------------------------+

Everything is a frozen value. Times are unix seconds (`_at`) as the scaler's own clock read them, durations seconds (`_s`), work is in
the endpoint's unit (for language models tokens). `None` means "not known" and is never zero. Floats are finite: JSON
has no infinity, and a state must come back from its bytes as it was.

One endpoint is one state. What a new leader cannot learn again (`memory.snapshot`) fits one KV value: 64 KiB for a hundred workers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from schemas.events import InputRead
from schemas.ids import CommandId, EndpointId, GroupId, WorkerId
from schemas.reasons import Cause, Phase, Why
from schemas.records import Failure, Override, ScalingSettings, Schedule
from schemas.states import EndpointState as Activity
from schemas.states import WorkerState

Op = Literal["create", "start", "drain", "undrain", "stop", "destroy", "reboot"]
Then = Literal["stop", "destroy"]


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the remembered values: defaults are left out, so a state stays small."""


# --- 1. what it remembers ----------------------------------------------------------------------------------------


class Liveness(StrEnum):
    """Judged by arrival times on the monotonic clock, outside of the fold (`liveness`)."""

    UNHEARD = "unheard"  #: no heartbeat of this boot yet
    ALIVE = "alive"
    SUSPECT = "suspect"  #: silent for a while; still serves
    LOST = "lost"  #: silent for long while others speak; serves no more


class Telemetry(StrEnum):
    """Whether silence means anything."""

    WARMING = "warming"  #: this scaler listens since a moment only
    LIVE = "live"
    FROZEN = "frozen"  #: all heartbeats stopped at once: our network
    DEAF = "deaf"  #: our own connection is down


class GroupSpec(Value, frozen=True, kw_only=True):
    """A worker group without its template's command and environment: those are no business of a decision or its record."""

    id: GroupId
    name: str = ""
    revision: int = 1
    oldest_revision: int = 0  #: workers older than this make way; 0: all that are not of `revision`
    weight: float = 1.0
    tier: int = 0
    provider: str = "process"
    managed: bool = True  #: False: people bring the machines; never bought, stopped or destroyed
    expected_perf: float | None = None
    price_cap_usd_per_hour: float | None = None
    usd_per_hour: float | None = None  #: of its hot workers, where people say so
    start_timeout_s: float = 600.0
    by_cost: bool = False  #: no weight was given; in a tier without any the cheapest delivered work goes first
    max_workers: int | None = None  #: hot and cold of this group
    overflow_util: float | None = None  #: it helps out once the tiers below are used above this
    overflow_queue_s: float | None = None  #: or once a request has waited this long


class EndpointSpec(Value, frozen=True, kw_only=True):
    id: EndpointId
    name: str = ""
    revision: int = 1
    settings: ScalingSettings = ScalingSettings()
    activity: Activity = Activity.ACTIVE
    groups: tuple[GroupSpec, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    override: Override | None = None
    created_at: float = 0.0
    changed_at: float = 0.0


class Drain(Value, frozen=True, kw_only=True):
    """A worker on its way out. Takeable back until the command that ends it is decided."""

    since_at: float
    deadline_at: float  #: then it is cut short
    then: Then
    why: Why
    shown_at: float | None = None  #: when routers could read it
    told: bool = False  #: the worker confirmed
    unready: bool = False  #: it was on its way up when its drain began, and has not said that it is ready since


class Intent(Value, frozen=True, kw_only=True):
    """A command that was decided and whose effect is not yet seen. Sent again under the same id until it is, or is dead."""

    command_id: CommandId
    op: Op
    issued_at: float
    deadline_at: float
    why: Why
    reason: str = ""
    decision_id: str = ""


class WorkerFact(Value, frozen=True, kw_only=True):
    """One worker, merged by `lifecycle` from the provisioner's record, the heartbeat and our own acts."""

    worker_id: WorkerId
    group_id: GroupId
    revision: int = 1
    state: WorkerState = WorkerState.PENDING
    state_at: float = 0.0
    created_at: float = 0.0
    launched_at: float = 0.0  #: begin of its present start
    from_cold: bool = False  #: its present start is from a stopped disk
    ready_at: float | None = None
    proven: bool = False  #: its present start counted as a success
    blamed: bool = False  #: its present start counted as a failure
    phase_at: float = 0.0  #: begin of the phase of its start that it is in; 0: as launched_at
    rebooted_at: tuple[float, ...] = ()  #: our last reboots of it, for their budget
    end_failures: int = 0  #: destroys of it that died in a row
    end_failed_at: float = 0.0  #: the newest of these
    intent: Intent | None = None  #: our newest command for it, until its effect is seen
    # the provider's side
    instance_state: str | None = None  #: None: the provisioner has no record (yet)
    instance_at: float = 0.0
    instance_command: CommandId = CommandId("")
    provider: str = ""
    host: str = ""
    usd_per_hour: float = 0.0
    storage_usd_per_hour: float = 0.0
    # the worker's own side
    liveness: Liveness = Liveness.UNHEARD
    beat_state: WorkerState | None = None
    beat_at: float | None = None  #: when that was so; its heartbeat may have come later
    beat_sent_at: float = 0.0
    boot: str = ""
    old_boot: str = ""  #: of the start before; its late heartbeats say nothing
    seq: int = 0
    url: str = ""
    perf: float = 0.0  #: units per second; 0: not measured
    slots: int = 0  #: 0: not known
    load_units: float = 0.0
    inflight: int = 0
    queued: int = 0
    oldest_queued_s: float = 0.0
    requests_total: int = 0
    served_units_total: float = 0.0
    last_ticket_exp_at: float = 0.0
    busy_at: float = 0.0  #: last seen with work; 0: never
    gone_at: float | None = None  #: announced end of the machine
    drain: Drain | None = None
    undrained_at: float = 0.0  #: when its drain was last taken back
    failure: Failure | None = None


class RouterFact(Value, frozen=True, kw_only=True):
    """One router's last report. Its gauges count while fresh, its totals by differences within one boot."""

    boot: str
    seq: int = 0
    seen_at: float = 0.0
    arrivals_total: int = 0
    arrived_units_total: float = 0.0
    routed_units_total: float = 0.0
    waiting: int = 0
    waiting_units: float = 0.0
    oldest_wait_s: float = 0.0
    reserved_units: float = 0.0
    sizes: dict[int, int] = {}  #: class of size -> requests, total of the boot
    ended_total: int = 0  #: routed or given up
    late_total: int = 0  #: of these, late or given up
    marked_at: float | None = None  #: durable mark: somebody waits since then
    mark_units: float = 0.0
    quiet: bool = True  #: its silence would be no riddle (`hearing`)
    back_at: float = 0.0  #: when it was heard again after decisions were made without it


class Window(Value, frozen=True, kw_only=True):
    """Equal time buckets, oldest first; the last one is filling. `window` has the arithmetic."""

    bucket_s: float
    size: int
    last: int = 0  #: number of the newest bucket: floor(at / bucket_s)
    since_at: float = 0.0  #: begin of measuring; before it nothing is known
    values: tuple[float, ...] = ()


class Breaker(Value, frozen=True, kw_only=True):
    """Open: a template revision failed too often in a row; nothing more is bought for it."""

    revision: int
    opened_at: float
    cause: Cause
    failures: int
    cost_usd: float = 0.0


class GroupMemory(Value, frozen=True, kw_only=True):
    """What was learned about a group on its hardware."""

    revision: int = 1  #: the counts below are about this template revision
    failed_in_row: int = 0  #: starts that failed since the last success
    last_failure: Failure | None = None
    last_phase: Phase | None = None
    failed_cost_usd: float = 0.0  #: spent on those starts
    missed_in_row: int = 0  #: tries since the last success that the market refused
    backoff_until_at: float = 0.0  #: no start before
    breaker: Breaker | None = None
    starts_ok: float = 0.0  #: decayed counts, for the failure rate
    starts_failed: float = 0.0
    ready_seen: bool = False  #: a worker of this revision became ready
    good_hosts: tuple[str, ...] = ()  #: the last two where a worker of this revision became ready
    failed_hosts: tuple[str, ...] = ()  #: the last few where a worker of this revision failed, and none was ready since
    boot_new_s: tuple[float, ...] = ()  #: last creations, from command to ready
    boot_cold_s: tuple[float, ...] = ()  #: last starts from cold
    perf: float = 0.0  #: units per second of one worker, smoothed over benchmarks; 0: none yet
    slots: int = 0
    offer_usd_per_hour: float | None = None
    offer_storage_usd_per_hour: float = 0.0
    usd_per_hour: float | None = None  #: what its newest worker costs while hot; None: none was seen yet
    phase_s: dict[str, tuple[float, ...]] = {}  #: last durations of the phases of a start, by `phases.key`
    rebooted_at: tuple[float, ...] = ()  #: our last reboots of its workers, for their budget


class HostMemory(Value, frozen=True, kw_only=True):
    failures: int = 0
    quarantined_until_at: float = 0.0
    failed_at: float = 0.0  #: newest failure


class Fresh(Value, frozen=True, kw_only=True):
    """What happened since the demand engine last looked."""

    since_at: float = 0.0
    sizes: dict[int, int] = {}  #: class of size -> requests that came
    arrivals: int = 0
    units: float = 0.0
    routed_units: float = 0.0  #: of those that got a worker
    ended: int = 0  #: requests that got their worker or gave up
    late: int = 0  #: of these, later than target_queue_time
    present_s: float = 0.0  #: request-seconds of those here
    busy_workers_s: float = 0.0  #: seconds of a whole worker's slots in use
    served_units: float = 0.0


class Demand(Value, frozen=True, kw_only=True):
    """How much was asked for, over time."""

    arrived_units: Window
    arrivals: Window
    served_units: Window
    busy_workers_s: Window  #: seconds of a whole worker's slots in use
    present_peaks: Window  #: most requests at once, being served or waiting
    last_activity_at: float = 0.0  #: somebody asked or was served; 0: never
    sampled_at: float = 0.0  #: busy_workers_s is integrated up to here
    fresh: Fresh = Fresh()


class Targets(Value, frozen=True, kw_only=True):
    """What was wanted, over time: the memory behind hysteresis and the cold pool."""

    hot: int = 0
    hot_since_at: float = 0.0
    hot_peaks: Window  #: maxima of what load asked for, over minutes: scale-down waits for them to pass
    cold_peaks: Window  #: maxima over hours of hot and of the explicit floor: what is worth keeping on disk


class LastDecision(Value, frozen=True, kw_only=True):
    """The newest recorded decision, kept whole so that a new leader can finish telling it."""

    decision: Decision
    decision_hash: str
    published: bool
    previous_hash: str = ""


class EndpointState(Value, frozen=True, kw_only=True):
    """All that decide() sees of one endpoint. Dicts are never changed in place."""

    endpoint_id: EndpointId
    format: int = 1
    at: float = 0.0  #: of the newest observation
    spec: EndpointSpec | None = None  #: None: unknown or deleted (see `deleted`)
    deleted: bool = False
    telemetry: Telemetry = Telemetry.WARMING
    telemetry_at: float = 0.0
    workers: dict[WorkerId, WorkerFact] = {}
    routers: dict[str, RouterFact] = {}
    demand: Demand
    targets: Targets
    groups: dict[GroupId, GroupMemory] = {}
    hosts: dict[str, HostMemory] = {}
    generation: int = 0  #: of the newest recorded decision; command ids derive from it
    last: LastDecision | None = None
    engine: bytes = b""  #: the demand engine's own memory, packed by it; at most 48 KiB
    engine_format: str = ""  #: name and version of what packed it


# --- 2. how it thinks --------------------------------------------------------------------------------------------


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The scaler's own constants, equal for all endpoints (what users set per endpoint is ScalingSettings)."""

    name: str = "ensemble"  #: which demand engine (`decide.ENGINES`)
    version: int = 5  #: grows whenever equal input may give another decision, the engine's constants included
    mode: Literal["active", "advisory"] = "active"  #: advisory: decisions are recorded, nothing is done
    installation: str = ""  #: salts worker ids, so two installations at one provider never share one
    tick_s: float = 2.0  #: how often each endpoint is looked at
    look_again_s: float = 2.0  #: the same, as a decision says it; sooner where it knows of a moment
    # demand
    window_s: float = 60.0  #: load is averaged over this for going up
    calm_window_s: float = 300.0  #: and over this too for going down
    router_fresh_s: float = 5.0  #: a router's gauges count for this long
    mark_fresh_s: float = 900.0  #: a durable demand mark counts for this long
    router_lost_s: float = 120.0  #: nobody is let go for this long after a router fell silent in the middle of traffic ...
    router_gone_s: float = 3600.0  #: ... and after this long it is taken to have ended
    router_settle_s: float = 60.0  #: a router that is heard again tells of all that came lately after this long
    # hysteresis
    down_hold_s: float = 60.0  #: nothing goes down that was wanted within this time
    down_band: float = 0.03  #: least relative gap between the load that adds a worker and the one that frees it
    sure_arrivals: float = 20.0  #: as many requests make an average; fewer are averaged over longer
    up_tolerance: float = 0.02  #: part of a worker by which load may exceed the pool before one is added
    # cold pool, where the user sets nothing
    cold_keep_s: float = 6 * 3600.0  #: as many are kept as were hot at once within this time
    cold_settle_s: float = 1800.0  #: and, where the user does set something, as many as that asked for within this time
    cold_least_s: float = 900.0  #: nobody is destroyed who went cold more recently than this
    # starting
    boot_guess_s: float = 30.0  #: from command to ready, before anything was learned
    backoff_first_s: float = 5.0  #: no start so long after a failed one; doubles with each ...
    backoff_max_s: float = 300.0  #: ... up to this
    breaker_failures: int = 3  #: failed starts of one template revision in a row
    proven_after_s: float = 60.0  #: ready this long: the start was a success
    host_failures: int = 2  #: on one host, while the template works elsewhere
    quarantine_s: float = 3600.0  #: nothing is started on such a host for this long
    burst_workers: int = 64  #: started by one decision at most
    unsettled_workers: int = 256  #: starts whose effect is not seen yet, at most
    learn_failure_rate: float = 0.05  #: groups whose starts fail more often than this get more starts than are needed
    sure_starts: float = 4.0  #: so many recent starts make a failure rate
    phase_floor_s: float = 120.0  #: no phase of a start is given less
    phase_factor: float = 3.0  #: and each gets this many times what nearly all before it took
    phase_samples: int = 5  #: of a phase make a deadline; before, only start_timeout_s counts
    # choosing among groups
    horizon_s: float = 3600.0  #: a new worker is expected to be of use this long
    lead_slack: float = 1.5  #: while somebody waits, boots up to this many times the fastest are as good as it
    cold_worth: float = 0.8  #: a new worker is bought past a cold one only if its work costs less than this part of it
    learn_workers: int = 1  #: groups that are tried above need at the same time
    learn_share: float = 0.25  #: and this much above need at most, but always one
    learn_usd: float = 1.0  #: a try above need may cost this, where the price is known
    move_after_s: float = 300.0  #: a worker in the wrong group is replaced after this long
    move_share: float = 0.25  #: of the hot pool is moved to another group at once, but always one
    # rebooting what failed while it served
    reboots_per_worker: int = 2  #: within an hour; after that it is replaced
    reboots_per_group: int = 6
    reboot_ttl_s: float = 120.0  #: then the reboot has failed
    surge_workers: int = 1  #: above max_workers is never gone; of an old revision this many make way at once when it is full
    # ending
    lost_destroy_s: float = 30.0  #: lost for this long: destroyed
    ticket_ttl_s: float = 60.0  #: a ticket may arrive this long after it was signed
    clock_skew_s: float = 5.0  #: that clocks of routers and workers may differ by
    drain_deadline_s: float = 900.0  #: how long a draining worker's requests may go on before they are cut
    command_ttl_s: float = 600.0  #: a command that nobody carried out by then is dead
    # talking
    hold_repeat_s: float = 300.0  #: an unchanged hold is recorded this often


# --- 3. what it answers ------------------------------------------------------------------------------------------


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """A demand engine's opinion, before limits: how many hot, how many in all."""

    asked: int  #: hot workers that load alone asks for now, before any hold
    hot: int
    total: int  #: hot and cold that may be kept
    floor: int = 0  #: hot and cold that must exist, bought if need be
    why: Why
    sentence: str
    load_units_per_s: float | None = None  #: active load, when it is known
    units_per_s: float | None = None  #: capacity that is needed, when it is known; no release goes below it
    candidates: tuple[str, ...] = ()  #: what else was considered
    inputs: tuple[InputRead, ...] = ()
    until_at: float | None = None  #: when it changes by itself at the earliest, as far as the calendar knows
    engine: bytes | None = None  #: the engine's memory from now on; None: unchanged
    pooled: int | None = None  #: of `hot`, so many serve the load; the rest is for groups that would have nobody. None: all


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do. `command_id` is set for what goes to the provisioner; drain and undrain are the scaler's own."""

    op: Op
    worker_id: WorkerId
    group_id: GroupId
    why: Why
    reason: str
    command_id: CommandId | None = None
    revision: int = 1
    then: Then | None = None  #: of a drain: what follows
    avoid_hosts: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What decide() says. Equal input gives an equal decision, bit for bit: that is what replay verifies."""

    endpoint_id: EndpointId
    at: float
    generation: int
    decision_id: str
    why: Why
    sentence: str  #: for people; limits that changed a number have added their part
    hot_before: int  #: ready + coming + pending, by id
    hot_wanted: int
    hot_asked: int  #: what load alone asked for, before holds and limits
    cold_before: int
    cold_wanted: int
    floor: int = 0  #: hot and cold that explicit settings ask for
    actions: tuple[Action, ...] = ()
    inputs: tuple[InputRead, ...] = ()
    candidates: tuple[str, ...] = ()
    halted: tuple[GroupId, ...] = ()  #: groups whose breaker is open
    look_again_s: float = 2.0
    policy: str = ""
    advisory: bool = False
    activity: Activity = Activity.ACTIVE
    engine: bytes | None = None  #: the engine's memory after this decision; None: unchanged


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """The whole input of one decide(): the `record` of its event."""

    state: EndpointState
    policy: Policy
    now: float
