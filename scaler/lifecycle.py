"""What state a worker is in: the provisioner's record, its own heartbeat and our commands, merged into one word.

                          +-----------------------------------------------+
                          v                                               |
    pending -> creating -> loading -> model_loading -> benchmarking -> ready -> draining
                                ^                                         |        |
                                |                                         v        v
                           starting <---------- stopped <------------- stopping <--+

The provisioner's word rules over existence (creating, stopped, gone), the worker's over its inside (loading, ready,
error), ours over intent (draining, stopping before anybody did it). Messages may be lost, so steps may be skipped
forwards; what never happens is a return from the dead.
"""

from __future__ import annotations

import msgspec

from schemas.reasons import Cause, Phase
from schemas.records import Failure, InstanceRecord
from schemas.signals import Heartbeat
from schemas.states import HOT, WorkerState

from . import endings
from .types import Liveness, WorkerFact

_replace = msgspec.structs.replace

_LIVING = frozenset(WorkerState) - {WorkerState.DESTROYING, WorkerState.GONE}
_ENDS = frozenset({WorkerState.DESTROYING, WorkerState.GONE})
_SECOND_LIFE = _LIVING - {WorkerState.PENDING}
_STARTS = frozenset(HOT) - {WorkerState.PENDING}
#: What may follow what. Also the picture in the docs.
MOVES: dict[WorkerState, frozenset[WorkerState]] = {
    **dict.fromkeys(_LIVING, _SECOND_LIFE | _ENDS),
    WorkerState.PENDING: _STARTS | _ENDS | {WorkerState.ERROR, WorkerState.STOPPED, WorkerState.STOPPING},
    WorkerState.STOPPED: _STARTS | _ENDS | {WorkerState.ERROR},
    WorkerState.DESTROYING: _SECOND_LIFE | {WorkerState.GONE},  # the command died; the machine still costs money
    WorkerState.GONE: frozenset(),
}

_BY_INSTANCE = {
    "creating": WorkerState.CREATING,
    "stopping": WorkerState.STOPPING,
    "stopped": WorkerState.STOPPED,
    "destroying": WorkerState.DESTROYING,
    "gone": WorkerState.GONE,
    "failed": WorkerState.ERROR,
}
_BY_INTENT = {
    "create": WorkerState.PENDING,
    "start": WorkerState.STARTING,
    "stop": WorkerState.STOPPING,
    "destroy": WorkerState.DESTROYING,
    "reboot": WorkerState.REBOOTING,
}
_RESTS = frozenset({"stopping", "stopped", "failed", "destroying", "gone"})
#: Heartbeats of an ended process that are still under way arrive within this time.
_LAST_WORDS_S = 5.0
#: A worker whose drain was taken back may call itself draining for this long: the order is under way.
_UNDRAIN_LAG_S = 5.0
_LAUNCHED = frozenset({"creating", "starting", "running"})
_AT_REST = frozenset({WorkerState.STOPPED, WorkerState.STOPPING, WorkerState.ERROR})
#: Instance states that show a command's effect; of a reboot nothing but its own id does.
_EFFECT: dict[str, frozenset[str]] = {
    "create": frozenset({"creating", "running", "starting", "stopping", "stopped", "destroying", "gone", "failed"}),
    "start": frozenset({"starting", "running"}),
    "stop": frozenset({"stopping", "stopped", "destroying", "gone"}),
    "destroy": frozenset({"destroying", "gone"}),
    "reboot": frozenset(),
}
#: A record that is this much younger than our command and says otherwise: somebody else acted since.
_CONTRADICTED_AFTER_S = 30.0

_PHASES = {
    WorkerState.PENDING: Phase.RENT,
    WorkerState.CREATING: Phase.RENT,
    WorkerState.LOADING: Phase.BOOT,
    WorkerState.STARTING: Phase.BOOT,
    WorkerState.REBOOTING: Phase.BOOT,
    WorkerState.UPDATING: Phase.BOOT,
    WorkerState.MODEL_LOADING: Phase.MODEL,
    WorkerState.BENCHMARKING: Phase.BENCH,
}


