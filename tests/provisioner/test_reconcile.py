"""Records and reality brought together: adopted, removed, noted, and nothing concluded from silence."""

import asyncio

import pytest

from provisioner.provider import Machine, MachineState, Transient
from provisioner.reconcile import Rhythm
from provisioner.store import Store
from runtime.bus import BusUnavailable
from schemas import codec, commands, events, subjects
from schemas.ids import CommandId, GroupId, WorkerId
from schemas.reasons import Cause
from schemas.records import Failure, InstanceRecord, Template
from tests.provisioner.desk import eventually, make_command
from tests.provisioner.processes import kill, processes_of

TEMPLATE = Template(name="tiny")


def wid(desk, number=0) -> WorkerId:
    """Of this test alone: events are told once for all tests that share the server."""
    return WorkerId(f"w{desk.endpoint_id}{number}")


def machine_of(desk, worker_id=None, **more) -> Machine:
    fields = {
        "worker_id": worker_id or wid(desk),
        "endpoint_id": desk.endpoint_id,
        "group_id": GroupId(1),
        "command_id": CommandId(f"e{desk.endpoint_id}.g1.s0"),
        "state": MachineState.RUNNING,
        "template": TEMPLATE,
        "starts": 1,
    }
    return Machine(**(fields | more))


async def rounds(scripted, count=2):
    """Wait until that many more rounds of reconciliation were begun."""
    seen = scripted.listed
    await eventually(lambda: scripted.listed >= seen + count)


@pytest.fixture
def scripted(scripted):
    inventory = scripted.inventory
    scripted.listed = 0

    async def counted():
        scripted.listed += 1
        return await inventory()

    scripted.inventory = counted
    return scripted


async def test_a_machine_nobody_knows_is_removed(desk, serving, scripted):
    scripted.machines[wid(desk)] = machine_of(desk)
    await serving(scripted)
    removed = await desk.event(events.OrphanRemoved, worker_id=wid(desk))
    assert removed.provider == "process"
    assert not scripted.machines


async def test_an_orphan_is_given_time(desk, serving, scripted):
    scripted.machines[wid(desk)] = machine_of(desk)
    await serving(scripted, rhythm=Rhythm(every_s=0.05, orphan_grace_s=3600))
    await rounds(scripted, 4)
    assert wid(desk) in scripted.machines


async def test_a_machine_of_a_living_group_is_adopted_when_its_record_was_lost(desk, serving, scripted):
    await desk.want()
    scripted.machines[wid(desk)] = machine_of(desk, url="http://127.0.0.1:1", mtoken_sha256="ab")
    await serving(scripted)
    await desk.event(events.WorkerAdopted, worker_id=wid(desk))
    record = await desk.record(wid(desk), "running")
    assert (record.url, record.mtoken_sha256, record.template) == ("http://127.0.0.1:1", "ab", TEMPLATE)
    await rounds(scripted)
    assert len([event for event in desk.events if isinstance(event, events.WorkerAdopted)]) == 1
    await desk.do(desk.command(commands.StopWorker, worker_id=wid(desk)))


