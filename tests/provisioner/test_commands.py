"""Every command ends as a fact, as a refusal or as a dead letter with a cause; and none is carried out twice."""

import asyncio
import time

from prometheus_client import CollectorRegistry

from provisioner.metrics import Metrics
from provisioner.plan import Patience
from provisioner.provider import MachineState, Permanent, Transient
from provisioner.reconcile import Rhythm
from provisioner.service import CONCURRENCY
from schemas import codec, commands, events, subjects
from schemas.ids import EndpointId, WorkerId
from schemas.reasons import Cause
from schemas.records import Failure, Template
from tests.provisioner.desk import eventually
from tests.provisioner.scripted import ScriptedProvider

TEMPLATE = Template(name="tiny")


async def test_a_command_sent_many_times_creates_one_worker(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE)
    # Other message ids: what a new leader says after the server forgot the ids of acknowledged messages.
    await asyncio.gather(*(desk.send(create, msg_id=f"again-{number}") for number in range(8)))
    await desk.event(events.WorkerCreated, command_id=create.command_id)
    await eventually(desk.queue_is_empty)
    assert scripted.count("create", create.worker_id) == 1
    assert len([event for event in desk.events if event.id == f"evt:{create.command_id}"]) == 1


async def test_a_command_that_comes_after_its_deadline_is_refused(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE, deadline_at=time.time() - 1)
    await desk.send(create)
    refused = await desk.event(events.CommandRefused, command_id=create.command_id)
    assert "deadline" in refused.reason
    await eventually(desk.queue_is_empty)
    assert not scripted.calls
    assert await desk.intent(create.command_id) is None


async def test_a_leader_that_lost_its_lease_is_not_obeyed(desk, serving, scripted):
    await serving(scripted)
    await desk.do(desk.create(TEMPLATE, epoch=7, shard=3))
    old = desk.create(TEMPLATE, epoch=6, shard=3)
    await desk.send(old)
    refused = await desk.event(events.CommandRefused, command_id=old.command_id)
    assert "epoch 6" in refused.reason
    assert not scripted.count("create", old.worker_id)
    # Another shard has a leader of its own, and a person is fenced by nobody.
    await desk.do(desk.create(TEMPLATE, epoch=6, shard=4))
    await desk.do(desk.create(TEMPLATE, epoch=0, shard=3, issued_by="operator:ann"))


async def test_the_highest_epoch_outlives_the_provisioner(desk, serving, scripted):
    first = await serving(scripted)
    await desk.do(desk.create(TEMPLATE, epoch=7, shard=3))
    first.cancel()
    await asyncio.wait([first])
    await serving(scripted)
    old = desk.create(TEMPLATE, epoch=6, shard=3)
    await desk.send(old)
    await desk.event(events.CommandRefused, command_id=old.command_id)


async def test_an_unknown_worker_is_not_started(desk, serving, scripted):
    await serving(scripted)
    for kind in (commands.StartWorker, commands.StopWorker, commands.RebootWorker):
        command = desk.command(kind)
        await desk.send(command)
        refused = await desk.event(events.CommandRefused, command_id=command.command_id)
        assert "not known" in refused.reason


async def test_poison_becomes_a_dead_letter(desk, serving, scripted):
    await serving(scripted)
    good = desk.create(TEMPLATE)
    elsewhere = subjects.command("create", EndpointId(desk.endpoint_id + 1))
    poison = {
        "not json": (subjects.command("create", desk.endpoint_id), b"\xff\x00 nothing"),
        "no fields": (subjects.command("create", desk.endpoint_id), b'{"op":"create"}'),
        "unknown op": (subjects.command("paint", desk.endpoint_id), b'{"op":"paint","colour":"red"}'),
        "other subject": (elsewhere, codec.encode(good)),
        "bad worker id": (
            subjects.command("create", desk.endpoint_id),
            codec.encode(desk.create(TEMPLATE, worker_id=WorkerId("../../etc"))),
        ),
        "no endpoint": ("corral.v1.cmd.create.nobody", b"[]"),
    }
    for name, (subject, body) in poison.items():
        await desk.post(subject, body, name)
    await eventually(lambda: len(desk.letters) == len(poison))
    assert {letter.cause for letter in desk.letters} == {Cause.PROTOCOL_MISMATCH}
    assert all(letter.body and letter.message and letter.stream_seq for letter in desk.letters)
    await eventually(lambda: len([e for e in desk.events if isinstance(e, events.CommandDead)]) == len(poison))
    await eventually(desk.queue_is_empty)
    assert not scripted.calls
    await desk.do(good)  # and the queue still moves