def phase_of(state: WorkerState) -> Phase:
    """Where in its life a worker in this state is."""
    return _PHASES.get(state, Phase.SERVE)


def merged(fact: WorkerFact) -> WorkerState:
    """The one word for all we know of it."""
    if fact.intent is not None:
        return _BY_INTENT[fact.intent.op]
    if fact.instance_state == "creating" and fact.failure is not None:
        return WorkerState.ERROR  # the provider promised it and nothing came: its time is up
    if fact.instance_state in _BY_INSTANCE:
        return _BY_INSTANCE[fact.instance_state]
    if fact.failure is not None or fact.liveness is Liveness.LOST:
        return WorkerState.ERROR
    if fact.drain is not None and (fact.drain.unready or fact.beat_state is WorkerState.READY):
        return WorkerState.DRAINING
    if fact.beat_state is None:
        return WorkerState.STARTING if fact.from_cold else WorkerState.LOADING
    return fact.beat_state


def settled(fact: WorkerFact, at: float) -> WorkerFact:
    """The fact with its state brought up to date; moves that cannot be are refused."""
    state = merged(fact)
    if state is fact.state:
        return fact
    if state not in MOVES[fact.state]:
        return fact
    ready_at = at if state is WorkerState.READY and fact.ready_at is None else fact.ready_at
    phase_at = at if phase_of(state) is not phase_of(fact.state) or fact.state in _AT_REST else fact.phase_at
    return _replace(fact, state=state, state_at=at, ready_at=ready_at, phase_at=phase_at)


def with_instance(fact: WorkerFact, record: InstanceRecord, at: float) -> WorkerFact:
    """The fact after the provisioner's record changed."""
    intent = fact.intent
    if _is_launch(fact, record):
        commanded = intent is not None and intent.op in ("create", "start", "reboot")
        launched_at = intent.issued_at if intent is not None and commanded else record.state_at or at
        from_cold = fact.instance_state in ("stopped", "stopping", "failed") or _is_rebooted(fact, record)
        if fact.instance_state == "running":
            fact = at_rest(fact)  # it rested and nobody told us
        fact = relaunched(fact, launched_at, from_cold=from_cold)
    elif record.state in _RESTS and fact.instance_state not in _RESTS:
        fact = at_rest(fact)
    if intent is not None and _is_done(fact, record):
        if intent.op == "destroy" and record.state == "failed":
            fact = endings.died(fact, at)
        intent = None
    failure = _without_log(record.failure) if record.state == "failed" else fact.failure
    return _replace(
        fact,
        group_id=record.group_id,
        revision=record.revision,
        intent=intent,
        instance_state=record.state,
        instance_at=record.state_at,
        instance_command=record.command_id,
        provider=record.provider,
        host=record.host,
        usd_per_hour=record.usd_per_hour,
        storage_usd_per_hour=record.storage_usd_per_hour,
        created_at=record.created_at or fact.created_at,
        gone_at=fact.gone_at if record.gone_at is None else record.gone_at,
        url=fact.url or record.url,
        failure=failure,
        drain=None if record.state in _RESTS else fact.drain,
    )


def relaunched(fact: WorkerFact, at: float, *, from_cold: bool) -> WorkerFact:
    """The fact at the begin of a new start. What its new process may have said already stays."""
    return _replace(
        fact,
        launched_at=at,
        from_cold=from_cold,
        ready_at=None,
        proven=False,
        blamed=False,
        end_failures=0,
        drain=None,
        failure=None,
    )


def at_rest(fact: WorkerFact) -> WorkerFact:
    """The fact once its process ended: nothing that this boot says from now on counts."""
    return _replace(
        fact,
        liveness=Liveness.UNHEARD,
        beat_state=None,
        beat_at=None,
        old_boot=fact.boot or fact.old_boot,
        boot="",
        seq=0,
        load_units=0.0,
        inflight=0,
        queued=0,
        oldest_queued_s=0.0,
    )


