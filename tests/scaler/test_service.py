"""The scaler at work on a real nats-server."""

import asyncio
import time
from types import SimpleNamespace

import msgspec

from scaler import audit, decide, reign
from schemas import codec, events, subjects
from schemas.commands import CreateWorker, DestroyWorker, RebootWorker, StartWorker, StopWorker
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.reasons import Cause, Why
from schemas.records import Failure, InstanceRecord
from schemas.states import EndpointState, WorkerState
from tests.scaler.house import eventually, running, scaler_on


async def ready(house, count):
    await eventually(lambda: house.states()[WorkerState.READY] == count, what=f"{count} ready, {house.states()}")


async def test_the_first_waiting_request_becomes_a_worker_that_routers_see(house, scaler_bus):
    await house.endpoint()
    async with running(scaler_on(await scaler_bus("s1"))):
        await eventually(lambda: house.of(events.Decided))
        asked = time.perf_counter()
        await house.waits(1)
        await ready(house, 1)
        await house.waits(0)
    (create,) = house.ops(CreateWorker)
    assert create.why is Why.DEMAND_WAITING and create.reason
    assert create.epoch > 0 and create.deadline_at > create.issued_at
    assert create.template.env == {"SECRET": "canary-4711"}
    told = await house.told(events.WorkerReady)
    assert [event.worker_id for event in told] == [create.worker_id]
    arrived = house.record_arrived[create.worker_id, WorkerState.PENDING]
    print(f"waiting -> command decided and shown: {(arrived - asked) * 1000:.1f} ms")


async def test_every_told_decision_can_be_derived_again_and_follows_the_one_before(house, scaler_bus):
    await house.endpoint(inactivity_timeout=0.5)
    async with running(scaler_on(await scaler_bus("s1"))):
        await house.waits(3)
        await ready(house, 1)
        await house.waits(0)
        await eventually(lambda: house.ops(StopWorker))
        await eventually(lambda: len(house.of(events.Decided)) >= 4)
    decisions = await house.told(events.Decided)
    assert audit.first_wrong(decisions) is None
    assert all(d.inputs for d in decisions)
    told = next(d for d in decisions if any(a.op == "create" for a in d.actions))
    assert {"KV_corral_endpoints"} <= {r.stream for d in decisions[: decisions.index(told) + 1] for r in d.read}
    assert "KV_corral_instances" in {r.stream for d in decisions[decisions.index(told) :] for r in d.read}
    assert not any(b"canary-4711" in codec.encode(event) for event in house.events), "an environment may hold secrets"


async def test_ready_is_written_within_milliseconds_and_load_is_not_written_at_all(house, scaler_bus):
    await house.endpoint(inactivity_timeout=-1)
    async with running(scaler_on(await scaler_bus("s1"))):
        await ready(house, 1)
        (worker,) = house.workers.values()
        writes = len(house.record_history)
        for n in range(50):
            worker.inflight, worker.load = n % 4, 10.0 * n
            await worker.beat()
        await asyncio.sleep(0.3)
        assert len(house.record_history) == writes
        took = []
        for _ in range(10):
            worker.state = WorkerState.BENCHMARKING
            await worker.beat()
            await eventually(lambda: house.states()[WorkerState.READY] == 0)
            worker.state = WorkerState.READY
            house.record_arrived.clear()
            began = time.perf_counter()
            await worker.beat()
            await eventually(lambda: (worker.id, WorkerState.READY) in house.record_arrived)
            took.append(house.record_arrived[worker.id, WorkerState.READY] - began)
    print(f"heartbeat ready -> record at a watcher: {sorted(took)[len(took) // 2] * 1000:.1f} ms p50 of {len(took)}")


async def test_quiet_drains_with_proof_and_stops_to_cold_and_demand_starts_it_again(house, scaler_bus):
    await house.endpoint(inactivity_timeout=0.3)
    async with running(scaler_on(await scaler_bus("s1"))):
        await house.waits(1)
        await ready(house, 1)
        await house.waits(0)
        await eventually(lambda: house.states()[WorkerState.STOPPED] == 1)
        (worker,) = house.workers.values()
        assert [order.op for order in worker.orders] == ["drain"]
        await eventually(lambda: house.of(events.WorkerDrained))
        (proof,) = house.of(events.WorkerDrained)
        assert (proof.inflight, proof.cut_short) == (0, False)
        assert proof.waited_s >= proof.ticket_window_s == 0.5
        await house.waits(1)
        await ready(house, 1)
        assert len(house.ops(CreateWorker)) == 1
        assert len(house.ops(StartWorker)) == 1


