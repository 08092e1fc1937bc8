"""From wanted numbers to single acts, each with its reason.

Up:    take back a draining worker; start a cold one; buy a new one.
Down:  cancel what is only asked for; cancel what is on its way; drain the idle; last the busy, who finish their work.
       Worst price for its performance first.
An old revision goes only as the new one becomes ready.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

import msgspec

from schemas.ids import GroupId, WorkerId
from schemas.reasons import Cause, Why
from schemas.states import COMING, WorkerState

from . import capacity, drain, groups, victims
from .scene import Scene
from .shares import Shares
from .types import GroupSpec, Liveness, Op, Then, Want, WorkerFact


class Draft(msgspec.Struct, frozen=True):
    """An act before it has a command id. A `create` has no worker yet."""

    op: Op
    group_id: GroupId
    why: Why
    reason: str
    worker: WorkerFact | None = None
    revision: int = 1
    then: Then | None = None


class Planner:
    """Builds one plan. Used once: the public attributes are its result."""

    def __init__(self, scene: Scene) -> None:
        self._state = scene.state
        self._policy = scene.policy
        self._now = scene.now
        self._roster = scene.roster
        self._halted = {group.id for group in scene.roster.groups.values() if groups.is_halted(scene.state, group)}
        self._leaving = {w.worker_id for w in self._roster.living if w.gone_at is not None or self._is_stale(w)}
        self._touched: set[WorkerId] = set()
        self._ended: set[WorkerId] = set()
        self._bought: Counter[GroupId] = Counter()
        self.drafts: list[Draft] = []
        self.blocked: dict[GroupId, groups.Closed] = {}
        self.until_at: float | None = None
        self.short = 0  #: hot workers that are wanted and could not be had

    # --- what must be, whatever the load ---

    def end_failed(self) -> None:
        """Workers that failed; who only fell silent gets a moment to come back."""
        for worker in [*self._roster.failed, *self._roster.orphans]:
            if worker.state is WorkerState.ERROR and self._is_beyond_hope(worker):
                cause = worker.failure.cause if worker.failure is not None else Cause.START_CRASH
                message = worker.failure.message if worker.failure is not None else ""
                self._end(worker, "destroy", Why.REPLACE, f"failed: {cause} {message}".rstrip())

    def finish_drains(self) -> None:
        """Workers that have nothing more to do; and those that began to drain without us, by a signal or an order."""
        for worker in self._roster.draining:
            if worker.drain is None:
                self._drain(worker, Why.MANUAL, "stop", "it drains by itself")
        for worker in [*self._roster.draining, *self._roster.orphans]:
            if worker.drain is not None and worker.state is WorkerState.DRAINING:
                self._end_when_drained(worker)

    def end_all(self, why: Why, then: Then, text: str) -> None:
        """Everybody out: drain who serves, stop or destroy the rest. A cold worker is left in peace when `then` is stop."""
        self._leave([w for w in self._state.workers.values() if self._is_own(w)], why, then, text)

    def end_orphans(self) -> None:
        """Workers whose group was deleted."""
        self._leave(self._roster.orphans, Why.GROUP_DELETED, "destroy", "its worker group was deleted")

    def make_way(self, wanted: Want) -> None:
        """Workers of an old revision, and machines that are about to be taken back: replaced first, then released."""
        for worker in [*self._roster.coming, *self._roster.cold]:
            if self._is_stale(worker):
                self._end(worker, "destroy", Why.REVISION, f"revision {worker.revision} is out of date")
        old = [w for w in self._roster.ready if self._is_leaving(w)]
        if not old:
            return
        fresh = [w for w in self._roster.serving if not self._is_leaving(w)]
        spare = len(old) + len(fresh) - wanted.hot
        hurried = [w for w in old if w.gone_at is not None and w.gone_at - self._now <= self._notice_s()]
        for worker in hurried:
            self._drain(worker, Why.REPLACE, "destroy", "the provider takes the machine back")
        rest = list(victims.in_order([w for w in old if w not in hurried], self._state, self._roster, self._shares(wanted)))
        room_needed = self._room() <= 0 and len(fresh) + len(self._roster.coming) < wanted.hot
        if spare <= 0 and room_needed:
            spare += self._policy.surge_workers  # so many serve less at a time: the next goes when the one before is replaced
        for worker in rest[: max(0, spare)]:
            text = (
                "the provider takes the machine back"
                if worker.gone_at is not None
                else f"revision {worker.revision} is out of date"
            )
            self._drain(worker, Why.REVISION if worker.gone_at is None else Why.REPLACE, "destroy", text)

    # --- what the load wants ---

    def hot(self, wanted: Want) -> None:
        """As many hot workers as wanted, counted by id: ready, coming and pending."""
        counted = [w for w in self._roster.hot if w.worker_id not in self._touched and not self._is_leaving(w)]
        lack = wanted.hot - len(counted)
        if lack > 0:
            self._up(lack, wanted)
        elif lack < 0:
            self._down(-lack, counted, wanted)

    def cold(self, wanted: Want) -> None:
        """No more on disk than wanted, no fewer in all than the floor."""
        missing = wanted.floor - self._existing()
        for _ in range(max(0, missing)):
            if not self._create(wanted, Why.MIN_WORKERS, f"{wanted.floor} are to be kept, hot or cold"):
                break
        excess = self._existing() - max(wanted.total, wanted.floor)
        if excess <= 0:
            return
        settled = self._now - self._policy.cold_least_s
        spare = [w for w in self._roster.cold if w.worker_id not in self._touched and w.state_at <= settled]
        for worker in islice(victims.in_order(spare, self._state, self._roster, self._shares(wanted)), excess):
            cold_s = self._now - worker.state_at
            self._end(worker, "destroy", Why.COLD_POOL, f"cold for {cold_s:.0f} s, {wanted.total} are worth keeping")

    # --- up ---

    def _up(self, lack: int, wanted: Want) -> None:
        for worker in sorted(self._roster.draining, key=lambda w: (-(w.drain.since_at if w.drain else 0.0), w.worker_id)):
            if lack > 0 and self._is_takeable(worker):
                self._touch(worker)
                self.drafts.append(self._draft("undrain", worker, wanted.why, f"needed again: {wanted.sentence}"))
                lack -= 1
        under_way = sum(1 for w in self._roster.coming if w.intent is not None)
        most = max(0, min(self._policy.burst_workers, self._policy.unsettled_workers - under_way))
        for _ in range(max(0, min(lack, most))):
            if not self._start(wanted) and not self._create(wanted, wanted.why, wanted.sentence):
                break
            lack -= 1
        self.short = max(0, lack)

    def _start(self, wanted: Want) -> bool:
        """Wake one cold worker, if there is one in a tier that may, before a higher tier is asked."""
        shares = self._shares(wanted)
        for tier in groups.tiers(self._roster):
            shut_hosts = groups.quarantined(self._state, self._now)
            for group in sorted(tier, key=lambda group: (-shares.lack(group.id), group.id)):
                cold = [w for w in self._roster.cold if w.group_id == group.id and w.worker_id not in self._touched]
                cold = [w for w in cold if w.host not in shut_hosts and not self._is_stale(w)]
                if cold and self._is_open(group):
                    worker = min(cold, key=lambda w: (capacity.usd_per_unit(self._state, w), -w.state_at, w.worker_id))
                    self._touch(worker)
                    self._bought[group.id] += 1
                    self.drafts.append(self._draft("start", worker, wanted.why, wanted.sentence))
                    return True
            if self._room() > 0 and any(self._is_open(group) for group in tier):
                return False
        return False

    def _create(self, wanted: Want, why: Why, text: str) -> bool:
        """Buy one, if there is room and a group may."""
        if self._room() <= 0:
            return False
        shares = self._shares(wanted)
        for tier in groups.tiers(self._roster):
            for group in sorted(tier, key=lambda group: (-shares.lack(group.id), group.id)):
                if self._is_open(group):
                    self._bought[group.id] += 1
                    self.drafts.append(Draft("create", group.id, why, text, revision=group.revision))
                    return True
        return False

    def _is_open(self, group: GroupSpec) -> bool:
        coming = sum(1 for w in self._roster.coming if w.group_id == group.id and not self._is_stale(w)) + self._bought[group.id]
        shut = groups.closed(self._state, group, coming, self._policy, self._now)
        if shut is None:
            return True
        if group.managed and group.weight > 0:
            self.blocked[group.id] = shut
            if shut.until_at is not None:
                self.until_at = shut.until_at if self.until_at is None else min(self.until_at, shut.until_at)
        return False

    # --- down ---

    def _down(self, surplus: int, counted: list[WorkerFact], wanted: Want) -> None:
        capacity_left = self._capacity(counted)
        needed = wanted.units_per_s
        idle_is_kept = False
        shares = self._shares(wanted)
        for worker in victims.in_order([w for w in counted if self._is_own(w)], self._state, self._roster, shares):
            if surplus <= 0:
                return
            perf = capacity.perf_of(self._state, worker)
            if victims.is_busy(worker) and idle_is_kept:
                return  # never a busy one while an idle one stays
            if worker.state is WorkerState.READY and perf and needed is not None and capacity_left - perf < needed - 1e-9:
                idle_is_kept = idle_is_kept or not victims.is_busy(worker)
                continue  # the pool is mixed: without this one it would be too slow
            if self._release(worker, wanted):
                surplus -= 1
                shares.loses(worker)
                capacity_left -= perf or 0.0

    def _release(self, worker: WorkerFact, wanted: Want) -> bool:
        """Let one hot worker go in the cheapest way; False when the floor of the pool forbids it."""
        needed_on_disk = self._existing() - 1 < max(wanted.total, wanted.floor)
        if worker.state is WorkerState.READY:
            self._drain(worker, wanted.why, "stop" if needed_on_disk else "destroy", wanted.sentence)
            return True
        if worker.from_cold and needed_on_disk:
            self._end(worker, "stop", wanted.why, f"on its way and no longer needed: {wanted.sentence}")
            return True
        if self._existing() - 1 < wanted.floor:
            return False
        self._end(worker, "destroy", wanted.why, f"{worker.state} and no longer needed: {wanted.sentence}")
        return True

    # --- small parts ---

    def _leave(self, workers: list[WorkerFact], why: Why, then: Then, text: str) -> None:
        for worker in workers:
            if worker.worker_id in self._touched:
                continue
            if worker.state is WorkerState.READY or (worker.state is WorkerState.DRAINING and worker.drain is None):
                self._drain(worker, why, then, text)
            elif (
                worker.state is WorkerState.DRAINING
                and then == "destroy"
                and worker.drain is not None
                and worker.drain.then == "stop"
            ):
                continue  # it stops first; what is cold is destroyed
            elif worker.state in COMING:
                self._end(worker, "stop" if then == "stop" and worker.from_cold else "destroy", why, text)
            elif worker.state is WorkerState.STOPPED and then == "destroy":
                self._end(worker, "destroy", why, text)

    def _end_when_drained(self, worker: WorkerFact) -> None:
        assert worker.drain is not None
        done = drain.progress(worker, self._policy, self._now)
        if not done.done:
            return
        text = f"drained in {done.waited_s:.0f} s" + (f", cut short with {done.inflight} in flight" if done.cut_short else "")
        self._end(worker, worker.drain.then, worker.drain.why, text)

    def _end(self, worker: WorkerFact, op: Op, why: Why, text: str) -> None:
        self._touch(worker)
        if op == "destroy":
            self._ended.add(worker.worker_id)
        self.drafts.append(self._draft(op, worker, why, text))

    def _drain(self, worker: WorkerFact, why: Why, then: Then, text: str) -> None:
        self._touch(worker)
        if then == "destroy":
            self._ended.add(worker.worker_id)
        self.drafts.append(self._draft("drain", worker, why, text, then))

    def _draft(self, op: Op, worker: WorkerFact, why: Why, text: str, then: Then | None = None) -> Draft:
        return Draft(op, worker.group_id, why, text, worker, worker.revision, then)

    def _touch(self, worker: WorkerFact) -> None:
        self._touched.add(worker.worker_id)

    def _room(self) -> int:
        """How many more may exist. Everything that costs money counts, also what is to be destroyed and is not gone yet: a create may
        overtake a destroy.
        """
        assert self._state.spec is not None
        here = len(self._roster.living) + len(self._roster.ending) + sum(1 for d in self.drafts if d.op == "create")
        return self._state.spec.settings.max_workers - here

    def _existing(self) -> int:
        """Workers that stay, hot or cold, when this plan is carried out."""
        leaving = {w.worker_id for w in self._roster.draining if w.drain is not None and w.drain.then == "destroy"}
        stay = [w for w in self._roster.living if w.worker_id not in self._ended and w.worker_id not in leaving]
        return len(stay) + sum(1 for d in self.drafts if d.op == "create")

    def _shares(self, wanted: Want) -> Shares:
        shares = Shares(self._state, self._roster, (w for w in self._roster.hot if not self._is_leaving(w)), wanted.hot)
        for group_id, bought in self._bought.items():
            for _ in range(bought):
                shares.gains(group_id)
        return shares

    def _capacity(self, workers: list[WorkerFact]) -> float:
        return sum(capacity.perf_of(self._state, w) or 0.0 for w in workers)

    def _is_stale(self, worker: WorkerFact) -> bool:
        """Out of date, and its successor may come. While the new revision is halted the old one is what works."""
        return self._roster.is_stale(worker) and worker.group_id not in self._halted

    def _is_leaving(self, worker: WorkerFact) -> bool:
        return worker.worker_id in self._leaving

    def _is_takeable(self, worker: WorkerFact) -> bool:
        return (
            worker.drain is not None
            and worker.worker_id not in self._touched
            and worker.liveness in (Liveness.ALIVE, Liveness.SUSPECT)
            and not self._is_leaving(worker)
        )

    def _is_beyond_hope(self, worker: WorkerFact) -> bool:
        lost = worker.failure is not None and worker.failure.cause is Cause.HEARTBEAT_LOST
        return not lost or self._now - worker.state_at >= self._policy.lost_destroy_s

    def _is_own(self, worker: WorkerFact) -> bool:
        return not self._roster.is_brought(worker)

    def _notice_s(self) -> float:
        return self._policy.ticket_ttl_s + self._policy.clock_skew_s + 30.0