def hears(fact: WorkerFact, beat: Heartbeat, at: float) -> bool:
    """Whether this heartbeat is news: not older than the last one, and not the last words of a process that ended. Of another process
    the machine's clock tells it, unless that was set back between the two: then it is news once the one before is silent.
    """
    if beat.boot == fact.old_boot and beat.boot != "":
        return fact.instance_state == "running" and at > fact.instance_at + _LAST_WORDS_S
    if beat.boot == fact.boot:
        return beat.seq > fact.seq
    return beat.sent_at >= fact.beat_sent_at or fact.beat_at is None or at > fact.beat_at + _LAST_WORDS_S


def with_heartbeat(fact: WorkerFact, beat: Heartbeat, at: float) -> WorkerFact:
    """The fact after the worker spoke. Its own word about a failure holds until it says otherwise."""
    same_boot = beat.boot == fact.boot
    busy = beat.inflight + beat.queued > 0 or (same_boot and beat.requests_total > fact.requests_total)
    failed = beat.state is WorkerState.ERROR
    takes_back = beat.state is WorkerState.DRAINING and fact.drain is None and at < fact.undrained_at + _UNDRAIN_LAG_S
    said = WorkerState.READY if takes_back else beat.state
    failure, drain = fact.failure, fact.drain
    if drain is not None and drain.unready and (beat.state is WorkerState.READY or beat.inflight + beat.queued > 0):
        drain = _replace(drain, unready=False)  # a router may have heard it before it read that it drains
    if failed:
        failure = (
            _without_log(beat.failure)
            or fact.failure
            or Failure(cause=Cause.START_CRASH, message="the worker reports an error", at=at)
        )
    elif not same_boot or fact.beat_state is WorkerState.ERROR or _was_silence(failure):
        failure = None
    return _replace(
        fact,
        liveness=Liveness.ALIVE,
        beat_state=said,
        beat_at=max(0.0, at - beat.age_s),
        beat_sent_at=beat.sent_at,
        boot=beat.boot,
        old_boot=fact.boot if fact.boot and not same_boot else "" if beat.boot == fact.old_boot else fact.old_boot,
        seq=beat.seq,
        url=beat.url or fact.url,
        perf=beat.perf or fact.perf,
        slots=beat.slots,
        load_units=beat.load,
        inflight=beat.inflight,
        queued=beat.queued,
        oldest_queued_s=beat.oldest_queued_s,
        requests_total=beat.requests_total,
        served_units_total=beat.served_units_total,
        last_ticket_exp_at=beat.last_ticket_exp_at,
        busy_at=at if busy else fact.busy_at,
        failure=failure,
        drain=drain,
    )


def _is_launch(fact: WorkerFact, record: InstanceRecord) -> bool:
    if record.state not in _LAUNCHED:
        return False
    if fact.instance_state is None and fact.boot:
        return False  # its record was lost and is back; the worker went on all the time
    if fact.instance_state == "running":
        return record.state != "running" or _is_rebooted(fact, record)
    return fact.instance_state is None or fact.instance_state in _RESTS


def _is_rebooted(fact: WorkerFact, record: InstanceRecord) -> bool:
    """It runs again by our command; that it went down in between is told by a record that may have been passed over."""
    intent = fact.intent
    return intent is not None and intent.op == "reboot" and record.command_id == intent.command_id


def _is_done(fact: WorkerFact, record: InstanceRecord) -> bool:
    """Whether the record shows the effect of our command, or that somebody acted against it since."""
    intent = fact.intent
    assert intent is not None
    if intent.op == "reboot" and record.state == "stopping":
        return False  # half of it is done; it counts as on its way until it runs again
    if record.command_id == intent.command_id or record.state in _EFFECT[intent.op]:
        return True
    return record.state_at > intent.issued_at + _CONTRADICTED_AFTER_S


def _was_silence(failure: Failure | None) -> bool:
    return failure is not None and failure.cause is Cause.HEARTBEAT_LOST


def _without_log(failure: Failure | None) -> Failure | None:
    """A state travels in decision events; the worker's log does not belong there."""
    return None if failure is None else _replace(failure, log_tail="", message=failure.message[:200])