async def test_who_hears_no_orders_is_drained_on_reports_from_after_the_last_ticket(house, scaler_bus):
    """Vast's worker: a router repeats its last report, which says idle, but is older than the last ticket."""
    record = await house.endpoint(inactivity_timeout=-1)
    async with running(scaler_on(await scaler_bus("s1"))):
        await ready(house, 1)
        (worker,) = house.workers.values()
        worker.via, worker.age_s = "r1", 11.0
        await worker.beat()
        await house.put_endpoint(msgspec.structs.replace(record, state=EndpointState.STOPPED))
        await eventually(lambda: house.states()[WorkerState.DRAINING] == 1)
        await asyncio.sleep(1.5)
        assert house.ops(StopWorker) == [], "repeated words prove nothing"
        worker.age_s = 0.0
        await eventually(lambda: house.states()[WorkerState.STOPPED] == 1)
        assert worker.orders == []
    (proof,) = await house.told(events.WorkerDrained)
    assert (proof.inflight, proof.cut_short) == (0, False)


async def test_a_busy_draining_worker_is_not_stopped(house, scaler_bus):
    await house.endpoint(inactivity_timeout=-1)
    record = await house.endpoint(inactivity_timeout=-1)
    async with running(scaler_on(await scaler_bus("s1"))):
        await ready(house, 1)
        (worker,) = house.workers.values()
        worker.inflight = 1
        await house.put_endpoint(msgspec.structs.replace(record, state=EndpointState.STOPPED))
        await eventually(lambda: worker.state is WorkerState.DRAINING)
        await asyncio.sleep(1.5)
        assert house.ops(StopWorker) == []
        worker.inflight = 0
        await eventually(lambda: house.states()[WorkerState.STOPPED] == 1)
    (proof,) = await house.told(events.WorkerDrained)
    assert proof.waited_s > 1.5


async def test_a_drain_is_taken_back_when_demand_returns(house, scaler_bus):
    await house.endpoint(inactivity_timeout=0.3)
    async with running(scaler_on(await scaler_bus("s1"), ticket_ttl_s=5.0)):
        await house.waits(1)
        await ready(house, 1)
        await house.waits(0)
        (worker,) = house.workers.values()
        await eventually(lambda: worker.state is WorkerState.DRAINING)
        await house.waits(1)
        await ready(house, 1)
        await eventually(lambda: worker.state is WorkerState.READY)
        assert [order.op for order in worker.orders] == ["drain", "undrain"]
        assert len(house.commands) == 1


async def test_a_dead_model_server_leaves_ready_at_once_and_is_replaced(house, scaler_bus):
    await house.endpoint(inactivity_timeout=-1)
    async with running(scaler_on(await scaler_bus("s1"))):
        await ready(house, 1)
        (worker,) = house.workers.values()
        worker.failure = Failure(cause=Cause.MODEL_OOM, message="killed", log_tail="last words")
        worker.state = WorkerState.ERROR
        await worker.beat()
        await eventually(lambda: (worker.id, WorkerState.ERROR) in house.record_arrived)
        await eventually(lambda: [c.worker_id for c in house.ops(DestroyWorker)] == [worker.id])
        await eventually(lambda: house.states()[WorkerState.READY] == 1, within_s=15)
    assert len(house.ops(CreateWorker)) == 2
    (failed,) = await house.told(events.WorkerFailed)
    assert (failed.failure.cause, failed.failure.log_tail) == (Cause.MODEL_OOM, "last words")


async def test_a_worker_that_proved_itself_is_rebooted_and_comes_back_as_the_same_one(house, scaler_bus, monkeypatch):
    reigns = []

    class Watched(reign.Reign):
        def __init__(self, **parts):
            super().__init__(**parts)
            reigns.append(self)

    def facts():
        return list(reigns[-1]._desks[house.endpoint_id].state.workers.values())

    monkeypatch.setattr("scaler.service.Reign", Watched)
    await house.endpoint(inactivity_timeout=-1)
    async with running(scaler_on(await scaler_bus("s1"), haste=3.0, proven_after_s=0.3)):
        await ready(house, 1)
        (worker,) = house.workers.values()
        await eventually(lambda: all(fact.proven for fact in facts()), what="its start counts as a success")
        worker.failure = Failure(cause=Cause.MODEL_OOM, message="killed", log_tail="last words")
        worker.state = WorkerState.ERROR
        await worker.beat()
        await eventually(lambda: [c.worker_id for c in house.ops(RebootWorker)] == [worker.id])
        await eventually(lambda: (worker.id, WorkerState.REBOOTING) in house.record_arrived)
        await eventually(lambda: house.states()[WorkerState.READY] == 1 and worker.boots == 2)
    assert len(house.ops(CreateWorker)) == 1 and house.ops(DestroyWorker) == []
    assert audit.first_wrong(await house.told(events.Decided)) is None