async def test_a_lost_machine_is_noted_once(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(create)
    scripted.machines.clear()
    failed = await desk.event(events.WorkerFailed, worker_id=create.worker_id)
    assert failed.failure.cause == Cause.HOST_LOST
    assert (await desk.record(create.worker_id, "failed")).failure.cause == Cause.HOST_LOST
    await rounds(scripted)
    assert len([event for event in desk.events if isinstance(event, events.WorkerFailed)]) == 1


async def test_a_silent_provider_loses_nothing(desk, serving, scripted):
    await serving(scripted, rhythm=Rhythm(every_s=0.05, orphan_grace_s=0))
    create = desk.create(TEMPLATE)
    await desk.do(create)
    scripted.script["inventory"] = [Transient(Cause.RENT_FAILED, "503")]
    machine = scripted.machines.pop(create.worker_id)
    await rounds(scripted, 4)
    assert (await desk.record(create.worker_id)).state == "running"
    scripted.machines[create.worker_id] = machine
    scripted.script.clear()
    await rounds(scripted)
    assert not [event for event in desk.events if isinstance(event, events.WorkerFailed | events.WorkerAdopted)]


async def test_an_exited_machine_is_noted_and_can_be_started_or_destroyed(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(create)
    failure = Failure(cause=Cause.MODEL_OOM, message="the process was ended by SIGKILL", log_tail="last words")
    scripted.put(create.worker_id, MachineState.EXITED, failure=failure)
    failed = await desk.event(events.WorkerFailed, worker_id=create.worker_id)
    assert failed.failure == failure
    assert (await desk.record(create.worker_id, "failed")).failure == failure
    await desk.do(desk.command(commands.StartWorker, create))
    assert (await desk.record(create.worker_id)).failure is None
    await desk.do(desk.command(commands.DestroyWorker, create))


async def test_a_failed_worker_that_runs_again_is_taken_back(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(create)
    machine = scripted.machines.pop(create.worker_id)
    await desk.record(create.worker_id, "failed")
    scripted.machines[create.worker_id] = machine
    await desk.event(events.WorkerAdopted, worker_id=create.worker_id)
    await desk.record(create.worker_id, "running")


async def test_a_worker_stopped_by_hand_is_written_down_as_cold(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(create)
    scripted.put(create.worker_id, MachineState.STOPPED)
    await desk.record(create.worker_id, "stopped")
    stopped = await desk.event(events.WorkerStopped, worker_id=create.worker_id)
    assert stopped.command_id == ""


async def test_a_machine_that_outlived_its_destruction_is_removed(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(create)
    machine = scripted.machines[create.worker_id]
    await desk.do(desk.command(commands.DestroyWorker, create))
    scripted.machines[create.worker_id] = machine
    await desk.event(events.OrphanRemoved, worker_id=create.worker_id)
    assert (await desk.record(create.worker_id)).state == "gone"


async def test_what_a_command_is_busy_with_is_left_alone(desk, serving, scripted):
    await serving(scripted, rhythm=Rhythm(every_s=0.05, orphan_grace_s=0))
    scripted.gate = asyncio.Event()
    create = desk.create(TEMPLATE)
    await desk.send(create)
    await eventually(lambda: scripted.count("create", create.worker_id))
    scripted.machines[create.worker_id] = machine_of(desk, create.worker_id, command_id=create.command_id)
    await rounds(scripted, 4)
    assert create.worker_id in scripted.machines and not desk.events
    scripted.gate.set()
    await desk.event(events.WorkerCreated, command_id=create.command_id)


async def test_a_claim_whose_message_is_gone_is_settled_at_the_start(desk, serving, scripted):
    """The provisioner died right after the claim, and the message expired before it was back."""
    create, late = desk.create(TEMPLATE), desk.create(TEMPLATE, deadline_at=1.0)
    for command in (create, late):
        intent = {
            "command_id": command.command_id,
            "op": "create",
            "worker_id": command.worker_id,
            "status": "claimed",
            "owner": "provisioner",
            "at": 1.0,
            "body": codec.encode(command).decode(),
        }
        await desk.bus.bucket(subjects.BUCKET_IDEM).put(subjects.intent_key(command.command_id), codec.encode(intent))
    await serving(scripted)
    await desk.event(events.WorkerCreated, command_id=create.command_id)
    refused = await desk.event(events.CommandRefused, command_id=late.command_id)
    assert "deadline" in refused.reason
    assert scripted.calls == [("create", create.worker_id)]


async def test_a_claim_of_another_living_provisioner_is_left_to_it(desk, serving, scripted):
    create = desk.create(TEMPLATE)
    await serving(scripted, rhythm=Rhythm(every_s=0.05, abandoned_s=3600, claims_every_s=0))
    intent = {"command_id": create.command_id, "op": "create", "worker_id": create.worker_id, "status": "claimed"}
    intent |= {"owner": "other", "at": 1e12, "body": codec.encode(create).decode()}
    await desk.bus.bucket(subjects.BUCKET_IDEM).put(subjects.intent_key(create.command_id), codec.encode(intent))
    await rounds(scripted, 4)
    assert not scripted.calls


async def test_an_unreadable_claim_is_closed(desk, serving, scripted):
    intent = {"command_id": "e1.g1.s1", "op": "create", "worker_id": "w1", "status": "claimed", "owner": "provisioner"}
    await desk.bus.bucket(subjects.BUCKET_IDEM).put("e1-g1-s1", codec.encode(intent))
    await serving(scripted)

    async def closed():
        return (await desk.intent("e1.g1.s1")).status == "failed"

    await eventually(closed)


async def test_records_of_other_providers_are_not_ours_to_judge(desk, serving, scripted):
    record = InstanceRecord(
        worker_id=WorkerId("w5"), endpoint_id=desk.endpoint_id, group_id=GroupId(1), provider="vast", state="running"
    )
    key = subjects.worker_key(desk.endpoint_id, record.worker_id)
    await desk.bus.bucket(subjects.BUCKET_INSTANCES).put(key, codec.encode(record))
    await serving(scripted)
    await rounds(scripted)
    assert await desk.record("w5") == record


async def test_a_worker_process_that_dies_is_a_failed_worker_at_once(desk, serving, template, state_dir, make_provider):
    """The watcher tells; the next regular round would come much later."""
    await serving(make_provider(), rhythm=Rhythm(every_s=3600))
    create = desk.create(template("print('bang', flush=True)"))
    await desk.do(create)
    up = state_dir / "workers" / create.worker_id / "up"
    await eventually(up.exists)
    kill(int(up.read_text()))
    failed = await desk.event(events.WorkerFailed, worker_id=create.worker_id)
    assert failed.failure.cause == Cause.MODEL_OOM
    assert "bang" in failed.failure.log_tail and len(failed.failure.log_tail.encode()) <= 4096


async def test_an_orphaned_process_is_ended(desk, serving, template, make_provider, state_dir):
    from provisioner.hand import order_of

    stray = make_command(commands.CreateWorker, desk.endpoint_id, template=template())
    await make_provider().create(order_of(stray))
    assert processes_of(state_dir)
    await serving()
    await desk.event(events.OrphanRemoved, worker_id=stray.worker_id)
    assert not processes_of(state_dir)
    assert not (state_dir / "workers" / stray.worker_id).exists()


async def test_neither_a_broken_bus_nor_a_bug_ends_the_rounds(desk, serving, scripted, monkeypatch):
    """Whatever a round trips over, the next one begins."""
    await desk.want()
    reads = iter([BusUnavailable("away"), BusUnavailable("away")])

    async def claimed(_):
        for error in reads:
            raise error
        return []

    monkeypatch.setattr(Store, "claimed", claimed)
    describe, broken = scripted.describe, [wid(desk)]

    async def sometimes(worker_id):
        if worker_id in broken:
            raise ZeroDivisionError
        return await describe(worker_id)

    scripted.describe = sometimes
    scripted.machines[wid(desk)], scripted.machines[wid(desk, 1)] = machine_of(desk), machine_of(desk, wid(desk, 1))
    service = await serving(scripted)
    await desk.event(events.WorkerAdopted, worker_id=wid(desk, 1))
    broken.clear()
    await desk.event(events.WorkerAdopted, worker_id=wid(desk))
    assert not service.done()
