"""The laws of the plan: what is done depends on what is known, and on nothing else."""

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from provisioner import compare as comparing
from provisioner import instances, plan
from provisioner.compare import Agree, NoteFailure, RemoveOrphan, Settle, compare
from provisioner.instances import InstanceState
from provisioner.plan import Bury, Call, Claim, Finish, Look, Patience, Refuse, RetryIn, Settled, act, admit, after_transient
from provisioner.provider import Machine, MachineState, Transient
from schemas import codec, subjects
from schemas.commands import AnyCommand, CreateWorker, DestroyWorker, RebootWorker, StartWorker, StopWorker, op_of
from schemas.ids import CommandId, EndpointId, GroupId, WorkerId
from schemas.reasons import Cause
from schemas.records import Failure, InstanceRecord, Intent, Template

EP, GRP, WID = EndpointId(42), GroupId(7), WorkerId("w1")
KINDS = AnyCommand.__args__
times = st.floats(1, 1e9)


@st.composite
def commands(draw, kinds=KINDS):
    kind = draw(st.sampled_from(kinds))
    more = {"template": Template(name="tiny")} if kind is CreateWorker else {}
    return kind(
        command_id=CommandId(f"e42.g{draw(st.integers(1, 5))}.s0"),
        endpoint_id=EP,
        worker_id=WID,
        group_id=GRP,
        issued_at=draw(times),
        deadline_at=draw(times),
        epoch=draw(st.integers(0, 5)),
        issued_by=draw(st.sampled_from(["scaler", "operator:ann"])),
        **more,
    )


intents = st.builds(
    Intent,
    command_id=st.just(CommandId("e42.g1.s0")),
    op=st.just("create"),
    worker_id=st.just(WID),
    status=st.sampled_from([plan.CLAIMED, plan.DONE, plan.FAILED]),
    at=times,
)
records = st.builds(
    InstanceRecord,
    worker_id=st.just(WID),
    endpoint_id=st.just(EP),
    group_id=st.just(GRP),
    provider=st.just("process"),
    state=st.sampled_from(list(InstanceState)).map(str),
    command_id=st.just(CommandId("e42.g9.s0")),
    commanded_at=times,
    state_at=times,
)


@st.composite
def machines(draw):
    state = draw(st.sampled_from(list(MachineState)))
    return Machine(
        worker_id=WID,
        endpoint_id=EP,
        group_id=GRP,
        command_id=CommandId("e42.g1.s0"),
        state=state,
        started_at=draw(times),
        failure=Failure(cause=Cause.START_CRASH) if state is MachineState.EXITED else None,
    )


claimed = intents.map(lambda intent: msgspec.structs.replace(intent, status=plan.CLAIMED))


# --- admit ---------------------------------------------------------------------------------------------------------


@given(commands(), times, st.integers(0, 9), intents, st.none() | records)
def test_what_was_begun_is_looked_at_and_what_ended_is_over(command, now, highest, intent, record):
    """Neither age nor epoch matters once the provider may have been called."""
    step = admit(command, now=now, highest_epoch=highest, intent=intent, record=record)
    assert isinstance(step, Look if intent.status == plan.CLAIMED else Settled)


@given(commands(), times, st.integers(0, 9), st.none() | records)
def test_nothing_late_or_fenced_is_begun(command, now, highest, record):
    step = admit(command, now=now, highest_epoch=highest, intent=None, record=record)
    fenced = command.issued_by == "scaler" and command.epoch < highest
    if fenced or now > command.deadline_at:
        assert isinstance(step, Refuse)
    assert isinstance(step, Claim | Refuse)
    assert not isinstance(step, Refuse) or step.reason


@given(commands(kinds=(StartWorker, StopWorker, RebootWorker)), records, times)
def test_nothing_newer_is_undone(command, record, now):
    assume(now <= command.deadline_at)
    step = admit(command, now=now, highest_epoch=0, intent=None, record=record)
    over = record.state in {"gone", "destroying"} or record.commanded_at > command.issued_at
    assert isinstance(step, Refuse) == over


@given(commands(kinds=(DestroyWorker,)), st.none() | records)
def test_a_destroy_in_time_is_always_begun(command, record):
    step = admit(command, now=command.deadline_at, highest_epoch=0, intent=None, record=record)
    assert isinstance(step, Claim)


# --- act -----------------------------------------------------------------------------------------------------------


@given(commands(kinds=(CreateWorker,)), times, claimed, st.none() | records, machines())
def test_a_create_that_finds_its_machine_never_makes_another(command, now, intent, record, machine):
    assume(machine.state is not MachineState.CREATING)
    step = act(command, now=now, intent=intent, record=record, machine=machine)
    assert isinstance(step, Finish | Refuse)


