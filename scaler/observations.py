"""What the scaler's mind is told: everything that `state.apply` folds.

`at` is when the scaler received it, unix seconds. A fold never goes back: an older `at` counts as the newest seen. Only a clock that is
set takes it along, backwards too.
"""

from __future__ import annotations

import msgspec

from schemas.ids import CommandId, GroupId, WorkerId
from schemas.records import DemandMark, EndpointRecord, Failure, InstanceRecord, WorkerRecord
from schemas.signals import DemandReport, Heartbeat

from .types import Decision, Liveness, Telemetry


class Observation(msgspec.Struct, frozen=True, kw_only=True, tag_field="saw"):
    """`at`: when the scaler received it. A fold never goes back: an older `at` counts as the newest seen."""

    at: float


class EndpointSeen(Observation, frozen=True, kw_only=True, tag="endpoint"):
    """The endpoint as people want it; None: deleted."""

    endpoint: EndpointRecord | None


class InstanceSeen(Observation, frozen=True, kw_only=True, tag="instance"):
    """What the provider has; None: the record is gone. The provisioner's truth."""

    worker_id: WorkerId
    instance: InstanceRecord | None


class WorkerSeen(Observation, frozen=True, kw_only=True, tag="worker"):
    """What the leader before wrote into corral_workers: read once, by a new leader."""

    worker: WorkerRecord


class HeartbeatSeen(Observation, frozen=True, kw_only=True, tag="heartbeat"):
    heartbeat: Heartbeat


class LivenessJudged(Observation, frozen=True, kw_only=True, tag="liveness"):
    worker_id: WorkerId
    liveness: Liveness
    silent_s: float = 0.0


class TelemetryJudged(Observation, frozen=True, kw_only=True, tag="telemetry"):
    telemetry: Telemetry


class DemandSeen(Observation, frozen=True, kw_only=True, tag="demand"):
    report: DemandReport


class DemandMarked(Observation, frozen=True, kw_only=True, tag="mark"):
    """A router's durable wish to wake the endpoint; None: withdrawn."""

    router: str
    mark: DemandMark | None


class CommandFailed(Observation, frozen=True, kw_only=True, tag="command_failed"):
    """Refused or dead: it will not be carried out."""

    command_id: CommandId
    failure: Failure


class DrainShown(Observation, frozen=True, kw_only=True, tag="drain_shown"):
    """The record that stops the routers' tickets is stored: the ticket window runs from here."""

    worker_id: WorkerId


class DrainTold(Observation, frozen=True, kw_only=True, tag="drain_told"):
    """The worker confirmed a drain or undrain order."""

    worker_id: WorkerId
    draining: bool


class Preempting(Observation, frozen=True, kw_only=True, tag="preempting"):
    """The provider gave notice that it takes the machine back."""

    worker_id: WorkerId
    gone_at: float


class BreakerReset(Observation, frozen=True, kw_only=True, tag="breaker_reset"):
    """An operator says: try this group again."""

    group_id: GroupId
    by: str
    said_at: float | None = None  #: by the clock of whoever passed it on; None: now


class PriceSeen(Observation, frozen=True, kw_only=True, tag="price"):
    """What one worker of the group would cost now; None: nothing on offer."""

    group_id: GroupId
    usd_per_hour: float | None
    storage_usd_per_hour: float = 0.0


class DecisionTaken(Observation, frozen=True, kw_only=True, tag="decision"):
    """The scaler's own act: folded after each decide(), so that hysteresis and the engine's memory go on. One that acts or
    says something new is also recorded: it takes the next generation, continues the hash chain and is told as an event.
    """

    decision: Decision
    recorded: bool = True
    decision_hash: str = ""
    published: bool = True  #: False: its event is still to be sent


class ClockStepped(Observation, frozen=True, kw_only=True, tag="clock"):
    """Our clock was set: no time passed, though it now says `at`. What was measured by it before moves along."""

    by_s: float  #: negative: backwards


class Ticked(Observation, frozen=True, kw_only=True, tag="tick"):
    """Time passed; windows move on. Folded before each decision."""
