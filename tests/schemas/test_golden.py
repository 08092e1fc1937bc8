"""Each message has a file that says how it looks on the wire. A message may grow; what a file says must stay readable
and must be written again unchanged, or a peer of another version breaks.

To add a message: add an example to EXAMPLES, run `WRITE_GOLDEN=1 python -m pytest tests/schemas`, read the new file, commit it.
"""

import json
import os
from pathlib import Path

import msgspec
import pytest

from schemas import codec, commands, events, generate, http, records, signals, ticket
from schemas.ids import CommandId, EndpointId, GroupId, WorkerId
from schemas.reasons import Cause, Phase, Why
from schemas.states import EndpointState, WorkerState

GOLDEN = Path(__file__).parent / "golden"

EP, GRP, WID, CMD = EndpointId(42), GroupId(7), WorkerId("w281474976710655"), CommandId("e42.g3.s0")
EVENT = {"id": "evt-1", "at": 1700000000.5, "endpoint_id": EP}
WORKER_EVENT = {**EVENT, "worker_id": WID, "group_id": GRP}
COMMAND = {
    "command_id": CMD,
    "endpoint_id": EP,
    "worker_id": WID,
    "issued_at": 1700000000.0,
    "deadline_at": 1700000600.0,
    "group_id": GRP,
    "epoch": 9,
    "shard": 10,
    "why": Why.DEMAND_WAITING,
    "reason": "3 requests wait and no worker serves them",
    "decision_id": "e42.d17",
}
FAILURE = records.Failure(
    cause=Cause.START_CRASH,
    message="the model server ended with code 1",
    phase=Phase.MODEL,
    at=1700000001.0,
    log_tail="no such file",
)
TEMPLATE = records.Template(name="smollm", command=("python", "worker.py"), env={"THREADS": "1"}, gpus=0)
GROUP = records.WorkerGroup(
    id=GRP,
    template=TEMPLATE,
    name="cpu",
    weight=2.0,
    tier=1,
    max_workers=4,
    overflow_queue_s=8.0,
    revision=4,
    created_at=1700000000.0,
)

