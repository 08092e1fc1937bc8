"""Facts about workers, and what is said about them, for tests of the pure parts."""

from scaler.types import Drain, Liveness, Policy, WorkerFact
from schemas.ids import WorkerId
from schemas.reasons import Cause, Why
from schemas.records import Failure, InstanceRecord
from schemas.signals import Heartbeat
from schemas.states import WorkerState
from tests.scaler.story import EP, G1, T0

POLICY = Policy()
W1, W2, W3 = WorkerId("w1"), WorkerId("w2"), WorkerId("w3")
OOM = Failure(cause=Cause.MODEL_OOM, message="out of memory", at=T0)


def worker(worker_state: WorkerState = WorkerState.READY, **fields) -> WorkerFact:
    return WorkerFact(**{"worker_id": W1, "group_id": G1, "state": worker_state, **fields})


def beat(worker_state: WorkerState = WorkerState.READY, *, boot: str = "b1", seq: int = 1, **fields) -> Heartbeat:
    return Heartbeat(
        worker_id=W1,
        endpoint_id=EP,
        group_id=G1,
        boot=boot,
        seq=seq,
        sent_at=T0 + seq,
        state=worker_state,
        **{"perf": 10.0, **fields},
    )


def instance(instance_state: str, **fields) -> InstanceRecord:
    return InstanceRecord(worker_id=W1, endpoint_id=EP, group_id=G1, provider="process", state=instance_state, **fields)


def draining(**fields) -> WorkerFact:
    way_out = Drain(since_at=T0, deadline_at=T0 + 900, then="stop", why=Why.IDLE, shown_at=T0 + 1, told=True)
    return worker(WorkerState.DRAINING, **{"drain": way_out, "beat_at": T0 + 70.0, "liveness": Liveness.ALIVE, **fields})