async def test_a_transient_failure_is_tried_again(desk, serving, scripted):
    scripted.script["create"] = [Transient(Cause.RENT_FAILED, "busy"), Transient(Cause.RENT_FAILED, "busy", retry_after_s=0.2)]
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(create)
    assert scripted.count("create", create.worker_id) == 3
    await eventually(desk.queue_is_empty)
    assert not desk.letters


async def test_patience_ends_in_a_dead_letter_with_the_last_cause(desk, serving, scripted):
    scripted.script["create"] = [Transient(Cause.IMAGE_PULL, "registry is away") for _ in range(9)]
    await serving(scripted, patience=Patience(max_deliveries=3, first_delay_s=0.02))
    create = desk.create(TEMPLATE)
    await desk.send(create)
    dead = await desk.event(events.CommandDead, command_id=create.command_id)
    failed = await desk.event(events.WorkerFailed, worker_id=create.worker_id)
    assert dead.failure.cause == failed.failure.cause == Cause.IMAGE_PULL
    assert scripted.count("create", create.worker_id) == 3
    await eventually(lambda: desk.letters)
    letter = desk.letters[0]
    assert (letter.command_id, letter.op, letter.cause, letter.deliveries) == (create.command_id, "create", Cause.IMAGE_PULL, 3)
    assert codec.command(letter.body.encode()) == create
    assert (await desk.record(create.worker_id)).state == "failed"
    await eventually(desk.queue_is_empty)


async def test_a_retry_that_would_be_too_late_is_not_waited_for(desk, serving, scripted):
    scripted.script["create"] = [Transient(Cause.RENT_FAILED, "rate limit", retry_after_s=3600)]
    await serving(scripted)
    create = desk.create(TEMPLATE, deadline_at=time.time() + 30)
    await desk.send(create)
    dead = await desk.event(events.CommandDead, command_id=create.command_id)
    assert "rate limit" in dead.failure.message


async def test_a_permanent_failure_is_buried_at_once(desk, serving, scripted):
    scripted.script["create"] = [Permanent(Cause.PRICE_CAP, "all offers cost more")]
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.send(create)
    await desk.event(events.CommandDead, command_id=create.command_id)
    failed = await desk.event(events.WorkerFailed, worker_id=create.worker_id)
    assert failed.failure.cause == Cause.PRICE_CAP
    await eventually(desk.queue_is_empty)
    assert (await desk.intent(create.command_id)).status == "failed"
    # The same command again, under another message id, changes nothing.
    await desk.send(create, msg_id="again")
    await eventually(desk.queue_is_empty)
    assert scripted.count("create", create.worker_id) == 1
    assert len(desk.letters) == 1


async def test_a_provider_nobody_enabled_is_no_offer(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE, provider="moonbase")
    await desk.send(create)
    dead = await desk.event(events.CommandDead, command_id=create.command_id)
    assert dead.failure.cause == Cause.NO_OFFER and "moonbase" in dead.failure.message
    # No machine came of it, so a destroy has come to its end, and is no dead letter of its own.
    destroy = desk.command(commands.DestroyWorker, create)
    await desk.do(destroy)
    await desk.record(create.worker_id, "gone")
    assert len(desk.letters) == 1