async def test_a_lost_worker_is_told_and_all_silent_at_once_is_not(house, scaler_bus):
    await house.endpoint(min_load=280)
    async with running(scaler_on(await scaler_bus("s1"), haste=4.0)):
        await ready(house, 3)
        house.silent = True
        await eventually(lambda: house.of(events.TelemetryFrozen))
        frozen = house.of(events.TelemetryFrozen)[0]
        assert frozen.workers == 3
        acts = len(house.commands)
        await asyncio.sleep(1.0)
        assert house.states() == {WorkerState.READY: 3}
        house.silent = False
        await eventually(lambda: house.of(events.TelemetryThawed))
        one = next(iter(house.workers.values()))
        one.silent = True
        await eventually(lambda: house.of(events.WorkerSuspected), within_s=8)
        assert len(house.commands) == acts
        one.silent = False
        await eventually(lambda: not house.records[subjects.worker_key(house.endpoint_id, one.id)].suspect)


async def test_machines_of_an_unknown_endpoint_are_given_back(house, scaler_bus):
    stranger = InstanceRecord(
        worker_id=WorkerId("w99"),
        endpoint_id=EndpointId(999_999),
        group_id=GroupId(1),
        provider="process",
        state="stopped",
        created_at=1.0,
    )
    await house.put_instance(stranger)
    await house.endpoint()
    async with running(scaler_on(await scaler_bus("s1"))):
        await eventually(lambda: [c.worker_id for c in house.ops(DestroyWorker)] == ["w99"])
        bucket = house.bus.bucket(subjects.BUCKET_SCALER)

        async def forgotten():
            while await bucket.get("e999999") is not None:
                await asyncio.sleep(0.05)

        await asyncio.wait_for(forgotten(), 10)


async def test_an_endpoint_that_cannot_be_decided_stops_no_other(house, scaler_bus, monkeypatch):
    bad = EndpointId(house.endpoint_id + 1)
    tries = []

    def decide_or_not(state, policy, now):
        if state.endpoint_id == bad and len(tries) < 3:
            tries.append(now)
            raise ZeroDivisionError
        return decide.decide(state, policy, now)

    monkeypatch.setattr("scaler.council.decide", SimpleNamespace(decide=decide_or_not))
    good = await house.endpoint(inactivity_timeout=-1)
    await house.put_endpoint(msgspec.structs.replace(good, id=bad, name="bad", groups=()))
    scaler = scaler_on(await scaler_bus("s1"))
    async with running(scaler):
        await ready(house, 1)
        await eventually(lambda: any(d.endpoint_id == bad for d in house.of(events.Decided)), within_s=20)
    assert len(tries) == 3
    assert tries[2] - tries[1] > tries[1] - tries[0] > 0.3, "tried less and less often"
    (errors,) = [m for m in scaler._metrics.registry.collect() if m.name == "corral_scaler_endpoint_errors"]
    assert errors.samples[0].value == 3


async def test_a_deleted_endpoint_is_drained_destroyed_and_forgotten(house, scaler_bus):
    await house.endpoint(inactivity_timeout=-1)
    async with running(scaler_on(await scaler_bus("s1"))):
        await ready(house, 1)
        await house.bus.bucket(subjects.BUCKET_ENDPOINTS).delete(subjects.endpoint_key(house.endpoint_id))
        await eventually(lambda: house.ops(DestroyWorker))
        await eventually(lambda: house.records == {})
    assert [d.cut_short for d in await house.told(events.WorkerDrained)] == [False]


async def test_a_durable_mark_is_enough(house, scaler_bus):
    await house.endpoint()
    await house.marks()
    async with running(scaler_on(await scaler_bus("s1"))):
        await eventually(lambda: house.ops(CreateWorker))
        await eventually(lambda: house.of(events.DemandWaiting))


async def test_a_lost_bucket_of_endpoints_destroys_nobody(house, scaler_bus):
    bucket = house.bus.bucket(subjects.BUCKET_ENDPOINTS)
    record = await house.endpoint(inactivity_timeout=-1)
    async with running(scaler_on(await scaler_bus("s1"))):
        await ready(house, 1)
        await bucket.delete(subjects.SEQUENCE_KEY)
        await bucket.delete(subjects.endpoint_key(house.endpoint_id))
        await asyncio.sleep(1.0)
        assert len(house.commands) == 1
        assert house.states() == {WorkerState.READY: 1}
        await bucket.put(subjects.SEQUENCE_KEY, b"7")
        await house.put_endpoint(msgspec.structs.replace(record, state=EndpointState.STOPPED))
        await eventually(lambda: house.ops(StopWorker))


async def test_what_somebody_else_writes_into_our_bucket_is_put_right(house, scaler_bus):
    await house.endpoint(inactivity_timeout=-1)
    bucket = house.bus.bucket(subjects.BUCKET_WORKERS)
    async with running(scaler_on(await scaler_bus("s1"))):
        await ready(house, 1)
        (key,) = house.records
        await bucket.put(key, codec.encode(msgspec.structs.replace(house.records[key], url="http://elsewhere")))
        await eventually(lambda: "http://elsewhere" in {r.url for _, r in house.record_history if r is not None})
        await eventually(lambda: house.records[key].url != "http://elsewhere")
        await bucket.delete(key)
        await eventually(lambda: (key, None) in house.record_history)
        await eventually(lambda: key in house.records)
