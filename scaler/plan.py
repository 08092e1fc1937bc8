"""From wanted numbers to single acts, each with its reason.

Up:    take back a draining worker; start a cold one; buy a new one (`buying`).
Down:  cancel what is only asked for; cancel what is on its way; drain the idle; last the busy, who finish their work (`victims`).
       Worst price for its performance first.
An old revision goes only as the new one becomes ready, and so does who sits in the wrong group (`moves`). A worker that failed
while it served is rebooted before it is replaced (`reboots`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice

from schemas.ids import GroupId, WorkerId
from schemas.reasons import Cause, Why
from schemas.states import COMING, WorkerState

from . import drain, endings, groups, moves, reboots, room, trials, victims
from .book import Book, Draft
from .buying import Buyer
from .groups import Standing
from .scene import Scene
from .shares import Shares
from .types import Liveness, Then, Want, WorkerFact

#: Parts of a worker smaller than this are none.
_GRAIN = 1e-9
_MOST_NOTES = 8


class Planner:
    """Builds one plan. Used once: the public attributes are its result."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._state = scene.state
        self._policy = scene.policy
        self._now = scene.now
        self._roster = scene.roster
        self._standings = scene.standings
        self._book = Book(scene)
        self._leaving = _leaving(self._roster.living, self._standings) - {w.worker_id for w in self._roster.brought_ready}
        self._rebooted: list[WorkerFact] = []
        self._counters: tuple[Want, Shares, Buyer] | None = None
        self.notes: list[str] = []  #: what is worth saying about the plan as a whole
        self.short = 0  #: hot workers that are wanted and could not be had

    @property
    def drafts(self) -> list[Draft]:
        return self._book.drafts

    @property
    def blocked(self) -> dict[GroupId, groups.Closed]:
        """What kept groups from starting more."""
        return self._counters[2].blocked if self._counters is not None else {}

    @property
    def candidates(self) -> list[str]:
        """Where workers could have come from, as far as there was a choice."""
        return list(self._counters[2].considered) if self._counters is not None else []

    @property
    def until_at(self) -> float | None:
        """When the first of it may be gone."""
        return self._counters[2].until_at if self._counters is not None else None

    # --- what must be, whatever the load ---

    def end_failed(self, wanted: Want | None = None) -> None:
        """Workers that failed. One that served is rebooted while the pool is short of ready ones; who only fell silent gets a
        moment to come back.
        """
        failed = [*self._roster.failed, *[w for w in self._roster.orphans if w.state is WorkerState.ERROR]]
        if not failed:
            return
        short = 0 if wanted is None else wanted.hot - sum(1 for w in self._roster.serving if not self._is_leaving(w))
        ordered: Counter[GroupId] = Counter()
        for worker in failed:
            if not self._is_beyond_hope(worker):
                continue
            if self._now < endings.again_at(worker, self._policy):
                if len(self.notes) < _MOST_NOTES:
                    self.notes.append(endings.words(worker))
                continue
            cause = worker.failure.cause if worker.failure is not None else Cause.START_CRASH
            message = worker.failure.message if worker.failure is not None else ""
            said = f"failed: {cause} {message}".rstrip()
            memory = self._state.groups.get(worker.group_id)
            known = worker.group_id in self._standings and not self._is_leaving(worker)
            if short > 0 and known and reboots.may(worker, memory, ordered[worker.group_id], self._policy, self._now):
                times = reboots.recent(worker.rebooted_at, self._now) + 1
                text = f"{said}; rebooted, {times} of {self._policy.reboots_per_worker} times within an hour"
                self._book.act("reboot", worker, Why.REPLACE, text)
                self._rebooted.append(worker)
                ordered[worker.group_id] += 1
                short -= 1
            else:
                self._book.act("destroy", worker, Why.REPLACE, said)

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
        if not self._leaving:
            return
        for worker in [*self._roster.coming, *self._roster.cold]:
            if self._is_stale(worker):
                if worker.state is WorkerState.STOPPED and not self._standings[worker.group_id].memory.ready_seen:
                    continue  # nobody knows yet whether the new revision works; until then this one is what did
                self._cancel(worker, Why.REVISION, "destroy", f"revision {worker.revision} is out of date")
            elif worker.gone_at is not None:
                self._cancel(worker, Why.REPLACE, "destroy", "the provider takes the machine back before it could serve")
        old = [w for w in self._roster.ready if self._is_leaving(w)]
        if not old:
            return
        fresh = [w for w in self._roster.serving if not self._is_leaving(w)]
        spare = len(old) + len(fresh) - wanted.hot
        hurried = {w.worker_id for w in old if w.gone_at is not None and w.gone_at - self._now <= self._notice_s()}
        for worker in old:
            if worker.worker_id in hurried:
                self._drain(worker, Why.REPLACE, "destroy", "the provider takes the machine back")
        room_needed = self._book.room <= 0 and len(fresh) + len(self._roster.coming) < wanted.hot
        if spare <= 0 and room_needed:
            spare += self._policy.surge_workers  # so many serve less at a time: the next goes when the one before is replaced
        rest = [w for w in old if w.worker_id not in hurried]
        shares, _ = self._counting(wanted)
        for worker in islice(victims.in_order(rest, self._standings, shares), max(0, spare)):
            text = (
                "the provider takes the machine back"
                if worker.gone_at is not None
                else f"revision {worker.revision} is out of date"
            )
            self._drain(worker, Why.REVISION if worker.gone_at is None else Why.REPLACE, "destroy", text)

    def retire(self, wanted: Want) -> None:
        """Workers of groups with weight 0 get no requests, so they count for nothing. Who is ready stays until others are."""
        ready = [w for w in self._roster.unrouted if w.state is WorkerState.READY]
        for worker in self._roster.unrouted:
            if worker.state is not WorkerState.READY:
                self._cancel(worker, Why.SHARE, "destroy", f"{worker.state}, and its group has weight 0")
        served = sum(1 for w in self._roster.serving if not self._is_out(w))
        shares, _ = self._counting(wanted)
        for worker in islice(victims.in_order(ready, self._standings, shares), max(0, served + len(ready) - wanted.hot)):
            self._drain(worker, Why.SHARE, "destroy", "its group has weight 0, and enough others are ready")

    # --- what the load wants ---

    def hot(self, wanted: Want) -> None:
        """As many hot workers as wanted, counted by id: ready, coming and pending. A start of a group whose starts often fail
        counts as the part of a worker that it is likely to be.
        """
        shares, buyer = self._counting(wanted)
        counted = self._counted()
        coming = [w for w in self._roster.coming if not self._is_out(w)]
        doubts = [1.0 - self._standings[w.group_id].success for w in coming]
        here = len(counted) - sum(doubts) + len(self._rebooted)
        late = moves.late(self._scene, self._standings, buyer)
        here -= late
        work = shares.work - sum([shares.size_of(w) for w in self._rebooted])  # of those counted
        if wanted.hot - here > _GRAIN:
            work -= sum([doubt * shares.size_of(w) for doubt, w in zip(doubts, coming, strict=True)])
            work += len(self._rebooted) - late
            self._up(here, work, wanted, shares, buyer)
            return
        moving = moves.planned(self._scene, self._standings, shares, counted, work, buyer)
        surplus = max(0.0, here - wanted.hot - moving.owed)
        tried = min(trials.under_way(self._standings, shares), trials.allowance(wanted, self._policy))
        if surplus - tried > _GRAIN:
            self._down(surplus - tried, counted, wanted, shares)
        self._move(moving, wanted, shares, buyer)
        self._try(wanted, surplus, shares, buyer)

    def cold(self, wanted: Want) -> None:
        """No more on disk than wanted, no fewer in all than the floor."""
        shares, buyer = self._counting(wanted)
        for _ in range(min(max(0, wanted.floor - self._book.staying), self._starts_left())):
            if not self._keep_one_more(wanted, buyer):
                break
        excess = self._book.staying - max(wanted.total, wanted.floor)
        if excess <= 0:
            return
        settled = self._now - self._policy.cold_least_s
        spare = [w for w in self._roster.cold if w.worker_id not in self._book.touched and w.state_at <= settled]
        for worker in islice(victims.in_order(spare, self._standings, shares), excess):
            cold_s = self._now - worker.state_at
            text = f"cold for {cold_s:.0f} s, {wanted.total} are worth keeping"
            self._book.act("destroy", worker, Why.COLD_POOL, text)

    # --- up ---

    def _up(self, here: float, work: float, wanted: Want, shares: Shares, buyer: Buyer) -> None:
        """From `here` workers, worth `work` average ones, to what is wanted. `wanted.pooled` of them serve the load and may come from
        anywhere; the rest only from groups that lack their share.
        """
        pooled = wanted.hot if wanted.pooled is None else min(wanted.pooled, wanted.hot)
        for worker in sorted(self._roster.draining, key=lambda w: (-(w.drain.since_at if w.drain else 0.0), w.worker_id)):
            may = pooled - here > _GRAIN or shares.lacks(worker.group_id)
            if wanted.hot - here > _GRAIN and may and self._is_takeable(worker):
                self._book.act("undrain", worker, wanted.why, f"needed again: {wanted.sentence}")
                shares.regains(worker)
                here, work = here + 1.0, work + shares.size_of(worker)
        starts: Counter[GroupId] = Counter()
        enough = False
        for _ in range(self._starts_left()):
            if wanted.hot - here <= _GRAIN:
                break
            enough = bool(starts) and work >= wanted.hot - _GRAIN
            if enough:
                break  # what was started is faster than the average that was counted with
            group = buyer.one(wanted.why, wanted.sentence, lacking=pooled - here <= _GRAIN)
            if group is None:
                break
            starts[group.spec.id] += 1
            here += group.success
            work += group.success * shares.size(group.spec.id)
        self.short = 0 if enough else max(0, round(wanted.hot - here + _GRAIN))
        self._note_failures(starts)
        if self.short and self._book.room <= 0:
            self._give_up_useless(shares, buyer)

    def _starts_left(self) -> int:
        """How many more this decision may start: so many at once, and so many whose effect is not seen yet."""
        started = sum(self._book.started.values())
        under_way = sum(1 for w in self._roster.coming if w.intent is not None)
        return max(0, min(self._policy.burst_workers - started, self._policy.unsettled_workers - under_way - started))

    def _give_up_useless(self, shares: Shares, buyer: Buyer) -> None:
        """Cold workers that may not be started go, one for each that is missing and has no room."""
        useless = room.useless(self._roster.cold, self._book.touched, buyer, self._standings)
        for worker in room.given_up(useless, self.short, self._roster, self._standings, shares):
            self._book.act("destroy", worker, Why.REPLACE, "it may not be started, and there is no room for one that may")
        if useless:
            most = self._scene.settings.max_workers
            self.notes.append(f"max_workers ({most}) leaves no room while {len(useless)} lie cold that may not be started")

    def _note_failures(self, starts: Counter[GroupId]) -> None:
        for group_id, count in starts.items():
            here = self._standings[group_id]
            if here.success < 1.0:
                needed = count * here.success
                self.notes.append(f"{here.name}: {count} starts for {needed:.3g}, {1 - here.success:.0%} of its starts fail")

    def _keep_one_more(self, wanted: Want, buyer: Buyer) -> bool:
        """A new one for the floor of hot and cold: cold ones are there already, so only new ones count."""
        return buyer.new(Why.MIN_WORKERS, f"{wanted.floor} are to be kept, hot or cold")

    def _move(self, moving: moves.Moves, wanted: Want, shares: Shares, buyer: Buyer) -> None:
        """Replace who sits in the wrong group; where there is no room for a replacement, make some first."""
        text = f"its group has less than its share; {wanted.sentence}"
        for target in moving.targets:
            if target == moves.ANY:
                started = buyer.one(Why.SHARE, text, lacking=True) is not None
            else:
                started = buyer.take(self._standings[target], Why.SHARE, text)
            if not started:
                self._make_room(moving, shares)
                return

    def _make_room(self, moving: moves.Moves, shares: Shares) -> None:
        if self._book.room > 0 or self._roster.draining or self._roster.stopping or self.drafts:
            return
        cold = [w for w in self._roster.cold if not shares.lacks(w.group_id)]
        for worker in islice(victims.in_order(cold, self._standings, shares), 1):
            self._book.act("destroy", worker, Why.SHARE, "another group has less than its share, and there is no room for it")
            return
        for worker in islice(victims.in_order(moving.excess, self._standings, shares), self._policy.surge_workers):
            self._drain(
                worker, Why.SHARE, "destroy", "its group has more than its share, and there is no room to replace it first"
            )

    def _try(self, wanted: Want, above: float, shares: Shares, buyer: Buyer) -> None:
        group = trials.due(self._scene, wanted, self._standings, shares, buyer, above)
        if group is not None:
            text = trials.words(group, self._standings, shares)
            if buyer.take(group, Why.TRIAL, text):
                self.notes.append(text)

    # --- down ---

    def _down(self, surplus: float, counted: list[WorkerFact], wanted: Want, shares: Shares) -> None:
        brought = {w.worker_id for w in self._roster.brought_ready}
        own = [w for w in counted if w.worker_id not in brought] if brought else counted
        needed = wanted.units_per_s
        perfs = self._perfs(counted)
        capacity_left = sum(perfs.values())
        slowest = min([perfs[w.worker_id] for w in own], default=0.0)

        def is_missed(perf: float) -> bool:
            """The pool is mixed: without such a one it would be too slow."""
            return needed is not None and perf > 0 and capacity_left - perf < needed - _GRAIN

        if is_missed(slowest) and all(w.state is WorkerState.READY for w in own):
            return
        idle_is_kept = False
        for worker in victims.in_order(own, self._standings, shares, within_shares=wanted.hot > 0):
            is_ready = worker.state is WorkerState.READY
            weighs = 1.0 if is_ready else self._standings[worker.group_id].success
            if surplus < weighs - _GRAIN:
                return
            perf = perfs[worker.worker_id]
            if victims.is_busy(worker) and idle_is_kept:
                return  # of those that may go for the load, never a busy one while an idle one stays
            if is_ready and is_missed(perf):
                if is_missed(slowest):
                    return  # who is on its way comes first, so whoever follows is ready and no slower
                idle_is_kept = idle_is_kept or not victims.is_busy(worker)
                continue
            surplus -= weighs  # one that is needed on disk becomes ready first, and then the idle go
            if self._release(worker, wanted):
                shares.loses(worker)
                capacity_left -= perf

    def _release(self, worker: WorkerFact, wanted: Want) -> bool:
        """Let one hot worker go in the cheapest way; False when the floor of the pool forbids it."""
        needed_on_disk = self._book.staying - 1 < max(wanted.total, wanted.floor)
        if worker.state is WorkerState.READY:
            self._drain(worker, wanted.why, "stop" if needed_on_disk else "destroy", wanted.sentence)
            return True
        if worker.from_cold and needed_on_disk:
            self._cancel(worker, wanted.why, "stop", f"on its way and no longer needed: {wanted.sentence}")
            return True
        if self._book.staying - 1 < self._least(wanted):
            return False
        self._cancel(worker, wanted.why, "destroy", f"{worker.state} and no longer needed: {wanted.sentence}")
        return True

    def _least(self, wanted: Want) -> int:
        """So many are not given up while on their way. A pool that the user set breathes with the load; its recent size counts, or it would
        be bought and cancelled with every breath.
        """
        settings = self._scene.settings
        is_set = settings.cold_mult is not None or settings.min_cold_load is not None
        return max(wanted.total, wanted.floor) if is_set else wanted.floor

    # --- small parts ---

    def _leave(self, workers: list[WorkerFact], why: Why, then: Then, text: str) -> None:
        for worker in workers:
            if worker.worker_id in self._book.touched:
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
                self._cancel(worker, why, "stop" if then == "stop" and worker.from_cold else "destroy", text)
            elif worker.state is WorkerState.STOPPED and then == "destroy":
                self._book.act("destroy", worker, why, text)

    def _end_when_drained(self, worker: WorkerFact) -> None:
        assert worker.drain is not None
        done = drain.progress(worker, self._policy, self._now)
        if not done.done:
            return
        text = f"drained in {done.waited_s:.0f} s" + (f", cut short with {done.inflight} in flight" if done.cut_short else "")
        self._book.act(worker.drain.then, worker, worker.drain.why, text)

    def _drain(self, worker: WorkerFact, why: Why, then: Then, text: str) -> None:
        self._book.act("drain", worker, why, text, then)

    def _cancel(self, worker: WorkerFact, why: Why, then: Then, text: str) -> None:
        """End who does not serve yet. Whose machine runs may become ready, and get a request, before an order could reach it: it is shown
        as draining first.
        """
        if worker.state in COMING and worker.instance_state == "running":
            self._drain(worker, why, then, text)
        else:
            self._book.act(then, worker, why, text)

    def _counting(self, wanted: Want) -> tuple[Shares, Buyer]:
        """Shares and buyer of this wish; the plan has one."""
        if self._counters is None or self._counters[0] is not wanted:
            shares = Shares(self._standings, [*self._counted(), *self._rebooted], wanted.hot)
            self._counters = wanted, shares, Buyer(self._scene, self._standings, self._book, shares)
        return self._counters[1], self._counters[2]

    def _counted(self) -> list[WorkerFact]:
        """Hot workers that stay."""
        out = self._book.touched | self._leaving
        return [w for w in self._roster.hot if w.worker_id not in out] if out else self._roster.hot

    def _is_out(self, worker: WorkerFact) -> bool:
        return worker.worker_id in self._leaving or worker.worker_id in self._book.touched

    def _perfs(self, workers: list[WorkerFact]) -> dict[WorkerId, float]:
        """Units per second of each; 0: nobody knows."""
        of_group = {group_id: here.perf or 0.0 for group_id, here in self._standings.items()}
        return {w.worker_id: w.perf if w.perf > 0 else of_group.get(w.group_id, 0.0) for w in workers}

    def _is_stale(self, worker: WorkerFact) -> bool:
        """Out of date, and its successor may come. While the new revision is halted the old one is what works."""
        here = self._standings.get(worker.group_id)
        return here is not None and self._roster.is_stale(worker) and not here.halted

    def _is_leaving(self, worker: WorkerFact) -> bool:
        return worker.worker_id in self._leaving

    def _is_takeable(self, worker: WorkerFact) -> bool:
        return (
            worker.drain is not None
            and not worker.drain.unready  # it does not serve, and is gone in seconds
            and worker.drain.why is not Why.SHARE  # it makes room for one of another group
            and worker.worker_id not in self._book.touched
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


def _leaving(living: list[WorkerFact], standings: Mapping[GroupId, Standing]) -> set[WorkerId]:
    """Who goes whatever the load: their machine is about to be taken back, or a newer revision works."""
    leaving = {worker.worker_id for worker in living if worker.gone_at is not None}
    oldest = {group_id: here.oldest_revision for group_id, here in standings.items() if not here.halted}
    if max(oldest.values(), default=1) > 1:
        leaving.update([worker.worker_id for worker in living if worker.revision < oldest.get(worker.group_id, 0)])
    return leaving