async def test_a_worker_destroyed_before_it_was_created_never_comes(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(desk.command(commands.DestroyWorker, create))
    await desk.send(create)
    refused = await desk.event(events.CommandRefused, command_id=create.command_id)
    assert "destroyed" in refused.reason
    assert not scripted.count("create", create.worker_id)


async def test_a_pending_create_is_called_off_by_a_destroy(desk, serving, scripted):
    """Demand falls while the provider is still refusing: the purchase must not come through later."""
    scripted.script["create"] = [Transient(Cause.RENT_FAILED, "busy", retry_after_s=1.0)]
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.send(create)
    await eventually(lambda: scripted.count("create", create.worker_id))
    await desk.do(desk.command(commands.DestroyWorker, create))
    await desk.event(events.CommandRefused, command_id=create.command_id)
    assert scripted.count("create", create.worker_id) == 1
    assert not scripted.machines


async def test_a_destroy_that_overtakes_its_create_leaves_no_machine_that_nobody_counts(desk, serving, scripted):
    """Two provisioners: one is at the create when the other gets the destroy."""
    patience = Patience(first_delay_s=0.5)  # the last delivery does not wait any more, and must not come before the gate is open
    await serving(scripted, name="p1", patience=patience)
    await serving(scripted, name="p2", patience=patience)
    scripted.gate = asyncio.Event()
    # As many as one of them has hands for, and back in the other order: however they share, some destroys come to the other one.
    creates = [desk.create(TEMPLATE) for _ in range(CONCURRENCY)]
    for create in creates:
        await desk.send(create)
    await eventually(lambda: all(scripted.count("create", create.worker_id) for create in creates))
    for create in reversed(creates):
        await desk.send(desk.command(commands.DestroyWorker, create))

    async def are_called_off() -> bool:
        states = [(await desk.record(create.worker_id)).state for create in creates]
        assert "gone" not in states, "the provider is still at it"
        return "destroying" in states  # those whose destroy went to the other provisioner

    await eventually(are_called_off)
    scripted.gate.set()
    for create in creates:
        await desk.event(events.WorkerDestroyed, worker_id=create.worker_id)
        assert (await desk.record(create.worker_id)).state == "gone"
    assert not scripted.machines
    await eventually(desk.queue_is_empty)
    assert not desk.letters


async def test_an_older_stop_does_not_undo_a_newer_start(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(create)
    await desk.do(desk.command(commands.StopWorker, create))
    start = desk.command(commands.StartWorker, create)
    await desk.do(start)
    late = desk.command(commands.StopWorker, create, issued_at=start.issued_at - 0.001)
    await desk.send(late)
    refused = await desk.event(events.CommandRefused, command_id=late.command_id)
    assert start.command_id in refused.reason
    assert scripted.machines[create.worker_id].state is MachineState.RUNNING


async def test_commands_for_one_worker_are_carried_out_one_at_a_time(desk, serving, scripted):
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(create)
    scripted.gate = asyncio.Event()
    stop, other = desk.command(commands.StopWorker, create), desk.create(TEMPLATE)
    start = desk.command(commands.StartWorker, create)
    await desk.send(stop)
    await eventually(lambda: scripted.count("stop", create.worker_id))
    await desk.send(start)
    await desk.send(other)
    await eventually(lambda: scripted.count("create", other.worker_id))  # another worker is not held up
    assert not scripted.count("start", create.worker_id)
    scripted.gate.set()
    await desk.event(events.WorkerStarted, command_id=start.command_id)


async def test_a_slow_provider_keeps_its_message(desk, serving, scripted, monkeypatch):
    monkeypatch.setattr("provisioner.service.WORKING_EVERY_S", 0.1)
    await serving(scripted)
    scripted.gate = asyncio.Event()
    create = desk.create(TEMPLATE)
    await desk.send(create)
    await eventually(lambda: scripted.count("create", create.worker_id))
    working_s = 1.5  # three times the time to acknowledge
    await asyncio.sleep(working_s)
    scripted.gate.set()
    await desk.event(events.WorkerCreated, command_id=create.command_id)
    await eventually(desk.queue_is_empty)
    assert scripted.calls == [("create", create.worker_id)]


async def test_what_was_never_brought_to_an_end_is_moved_to_the_dead_letters(desk, serving, scripted):
    """Every delivery ends in a crash of its handler: the server stops delivering, and somebody must say so."""
    scripted.script["create"] = [RuntimeError("a bug") for _ in range(20)]
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.send(create)
    dead = await desk.event(events.CommandDead, command_id=create.command_id)
    assert dead.failure.cause == Cause.HANG
    assert scripted.count("create", create.worker_id) == 6
    await eventually(lambda: desk.letters)
    assert desk.letters[0].deliveries == 6 and codec.command(desk.letters[0].body.encode()) == create
    await eventually(desk.queue_is_empty)
    assert (await desk.record(create.worker_id)).state == "failed"


async def test_what_was_given_up_but_is_there_is_a_fact_and_no_dead_letter(desk, serving, scripted):
    """The machine came into being in the last attempt, which died before it could say so."""
    create_really = scripted.create

    async def create_and_crash(order):
        await create_really(order)
        raise RuntimeError("a bug after the call")

    describe_really, blind = scripted.describe, [True]

    async def describe(worker_id):
        return None if blind else await describe_really(worker_id)

    scripted.create, scripted.describe = create_and_crash, describe
    await serving(scripted, rhythm=Rhythm(every_s=3600))
    create = desk.create(TEMPLATE)
    await desk.send(create)
    await eventually(lambda: scripted.count("create", create.worker_id) == 6)
    blind.clear()
    await desk.event(events.WorkerCreated, command_id=create.command_id)
    await eventually(desk.queue_is_empty)
    assert not desk.letters and (await desk.record(create.worker_id)).state == "running"


async def test_two_provisioners_share_the_work_without_doing_it_twice(desk, serving, scripted):
    await serving(scripted, name="p1")
    await serving(scripted, name="p2")
    creates = [desk.create(TEMPLATE) for _ in range(20)]
    for create in creates:
        await desk.send(create)
        await desk.send(create, msg_id=f"{create.command_id}-again")
    for create in creates:
        await desk.event(events.WorkerCreated, command_id=create.command_id)
    await eventually(desk.queue_is_empty)
    assert len(scripted.machines) == 20
    assert len([e for e in desk.events if isinstance(e, events.WorkerCreated)]) == 20


async def test_a_server_killed_in_the_midst_of_a_command_changes_nothing(desk, serving, scripted, own_nats_server):
    await serving(scripted, rhythm=Rhythm(every_s=0.2, abandoned_s=3600))
    scripted.gate = asyncio.Event()
    create = desk.create(TEMPLATE)
    await desk.send(create)
    await eventually(lambda: scripted.count("create", create.worker_id))
    own_nats_server.kill()
    scripted.gate.set()
    await eventually(lambda: scripted.machines)
    await own_nats_server.start()
    await desk.event(events.WorkerCreated, command_id=create.command_id)
    await eventually(desk.queue_is_empty)
    assert scripted.count("create", create.worker_id) == 1
    assert (await desk.record(create.worker_id)).state == "running"
    await desk.do(desk.command(commands.StopWorker, create))
    assert not desk.letters and not [e for e in desk.events if isinstance(e, events.WorkerFailed | events.OrphanRemoved)]


async def test_a_machine_without_a_record_is_destroyed_where_it_is(desk, serving):
    near, far = ScriptedProvider("process"), ScriptedProvider("far")
    await serving(near, far, rhythm=Rhythm(every_s=3600, orphan_grace_s=3600))
    create = desk.create(TEMPLATE, provider="far")
    await desk.do(create)
    await desk.bus.bucket(subjects.BUCKET_INSTANCES).delete(subjects.worker_key(desk.endpoint_id, create.worker_id))
    await desk.do(desk.command(commands.DestroyWorker, create))
    assert not far.machines and far.count("destroy", create.worker_id) == 1


async def test_a_worker_that_ended_before_its_creation_was_written_has_failed(desk, serving, scripted):
    create_really = scripted.create

    async def create_and_exit(order):
        await create_really(order)
        return scripted.put(order.worker_id, MachineState.EXITED, failure=Failure(cause=Cause.START_CRASH, message="exit 1"))

    scripted.create = create_and_exit
    await serving(scripted)
    create = desk.create(TEMPLATE)
    await desk.do(create)
    failed = await desk.event(events.WorkerFailed, worker_id=create.worker_id)
    assert failed.failure.message == "exit 1"
    assert (await desk.record(create.worker_id)).state == "failed"


async def test_what_happened_is_counted(desk, serving, scripted):
    registry = CollectorRegistry()
    scripted.script["create"] = [Transient(Cause.RENT_FAILED, "busy"), Permanent(Cause.PRICE_CAP, "too dear")]
    await serving(scripted, metrics=Metrics(registry))
    await desk.send(dear := desk.create(TEMPLATE))
    await desk.event(events.CommandDead, command_id=dear.command_id)
    await desk.send(late := desk.create(TEMPLATE, deadline_at=1.0))
    await desk.event(events.CommandRefused, command_id=late.command_id)
    create = desk.create(TEMPLATE)
    await desk.do(create)

    def counted(outcome):
        return registry.get_sample_value("corral_provisioner_commands_total", {"op": "create", "outcome": outcome})

    await eventually(lambda: counted("done"))
    assert [counted(outcome) for outcome in ("done", "refused", "retried", "dead")] == [1, 1, 1, 1]
    assert registry.get_sample_value("corral_provisioner_worker_failures_total", {"cause": "price_cap"}) == 1
    call = {"provider": "process", "op": "create"}
    assert registry.get_sample_value("corral_provisioner_provider_call_seconds_count", call) == 3
    running = {"provider": "process", "state": "running"}
    await eventually(lambda: registry.get_sample_value("corral_provisioner_workers", running) == 1)