EXAMPLES: tuple[msgspec.Struct, ...] = (
    # records
    TEMPLATE,
    GROUP,
    records.ScalingSettings(min_load=10.0, cold_mult=2.5, cold_workers=1, inactivity_timeout=-1.0),
    records.EndpointRecord(
        id=EP,
        name="smollm",
        groups=(GROUP,),
        state=EndpointState.SUSPENDED,
        created_at=1700000000.0,
        changed_at=1700000001.0,
        revision=2,
    ),
    records.ApiKeyRecord(id="k1", name="ci", role="client", endpoints=(EP,), created_at=1700000000.0, expires_at=1800000000.0),
    FAILURE,
    records.InstanceRecord(
        worker_id=WID,
        endpoint_id=EP,
        group_id=GRP,
        provider="process",
        state="running",
        template=TEMPLATE,
        provider_ref="pid:4242",
        url="http://127.0.0.1:41000",
        usd_per_hour=0.5,
        command_id=CMD,
        failure=FAILURE,
    ),
    records.WorkerRecord(
        worker_id=WID,
        endpoint_id=EP,
        group_id=GRP,
        state=WorkerState.READY,
        url="http://127.0.0.1:41000",
        perf=120.5,
        slots=4,
        boot="b1",
        ready_at=1700000002.0,
    ),
    records.DemandMark(endpoint_id=EP, router="r1", waiting_since_at=1700000000.0, cost=300.0),
    records.Intent(command_id=CMD, op="create", worker_id=WID, status="claimed", owner="p1", at=1700000000.0, epoch=9),
    records.LeaseRecord(owner="s1", epoch=9),
    # signals
    signals.GpuReading(
        index=0, name="H100", utilization_ratio=0.5, memory_used_bytes=1, memory_total_bytes=2, temperature_c=40.0, power_w=70.0
    ),
    signals.Heartbeat(
        worker_id=WID,
        endpoint_id=EP,
        group_id=GRP,
        boot="b1",
        seq=3,
        sent_at=1700000003.0,
        state=WorkerState.DRAINING,
        url="http://127.0.0.1:41000",
        perf=120.5,
        slots=4,
        load=300.0,
        inflight=2,
        queued=1,
        failure=FAILURE,
        draining=True,
        gpus=(signals.GpuReading(index=0),),
    ),
    signals.DemandReport(
        router="r1",
        endpoint_id=EP,
        boot="b1",
        seq=1,
        sent_at=1700000003.0,
        arrivals_total=5,
        waiting=2,
        waiting_units=200.0,
        failed_workers={WID: 1},
        sizes={26: 4, 31: 1},
        late_total=1,
        leaving=True,
    ),
    signals.Reservations(router="r1", workers={WID: signals.Promised(3, 300.0)}, ttl_s=3.0),
    signals.ControlOrder(op="drain", deadline_s=30.0, reason="load fell"),
    signals.ControlReply(ok=True, state=WorkerState.DRAINING, inflight=1),
    signals.EnrollRequest(endpoint_id=EP, group_id=GRP),
    signals.EnrollReply(ok=True, worker_id=WID, token="corral1.e30"),
    signals.WorkerBundle(
        worker_id=WID,
        endpoint_id=EP,
        group_id=GRP,
        nats_urls=("nats://127.0.0.1:4222",),
        nats_jwt="jwt",
        nats_seed="seed",
        control_url="http://127.0.0.1:8080",
    ),
    # commands
    commands.CreateWorker(**COMMAND, template=TEMPLATE, endpoint_name="smollm", price_cap_usd_per_hour=2.0),
    commands.StartWorker(**COMMAND),
    commands.StopWorker(**COMMAND),
    commands.RebootWorker(**COMMAND),
    commands.DestroyWorker(**COMMAND),
    commands.DeadLetter(
        command_id=CMD, op="create", cause="no_offer", message="no machine fits", at=1700000000.0, deliveries=6, stream_seq=3
    ),
    # events
    events.EndpointCreated(**EVENT, name="smollm", by="admin"),
    events.EndpointChanged(**EVENT, name="smollm", revision=2, changed=("max_workers",)),
    events.EndpointDeleted(**EVENT, name="smollm"),
    events.GroupCreated(**EVENT, group_id=GRP, template="smollm"),
    events.GroupChanged(**EVENT, group_id=GRP, revision=2, changed=("weight",)),
    events.GroupDeleted(**EVENT, group_id=GRP),
    events.InputRead(name="load", value=None, age_s=0.4, unit="units/s"),
    events.Action(op="create", worker_id=WID, group_id=GRP, command_id=CMD, why=Why.DEMAND_WAITING, reason="3 wait"),
    events.Decided(
        **EVENT,
        decision_id="e42.d17",
        generation=3,
        epoch=9,
        why=Why.DEMAND_WAITING,
        reason="3 requests wait and no worker serves them",
        hot_before=0,
        hot_wanted=1,
        cold_before=0,
        cold_wanted=0,
        actions=(events.Action(op="create", worker_id=WID, group_id=GRP, command_id=CMD),),
        inputs=(events.InputRead(name="waiting", value=3.0, age_s=0.0),),
        candidates=("stay at 0: nobody would be served",),
        policy="basic/1",
    ),
    events.DemandWaiting(**EVENT, router="r1", waiting=1, units=100.0),
    events.TelemetryFrozen(**EVENT, silent_s=10.5, workers=3),
    events.TelemetryThawed(**EVENT, frozen_s=12.0),
    events.GroupHalted(**EVENT, group_id=GRP, revision=4, failure=FAILURE, failures=3, cost_usd=0.1),
    events.GroupResumed(**EVENT, group_id=GRP, by="admin"),
    events.WorkerCreated(**WORKER_EVENT, provider="process", command_id=CMD, provider_ref="pid:4242"),
    events.WorkerStarted(**WORKER_EVENT, command_id=CMD),
    events.WorkerChanged(**WORKER_EVENT, state=WorkerState.LOADING, before=WorkerState.CREATING, phase_s=1.5),
    events.WorkerReady(**WORKER_EVENT, url="http://127.0.0.1:41000", perf=120.5, cold_start_s=4.2, model_load_s=0.6, bench_s=1.0),
    events.WorkerSuspected(**WORKER_EVENT, silent_s=3.6),
    events.WorkerLost(**WORKER_EVENT, silent_s=10.1),
    events.WorkerDraining(**WORKER_EVENT, then="stop", why=Why.LOAD_DOWN),
    events.WorkerDrained(**WORKER_EVENT, waited_s=65.0, ticket_window_s=65.0, inflight=0),
    events.WorkerStopped(**WORKER_EVENT, command_id=CMD),
    events.WorkerDestroyed(**WORKER_EVENT, command_id=CMD, lived_s=300.0, cost_usd=0.04),
    events.WorkerFailed(**WORKER_EVENT, failure=FAILURE, phase=Phase.MODEL),
    events.WorkerAdopted(**WORKER_EVENT, provider="process"),
    events.OrphanRemoved(**WORKER_EVENT, provider="process", provider_ref="pid:4242"),
    events.CommandRefused(**EVENT, command_id=CMD, reason="its deadline has passed"),
    events.CommandDead(**EVENT, command_id=CMD, op="create", failure=FAILURE),
    # http
    http.RouteRequest(endpoint="smollm", cost=300.0, wait_s=30.0, exclude_workers=(WID,)),
    http.RouteReady(
        endpoint="smollm",
        url="http://127.0.0.1:41000",
        cost=300.0,
        reqnum=17,
        request_idx=5,
        signature="c2ln",
        ticket="a.b.c",
        worker_id=WID,
        expires_at=1700000060,
    ),
    http.RouteWaiting(endpoint="smollm", request_idx=5, status="a worker is starting", wait_reason="starting", position=1),
    http.problem("no_endpoint", "there is no endpoint named 'x'"),
    http.AuthData(
        cost=300.0, endpoint="smollm", reqnum=17, request_idx=5, signature="c2ln", url="http://127.0.0.1:41000", ticket="a.b.c"
    ),
    http.Envelope(auth_data=http.AuthData(), payload=msgspec.Raw(b'{"prompt":"hi"}')),
    http.WorkerStatus(
        id=281474976710655,
        mtoken="secret",
        version="1.1.0",
        loadtime=13.5,
        max_perf=275.5,
        error_msg="",
        cur_load=24.0,
        cur_perf=8.0,
        num_requests_working=3,
        num_requests_recieved=17,
        url="http://127.0.0.1:41000",
    ),
    http.FinishedRequest(status="Success", success=True),
    http.FinishedRequests(
        worker_id=281474976710655, mtoken="secret", requests=(http.FinishedRequest(status="Success", success=True),)
    ),
    # ticket
    ticket.TicketClaims(
        iss="corral",
        aud=WID,
        ep="smollm",
        rid="5",
        jti="r1-17",
        reqnum=17,
        cost=300.0,
        iat=1700000000,
        nbf=1700000000,
        exp=1700000060,
    ),
    ticket.JwsHeader(alg="EdDSA", kid="k1"),
    ticket.Jwk(kid="k1", x="AAAA"),
    ticket.Jwks(keys=(ticket.Jwk(kid="k1", x="AAAA"),)),
)


