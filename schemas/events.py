"""What happened: past tense, on CORRAL_EVENTS (`corral.v1.evt.<kind>.<ep>`), the public contract for integrators.

`id` is also the Nats-Msg-Id, so a repeat is stored once. Readers must skip kinds and fields they do not know.
"""

from __future__ import annotations

import msgspec

from .ids import CommandId, EndpointId, GroupId, WorkerId
from .reasons import Phase, Why
from .records import Failure
from .states import EndpointState, WorkerState


def _null() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    id: str
    at: float  #: unix seconds, stamped by the sender
    endpoint_id: EndpointId


# --- the endpoint, as people change it ---------------------------------------------------------------------------


class EndpointCreated(Event, frozen=True, kw_only=True, tag="endpoint_created"):
    name: str
    by: str = ""


class EndpointChanged(Event, frozen=True, kw_only=True, tag="endpoint_changed"):
    name: str
    revision: int
    changed: tuple[str, ...] = ()  #: names of the fields
    by: str = ""
    reason: str = ""  #: of an override: what it asks for, until when, and why


class EndpointDeleted(Event, frozen=True, kw_only=True, tag="endpoint_deleted"):
    name: str
    by: str = ""


class GroupCreated(Event, frozen=True, kw_only=True, tag="group_created"):
    group_id: GroupId
    template: str = ""
    by: str = ""


class GroupChanged(Event, frozen=True, kw_only=True, tag="group_changed"):
    group_id: GroupId
    revision: int
    changed: tuple[str, ...] = ()
    by: str = ""


class GroupDeleted(Event, frozen=True, kw_only=True, tag="group_deleted"):
    group_id: GroupId
    by: str = ""


# --- the scaler's mind -------------------------------------------------------------------------------------------


