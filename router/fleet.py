"""The workers of one endpoint at this router: the fold of records, heartbeats, promises and complaints, and the pools of
those that are routable.
"""

from __future__ import annotations

from collections.abc import Collection
from zlib import crc32

from schemas.ids import GroupId, WorkerId
from schemas.records import WorkerRecord
from schemas.states import BILLED, WorkerState

from . import view
from .complaints import BENCH_S, Complaints, may_bench
from .eta import Starts
from .liveness import Liveness
from .pool import Pool
from .reservations import PROMISE_TTL_S
from .tallies import Tally
from .view import Pulse, Standing, Worker

#: How often the promises of one worker are looked at besides its heartbeats, which do the same.
LOOK_AGAIN_S = 1.0
#: How often what workers cost is added up, besides at every change of a record.
PAY_EVERY_S = 5.0


class Fleet:
    """Every change goes through here, so that a worker is in its group's pool exactly while it is routable.
    `router` makes the order among equal workers this router's own. Times are monotonic s.
    """

    def __init__(self, liveness: Liveness, router: str) -> None:
        self.workers: dict[WorkerId, Worker] = {}
        self.pools: dict[GroupId, Pool] = {}
        self.tallies: dict[GroupId, Tally] = {}
        self.complaints = Complaints()
        self.starts = Starts()
        self._liveness = liveness
        self._router = router
        self._benched: dict[Worker, None] = {}
        self._pay_at = float("-inf")
        self._owing: dict[Worker, float] = {}  #: with open promises -> when to look at them again; soonest first

    # --- what happened ---

    def record(self, record: WorkerRecord, now: float) -> bool:
        """The scaler wrote. True when a worker became routable or routable again."""
        worker = self.workers.get(record.worker_id)
        self.starts.saw(record)
        if worker is not None:
            self._pay(worker, now)  # what it cost as it was
        if record.state is WorkerState.GONE:
            self.gone(record.worker_id)
            return False
        if worker is None:
            worker = Worker(record, crc32(f"{self._router}/{record.worker_id}".encode()))
            worker.paid_at = now
            self.workers[record.worker_id] = worker
        elif worker.group_id != record.group_id:
            self._pool(worker.group_id).remove(worker)
        view.fold_record(worker, record)
        return self._place(worker, now)

    def gone(self, worker_id: WorkerId) -> None:
        """Its record was removed."""
        worker = self.workers.pop(worker_id, None)
        if worker is not None:
            self._pool(worker.group_id).remove(worker)
            self._liveness.forget(worker)
            self._benched.pop(worker, None)
            self._owing.pop(worker, None)
            self.complaints.forget(worker_id)
            self.starts.gone(worker_id)

    def pulse(self, pulse: Pulse, now: float) -> bool:
        """A heartbeat came. True when the worker can take something it could not take before."""
        worker = self.workers.get(pulse.worker_id)
        if worker is None:
            return False
        before = worker.pulse
        was_unheard = before is None
        if not view.fold_pulse(worker, pulse, now):
            return False
        self.tally(worker.group_id, now).heard(before, pulse, now)
        if was_unheard and worker in self._benched:
            self._benched.pop(worker, None)
            worker.benched_until = now  # it lives: what was said before is answered
        self._liveness.heard(worker, now)
        self._place(worker, now)
        return worker.standing is not Standing.OUT

    def promised(self, worker: Worker, units: float, usual_cost: float, now: float) -> None:
        """A ticket of this router names it. `usual_cost`: work units of a usual request."""
        view.fold_promise(worker, 1, units, usual_cost, now)
        self._owing.setdefault(worker, now + LOOK_AGAIN_S)
        self._pool(worker.group_id).took(worker)

    def promised_by_peer(self, worker_id: WorkerId, requests: int, usual_cost: float, now: float) -> None:
        """Another router gave out tickets for it."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.standing is not Standing.OUT:
            view.fold_promise(worker, requests, 0.0, usual_cost, now)
            self._owing.setdefault(worker, now + LOOK_AGAIN_S)
            self._pool(worker.group_id).put(worker)

    def complaint(self, worker_id: WorkerId, request_idx: int, now: float, *, routable: int) -> bool:
        """A client came back from it. True when it was set aside for it; of those that are `routable` some always stay.

        A worker that was never heard here has only its record to vouch for it, which may be older than its end (a router that
        has just started sees such records before the scaler has mended them): there one word of a client weighs more.
        """
        worker = self.workers.get(worker_id)
        if worker is None:
            return False
        is_noted = self.complaints.note(worker_id, request_idx, now)
        if worker.standing is Standing.OUT or not (is_noted or worker.pulse is None):
            return False
        if not may_bench(len(self._benched), routable):
            return False
        worker.benched_until = now + BENCH_S
        self._benched[worker] = None
        self._place(worker, now)
        return True

    def silent(self, worker: Worker, now: float) -> None:
        """Liveness says that it crossed a limit."""
        self._place(worker, now)

    def sweep(self, now: float, usual_cost: float) -> bool:
        """Let time pass: broken promises and benches end. `usual_cost`: work units of a usual request. True when that freed
        something.
        """
        freed = False
        if now >= self._pay_at:
            self.pay(now)
        for worker in list(self._benched):
            if worker.benched_until <= now:
                self._benched.pop(worker, None)
                freed |= self._place(worker, now)
        while self._owing and (due := next(iter(self._owing.items())))[1] <= now:
            worker = due[0]
            del self._owing[worker]
            owed, life_s, heard = worker.ledger.requests, PROMISE_TTL_S, now - worker.heard_at < PROMISE_TTL_S
            if not heard:
                # Without reports nothing tells a kept promise from a broken one, so it stands until the work should be done: each
                # slot has its part of the speed, and who has no slot waits for one.
                life_s += usual_cost * max(worker.slots, worker.ledger.requests) / worker.perf
            if worker.ledger.expire(now - life_s):
                if heard:
                    view.fold_broken(worker, owed - worker.ledger.requests, usual_cost, now)
                self._pool(worker.group_id).put(worker)
                freed = True
            if worker.ledger.requests:
                self._owing[worker] = now + LOOK_AGAIN_S
        return freed

    def pay(self, now: float) -> None:
        """Count what all workers have cost up to now."""
        self._pay_at = now + PAY_EVERY_S
        for worker in self.workers.values():
            self._pay(worker, now)

    def forget_tallies(self, but: Collection[GroupId]) -> None:
        """Of groups that are no more."""
        self.tallies = {group_id: tally for group_id, tally in self.tallies.items() if group_id in but}

    # --- what is so ---

    def tally(self, group_id: GroupId, now: float) -> Tally:
        tally = self.tallies.get(group_id)
        if tally is None:
            tally = self.tallies[group_id] = Tally(now)
        return tally

    @property
    def reserved_units(self) -> float:
        """Work units that this router promised and no worker has reported."""
        return sum(worker.ledger.own_units for worker in self._owing)

    def pool(self, group_id: GroupId) -> Pool:
        return self._pool(group_id)

    def _pool(self, group_id: GroupId) -> Pool:
        pool = self.pools.get(group_id)
        if pool is None:
            pool = self.pools[group_id] = Pool()
        return pool

    def _pay(self, worker: Worker, now: float) -> None:
        record, since = worker.record, worker.paid_at
        worker.paid_at = now
        if since is None or now <= since or record.state in (WorkerState.DESTROYING, WorkerState.GONE):
            return
        sums = self.tally(worker.group_id, now).now(now)
        sums.storage_usd += record.storage_usd_per_hour * (now - since) / 3600
        if record.state in BILLED:
            sums.hot_s += now - since
            sums.cost_usd += record.usd_per_hour * (now - since) / 3600

    def _place(self, worker: Worker, now: float) -> bool:
        """Put it where it belongs now. True when it came in."""
        was = worker.standing
        worker.standing = view.standing(worker, self._liveness.silent_s(worker), now)
        self._pool(worker.group_id).put(worker)
        return was is Standing.OUT and worker.standing is not Standing.OUT