@given(commands(), times, claimed, st.none() | records, st.none() | machines())
def test_the_provider_is_called_only_in_time_and_only_for_what_is_not_so_yet(command, now, intent, record, machine):
    step = act(command, now=now, intent=intent, record=record, machine=machine)
    if not isinstance(command, DestroyWorker) and now > command.deadline_at:
        assert not isinstance(step, Call)
    wanted = {StartWorker: MachineState.RUNNING, StopWorker: MachineState.STOPPED}.get(type(command))
    if wanted is not None and machine is not None and machine.state is wanted:
        assert not isinstance(step, Call)
    if isinstance(command, DestroyWorker):
        assert step == (Finish(None) if machine is None else Call())
    if isinstance(step, Bury):
        assert machine is None and step.failure.cause is Cause.HOST_LOST


@given(commands(kinds=(RebootWorker,)), claimed, machines(), times)
def test_a_reboot_counts_as_done_only_when_it_started_after_the_claim(command, intent, machine, now):
    step = act(command, now=now, intent=intent, record=None, machine=machine)
    again = machine.state is MachineState.RUNNING and machine.started_at > intent.at
    assert isinstance(step, Finish) == again


# --- retries -------------------------------------------------------------------------------------------------------


@given(commands(), st.integers(1, 20), times, st.floats(0, 0.999), st.floats(0, 1e6))
def test_a_retry_is_never_late_never_early_and_never_after_the_last_delivery(command, deliveries, now, chance, floor_s):
    patience = Patience()
    error = Transient(Cause.RENT_FAILED, "busy", retry_after_s=floor_s)
    step = after_transient(error, command, deliveries=deliveries, now=now, patience=patience, chance=chance)
    if isinstance(step, RetryIn):
        assert deliveries < patience.max_deliveries
        assert floor_s <= step.delay_s and now + step.delay_s < command.deadline_at
    else:
        assert step.failure.cause is Cause.RENT_FAILED and step.failure.message.startswith("busy")


@given(st.integers(0, 10_000), st.floats(0, 0.999))
def test_delays_grow_and_stay_bounded(deliveries, chance):
    patience = Patience()
    assert 0 < patience.delay_s(deliveries, chance) <= 1.5 * patience.longest_delay_s
    assert patience.delay_s(deliveries + 1, chance) >= patience.delay_s(deliveries, chance)


# --- reading -------------------------------------------------------------------------------------------------------


@given(commands())
def test_what_was_written_is_read(command):
    subject = subjects.command(op_of(command), EP)
    assert plan.read(codec.encode(command), subject) == command
    for wrong in (subjects.command("paint", EP), subjects.command(op_of(command), EndpointId(43))):
        assert isinstance(plan.read(codec.encode(command), wrong), str)


@given(st.binary(max_size=200))
def test_no_bytes_whatever_break_the_reader(data):
    assert isinstance(plan.read(data, subjects.command("create", EP)), str)


@pytest.mark.parametrize("worker_id", ["", "w", "../x", "w1/..", "W1", "w12345678901234567", "w1\n"])
def test_a_worker_id_that_is_none_is_not_taken(worker_id):
    command = DestroyWorker(command_id=CommandId("c"), endpoint_id=EP, worker_id=worker_id, issued_at=0, deadline_at=1)
    assert isinstance(plan.read(codec.encode(command), subjects.command("destroy", EP)), str)


# --- compare -------------------------------------------------------------------------------------------------------


@given(st.none() | records, st.none() | machines(), st.none() | intents, st.booleans(), times)
def test_only_a_machine_that_is_unwanted_or_given_up_is_removed(record, machine, intent, wanted, now):
    finding = compare(record, machine, intent=intent, wanted=wanted, now=now, abandoned_s=60)
    if isinstance(finding, RemoveOrphan):
        destroyed = record is not None and record.state == "gone"
        given_up = record is None and intent is not None and intent.status == plan.FAILED
        assert destroyed or given_up or (record is None and not wanted)


@given(st.none() | records, st.none() | machines(), claimed, st.booleans(), times)
def test_a_claim_in_progress_is_left_alone_until_it_is_abandoned(record, machine, intent, wanted, now):
    finding = compare(record, machine, intent=intent, wanted=wanted, now=now, abandoned_s=60)
    assert finding == (Settle(intent) if now - intent.at >= 60 else Agree())


@given(st.none() | records, st.none() | machines(), st.booleans(), times)
def test_what_was_mended_needs_no_mending(record, machine, wanted, now):
    """Each finding, once applied, leads to agreement: reconciliation comes to rest."""
    for _ in range(3):
        finding = compare(record, machine, intent=None, wanted=wanted, now=now, abandoned_s=60)
        match finding:
            case Agree():
                return
            case comparing.Adopt(found) | comparing.Correct(found):
                record = instances.mirrored(found, record, "process", now)
            case RemoveOrphan():
                machine = None
            case NoteFailure(failure):
                record = instances.failed(record, failure, now)
    raise AssertionError(f"no rest: {finding}")


@given(machines(), st.none() | records, times)
def test_a_record_in_the_mirror_does_not_change_again(machine, record, now):
    once = instances.mirrored(machine, record, "process", now)
    assert instances.mirrored(machine, once, "process", now + 5) == once
    assert (once.failure is None) == (machine.state is not MachineState.EXITED)