def _file(example: msgspec.Struct) -> Path:
    return GOLDEN / f"{type(example).__name__}.json"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e).__name__)
def test_a_message_is_written_as_its_golden_file_says(example):
    written = msgspec.json.format(codec.encode(example), indent=2) + b"\n"
    path = _file(example)
    if os.environ.get("WRITE_GOLDEN"):
        path.write_bytes(written)
    assert path.exists(), "a new message needs a golden file: WRITE_GOLDEN=1 pytest tests/schemas"
    assert written == path.read_bytes()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e).__name__)
def test_a_golden_file_reads_back_as_the_message_and_unknown_fields_are_ignored(example):
    data = json.loads(_file(example).read_bytes())
    data["a_field_of_the_future"] = {"nested": [1, 2]}
    read = msgspec.json.decode(json.dumps(data), type=type(example))
    assert json.loads(codec.encode(read)) == json.loads(codec.encode(example))


def test_every_message_has_an_example():
    described = {struct for structs in generate.FILES.values() for struct in structs}
    assert {s.__name__ for s in described} <= {type(e).__name__ for e in EXAMPLES}


def test_no_golden_file_is_left_without_a_message():
    assert {p.stem for p in GOLDEN.glob("*.json")} == {type(e).__name__ for e in EXAMPLES}