class InputRead(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a decision looked at."""

    name: str
    value: float | None  #: None: no data, which is not zero
    age_s: float | None = None
    unit: str = ""


class StreamRead(msgspec.Struct, frozen=True, kw_only=True):
    """What of one stream was folded since the decision before: messages about this endpoint, by their stream sequence."""

    stream: str
    first_seq: int
    last_seq: int
    messages: int


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a decision asks for."""

    op: str  #: create, start, drain, undrain, stop, destroy, reboot, hold
    worker_id: WorkerId | None = None
    group_id: GroupId | None = None
    command_id: CommandId | None = None
    why: Why = Why.STEADY
    reason: str = ""


class Decided(Event, frozen=True, kw_only=True, tag="decision"):
    """Every decision, and every hold when its reason is new. `inputs` and `state` are enough to derive it again."""

    decision_id: str
    generation: int
    epoch: int
    why: Why
    reason: str  #: the sentence an operator reads
    hot_before: int  #: ready + coming
    hot_wanted: int
    cold_before: int
    cold_wanted: int
    actions: tuple[Action, ...] = ()
    inputs: tuple[InputRead, ...] = ()
    candidates: tuple[str, ...] = ()  #: what else was considered, one short sentence each
    policy: str = ""  #: name and version of the policy
    policy_hash: str = ""
    state_hash: str = ""
    previous_hash: str = ""  #: hash of the decision before: a chain
    endpoint_state: EndpointState = EndpointState.ACTIVE
    look_again_s: float = 2.0
    read: tuple[StreamRead, ...] = ()  #: heartbeats and demand are in no stream: their age is with each input
    format: int = 0  #: of `record` and of the hash that the next decision names
    record: msgspec.Raw = msgspec.field(default_factory=_null)  #: the whole input of decide(), for replay


class DemandWaiting(Event, frozen=True, kw_only=True, tag="demand_waiting"):
    """Somebody asked an endpoint that has nothing ready."""

    router: str
    waiting: int
    units: float


class TelemetryFrozen(Event, frozen=True, kw_only=True, tag="telemetry_frozen"):
    """All heartbeats stopped at once: taken for a fault of our own network. Nothing is decided until they are back."""

    silent_s: float
    workers: int


class TelemetryThawed(Event, frozen=True, kw_only=True, tag="telemetry_thawed"):
    frozen_s: float


class GroupHalted(Event, frozen=True, kw_only=True, tag="group_halted"):
    """The breaker opened: the same template failed on several hosts."""

    group_id: GroupId
    revision: int
    failure: Failure
    failures: int
    cost_usd: float = 0.0


class GroupResumed(Event, frozen=True, kw_only=True, tag="group_resumed"):
    """A person says: try this group again. Or, `by` the scaler itself, the breaker closed because its cause is gone."""

    group_id: GroupId
    by: str = ""
    reason: str = ""


# --- a worker's life ---------------------------------------------------------------------------------------------


class WorkerEvent(Event, frozen=True, kw_only=True):
    worker_id: WorkerId
    group_id: GroupId = GroupId(0)


class WorkerCreated(WorkerEvent, frozen=True, kw_only=True, tag="worker_created"):
    """The provider has it."""

    provider: str
    command_id: CommandId
    provider_ref: str = ""
    host: str = ""
    usd_per_hour: float = 0.0


class WorkerStarted(WorkerEvent, frozen=True, kw_only=True, tag="worker_started"):
    """A cold worker was started again."""

    command_id: CommandId


class WorkerChanged(WorkerEvent, frozen=True, kw_only=True, tag="worker_changed"):
    """It moved from one state to another."""

    state: WorkerState
    before: WorkerState | None = None
    phase_s: float = 0.0  #: seconds spent in the state before


class WorkerReady(WorkerEvent, frozen=True, kw_only=True, tag="worker_ready"):
    url: str
    perf: float
    cold_start_s: float = 0.0  #: from the command to ready
    from_cold: bool = False  #: started from a stopped disk, not created
    model_load_s: float | None = None
    bench_s: float | None = None


class WorkerSuspected(WorkerEvent, frozen=True, kw_only=True, tag="worker_suspected"):
    silent_s: float


class WorkerLost(WorkerEvent, frozen=True, kw_only=True, tag="worker_lost"):
    silent_s: float


class WorkerDraining(WorkerEvent, frozen=True, kw_only=True, tag="worker_draining"):
    then: str  #: stop or destroy
    why: Why = Why.STEADY


class WorkerDrained(WorkerEvent, frozen=True, kw_only=True, tag="worker_drained"):
    """The evidence that nothing was cut: no ticket can arrive any more and nothing is in flight."""

    waited_s: float
    ticket_window_s: float  #: ticket TTL + clock skew that was waited out
    inflight: int  #: 0, or more when the drain deadline cut it short
    cut_short: bool = False


class WorkerStopped(WorkerEvent, frozen=True, kw_only=True, tag="worker_stopped"):
    command_id: CommandId = CommandId("")


class WorkerDestroyed(WorkerEvent, frozen=True, kw_only=True, tag="worker_destroyed"):
    command_id: CommandId = CommandId("")
    lived_s: float = 0.0
    cost_usd: float = 0.0


class WorkerFailed(WorkerEvent, frozen=True, kw_only=True, tag="worker_failed"):
    failure: Failure
    phase: Phase | None = None


class WorkerAdopted(WorkerEvent, frozen=True, kw_only=True, tag="worker_adopted"):
    """Found at the provider after a restart and taken back."""

    provider: str


class OrphanRemoved(WorkerEvent, frozen=True, kw_only=True, tag="orphan_removed"):
    """Found at the provider, known to nobody, destroyed."""

    provider: str
    provider_ref: str = ""


class CommandRefused(Event, frozen=True, kw_only=True, tag="command_refused"):
    """Too late, from an old leader, or malformed."""

    command_id: str
    reason: str


class CommandDead(Event, frozen=True, kw_only=True, tag="command_dead"):
    """Given up; parked in CORRAL_DLQ."""

    command_id: str
    op: str
    failure: Failure
    group_id: GroupId = GroupId(0)


AnyEvent = (
    EndpointCreated
    | EndpointChanged
    | EndpointDeleted
    | GroupCreated
    | GroupChanged
    | GroupDeleted
    | Decided
    | DemandWaiting
    | TelemetryFrozen
    | TelemetryThawed
    | GroupHalted
    | GroupResumed
    | WorkerCreated
    | WorkerStarted
    | WorkerChanged
    | WorkerReady
    | WorkerSuspected
    | WorkerLost
    | WorkerDraining
    | WorkerDrained
    | WorkerStopped
    | WorkerDestroyed
    | WorkerFailed
    | WorkerAdopted
    | OrphanRemoved
    | CommandRefused
    | CommandDead
)


#: Of all events.
KINDS: tuple[str, ...] = tuple(kind.__struct_config__.tag for kind in AnyEvent.__args__)


def kind_of(event: AnyEvent) -> str:
    tag = event.__struct_config__.tag
    assert isinstance(tag, str)
    return tag
