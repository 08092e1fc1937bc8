"""From an intent to the command that is sent."""

from scaler.orders import command_for
from scaler.state import initial
from scaler.types import Intent, WorkerFact
from schemas import codec
from schemas.ids import CommandId, EndpointId, GroupId, WorkerId
from schemas.reasons import Why
from schemas.records import EndpointRecord, ScalingSettings, Template, WorkerGroup
from schemas.states import WorkerState

EP, G1, W1 = EndpointId(1), GroupId(1), WorkerId("w1")
GROUP = WorkerGroup(id=G1, template=Template(name="t", command=("serve",)), name="fast")
RECORD = EndpointRecord(id=EP, name="ep", settings=ScalingSettings(), groups=(GROUP,))


def asked(op, reason="load"):
    intent = Intent(op=op, command_id=CommandId("c1"), issued_at=10.0, deadline_at=70.0, why=Why.LOAD_UP, reason=reason)
    worker = WorkerFact(worker_id=W1, group_id=G1, state=WorkerState.CREATING, intent=intent)
    return initial(EP, 10.0), worker


def test_the_words_of_a_decision_about_many_groups_leave_room_for_the_command():
    state, worker = asked("create", "; ".join(f"group g{n} is halted" for n in range(10_000)))
    command = command_for(state, worker, RECORD, epoch=1, shard=0)
    assert len(codec.encode(command)) < 4096
    assert command.reason.startswith("group g0 is halted; ") and command.reason.endswith("…")


def test_nothing_is_created_for_a_group_that_was_deleted_meanwhile():
    state, worker = asked("create")
    bare = EndpointRecord(id=EP, name="ep", settings=ScalingSettings())
    assert command_for(state, worker, bare, epoch=1, shard=0) is None
    assert command_for(state, worker, None, epoch=1, shard=0) is None


def test_the_same_intent_is_the_same_command_under_each_leader():
    state, worker = asked("start")
    first, second = (command_for(state, worker, RECORD, epoch=epoch, shard=0) for epoch in (1, 2))
    assert first.command_id == second.command_id and (first.epoch, second.epoch) == (1, 2)
