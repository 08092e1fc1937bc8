"""The workers of a simulation: how they come, go, break, and what the market does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from itertools import pairwise

from . import machines
from .events import NEVER_US, Agenda, Event, Rank
from .ledger import Ledger
from .machines import Group, State
from .observation import GroupSeen, Target
from .pool import Pool
from .worker import Worker
from .workload import SECOND_US


class Tier(Enum):
    """Where a worker that is not hot is kept."""

    STOPPED_POOL = "cold"  #: everything up to the maximum exists, stopped; scaling up is resuming
    NOTHING = "new"  #: a worker is created when wanted and destroyed when not
    CHOSEN = "tri"  #: the policy says how many to keep stopped


class Fleet:
    def __init__(
        self,
        groups: Sequence[Group],
        agenda: Agenda,
        *,
        tier: Tier,
        seed: int,
        initial: Sequence[Target] | None,
        forget: Callable[[Worker], None],
    ) -> None:
        """`forget` is called with a worker whose requests in service are lost or done, whenever it leaves the hot tier.

        Raises ValueError when a group's prices are not in order of time from 0.
        """
        self.groups = tuple(groups)
        self.tier = tier
        self.starts = self.creations = self.failed_boots = self.stops = self.crashes = self.preemptions = self.no_offers = 0
        self._agenda = agenda
        self._seed = seed
        self._forget = forget
        self.workers: list[Worker] = []
        self._first: list[int] = []  # number of each group's first worker
        for index, group in enumerate(self.groups):
            first = len(self.workers)
            self._first.append(first)
            self.workers += [Worker(number=first + i, group=index, index=i) for i in range(group.max_workers)]
        self.pools = [Pool(group.slots) for group in self.groups]
        self.ledger = Ledger(self.groups, self.workers)
        self._offers = [group.offers[0][1] if group.offers else NEVER_US for group in self.groups]
        self._seen_no_offers = [0] * len(self.groups)
        self._seen_failed = [0] * len(self.groups)
        self._plan_market()
        self._begin_with(initial)

    # --- who takes the next request ------------------------------------------------------------------------------------

    def room(self) -> Worker | None:
        """The ready worker with a free slot that has the smallest share of its slots taken; None when there is none."""
        pools = self.pools
        if len(pools) == 1:
            index = pools[0].least_busy_with_room()
            return None if index is None else self.workers[index]
        best: tuple[float, float, int] | None = None
        for group, pool in enumerate(pools):
            load = pool.least_busy_load()
            if load is not None:
                candidate = (load, -self.groups[group].perf, group)
                best = candidate if best is None else min(best, candidate)
        if best is None:
            return None
        chosen = pools[best[2]].least_busy_with_room()
        return None if chosen is None else self.workers[self._first[best[2]] + chosen]

    # --- a worker's life -------------------------------------------------------------------------------------------------

    def _set(self, worker: Worker, state: State) -> None:
        """Every change of a worker's state comes through here."""
        if worker.state is State.READY:
            self.pools[worker.group].remove(worker.index, len(worker.serving))
        if state is State.READY:
            self.pools[worker.group].add(worker.index, len(worker.serving))
        self.ledger.move(worker, state, self._agenda.now_us)

    def _begin(self, worker: Worker, state: State, first_phase_us: int) -> None:
        self.starts += 1
        self._set(worker, state)
        worker.starts += 1
        worker.boot_us = self._agenda.now_us
        worker.life += 1
        self._agenda.plan(self._agenda.now_us + first_phase_us, Rank.BOOT, worker.number, worker.life)

    def _resume(self, worker: Worker) -> None:
        machine = self.groups[worker.group].machine
        worker.comes_up, boot_us = machines.resume_plan_us(machine, self._seed, worker.number, worker.starts)
        self._begin(worker, State.STARTING, boot_us)

    def _create(self, worker: Worker) -> None:
        machine = self.groups[worker.group].machine
        plan = machines.create_plan_us(machine, self._seed, worker.number, worker.starts)
        worker.comes_up, creating_us, worker.loading_us = plan
        self.creations += 1
        self._begin(worker, State.CREATING, creating_us)

    def on_boot(self, event: Event) -> bool:
        """A phase of a start ends; True when a worker is ready now."""
        worker = self.workers[event[3]]
        if event[4] != worker.life:
            return False
        if worker.state is State.CREATING:
            self._set(worker, State.LOADING)
            self._agenda.plan(self._agenda.now_us + worker.loading_us, Rank.BOOT, worker.number, worker.life)
            return False
        if not worker.comes_up:
            self.failed_boots += 1
            self._seen_failed[worker.group] += 1
            self._leave(worker, State.STOPPED if worker.state is State.STARTING else State.ABSENT)
            return False
        self._set(worker, State.READY)
        self._plan_end(worker)
        return True

    def _plan_end(self, worker: Worker) -> None:
        """When it will crash or be taken back."""
        machine, now_us = self.groups[worker.group].machine, self._agenda.now_us
        crash_us = machines.time_to_crash_us(machine, self._seed, worker.number, worker.starts)
        if crash_us is not None:
            self._agenda.plan(now_us + crash_us, Rank.CRASH, worker.number, worker.life, _CRASHES)
        notice_us = machines.time_to_notice_us(machine, self._seed, worker.number, worker.starts)
        if notice_us is not None:
            self._agenda.plan(now_us + notice_us, Rank.CRASH, worker.number, worker.life, _NOTICE)

    def on_crash(self, event: Event) -> list[int]:
        """A worker breaks, or its provider wants it back; the requests that it was serving and has lost."""
        worker, what = self.workers[event[3]], event[5]
        if event[4] != worker.life:
            return []
        if what == _NOTICE:
            self._set(worker, State.EVICTED)
            notice_us = round(self.groups[worker.group].machine.preempt_notice_s * SECOND_US)
            self._agenda.plan(self._agenda.now_us + notice_us, Rank.CRASH, worker.number, worker.life, _TAKEN)
            self.retire_if_idle(worker)
            return []
        lost = list(worker.serving)
        if worker.state is State.EVICTED:
            self.preemptions += 1
            self._leave(worker, State.ABSENT)
        else:
            self.crashes += 1
            self._leave(worker, State.ABSENT if self.tier is Tier.NOTHING else State.STOPPED)
        return lost

    def retire_if_idle(self, worker: Worker) -> None:
        """A worker that is on its way out and serves nothing any more stops, or goes."""
        if worker.serving:
            return
        if worker.state is State.EVICTED:
            self.preemptions += 1
            self._leave(worker, State.ABSENT)
        elif worker.state is State.DRAINING:
            self.stops += 1
            self._leave(worker, State.ABSENT if self.tier is Tier.NOTHING else State.STOPPED)

    def _leave(self, worker: Worker, state: State) -> None:
        """Out of the hot tier; whatever was planned for it no longer holds."""
        self._set(worker, state)
        worker.life += 1
        worker.serving.clear()
        self._forget(worker)

    # --- what a policy asks for --------------------------------------------------------------------------------------------

    def steer(self, targets: Sequence[Target]) -> None:
        """Bring each group towards its target. Raises ValueError when there is not one target per group."""
        for group, target in zip(range(len(self.groups)), targets, strict=True):
            self._steer(group, target)

    def _steer(self, group: int, target: Target) -> None:
        tier, count, most = self.tier, self.ledger.count[group], self.groups[group].max_workers
        hot = min(max(target.hot, 0), most)
        new = count[_CREATING] + count[_LOADING]
        active = count[_READY] + count[_STARTING] + (new if tier is Tier.NOTHING else 0)
        lacking = 0
        if active < hot:
            lacking = self._grow(group, hot - active)
        elif active > hot:
            self._shrink(group, active - hot)
        if tier is Tier.STOPPED_POOL:
            return
        if tier is Tier.NOTHING:
            self._buy(group, lacking)
        else:
            existing = most - count[_ABSENT]
            total = min(max(hot, existing if target.total is None else target.total), most)
            # Create what the pool lacks, or what the hot tier lacks and the pool cannot give.
            self._buy(group, max(total - existing, lacking - new))
            self._discard(group, existing - total)

    def _in_state(self, group: int, state: State) -> list[Worker]:
        if not self.ledger.count[group][state]:
            return []
        first = self._first[group]
        members = self.workers[first : first + self.groups[group].max_workers]
        return [worker for worker in members if worker.state is state]

    def _grow(self, group: int, lacking: int) -> int:
        """Take back draining workers, then resume stopped ones; returns how many are still lacking."""
        for worker in self._in_state(group, State.DRAINING)[:lacking]:
            self._set(worker, State.READY)
            lacking -= 1
        for worker in self._in_state(group, State.STOPPED)[:lacking]:
            self._resume(worker)
            lacking -= 1
        return lacking

    def _shrink(self, group: int, surplus: int) -> None:
        """Cancel what is not there yet, newest first; then let go of the least busy."""
        cancelled = (State.CREATING, State.LOADING, State.STARTING) if self.tier is Tier.NOTHING else (State.STARTING,)
        for state in cancelled:
            coming = sorted(self._in_state(group, state), key=lambda worker: (-worker.boot_us, -worker.number))
            for worker in coming[:surplus]:
                self.stops += 1
                self._leave(worker, State.STOPPED if state is State.STARTING else State.ABSENT)
                surplus -= 1
        while surplus:
            index = self.pools[group].first_to_go()
            if index is None:
                return
            worker = self.workers[self._first[group] + index]
            self._set(worker, State.DRAINING)
            self.retire_if_idle(worker)
            surplus -= 1

    def _buy(self, group: int, wanted: int) -> None:
        if wanted <= 0:
            return
        existing = self.groups[group].max_workers - self.ledger.count[group][State.ABSENT]
        for worker in self._in_state(group, State.ABSENT)[:wanted]:
            if existing >= self._offers[group]:
                self.no_offers += 1
                self._seen_no_offers[group] += 1
            else:
                existing += 1
                self._create(worker)

    def _discard(self, group: int, surplus: int) -> None:
        """Destroy stopped workers, highest number first."""
        if surplus > 0:
            for worker in self._in_state(group, State.STOPPED)[::-1][:surplus]:
                self._leave(worker, State.ABSENT)

    # --- the market -------------------------------------------------------------------------------------------------------

    def _plan_market(self) -> None:
        for group, spec in enumerate(self.groups):
            if spec.price[0][0] != 0 or any(later[0] <= earlier[0] for earlier, later in pairwise(spec.price)):
                raise ValueError(f"group {spec.name}: prices must be in order of time and begin at 0")
            for step in range(1, len(spec.price)):
                self._agenda.plan(spec.price[step][0], Rank.MARKET, group, _PRICE, step)
            for step in range(1, len(spec.offers)):
                self._agenda.plan(spec.offers[step][0], Rank.MARKET, group, _OFFERS, step)

    def on_market(self, event: Event) -> None:
        group = event[3]
        if event[4] == _PRICE:
            self.ledger.settle(self._agenda.now_us)
            self.ledger.price[group] = self.groups[group].price[event[5]][1]
        else:
            self._offers[group] = self.groups[group].offers[event[5]][1]

    def _begin_with(self, initial: Sequence[Target] | None) -> None:
        for group in range(len(self.groups)):
            hot, total = initial[group] if initial is not None else Target(0)
            for worker in self._in_state(group, State.ABSENT):
                if worker.index < hot:
                    self._set(worker, State.READY)
                    self._plan_end(worker)
                elif self.tier is Tier.STOPPED_POOL or (total is not None and worker.index < total):
                    self._set(worker, State.STOPPED)

    # --- what can be seen --------------------------------------------------------------------------------------------------

    def seen(self) -> list[GroupSeen]:
        """Each group as a policy may see it. Forgets the failures that it has told."""
        groups = []
        for group, count in enumerate(self.ledger.count):
            _, stopped, creating, loading, resuming, ready, draining, evicted = count  # in the order of State
            groups.append(
                GroupSeen(
                    ready,
                    resuming + creating + loading,
                    resuming,
                    draining,
                    evicted,
                    stopped,
                    self.ledger.price[group],
                    self._offers[group],
                    self._seen_no_offers[group],
                    self._seen_failed[group],
                )
            )
            self._seen_no_offers[group] = self._seen_failed[group] = 0
        return groups


#: The states as plain numbers, for what is looked up at every tick.
_ABSENT, _CREATING, _LOADING = int(State.ABSENT), int(State.CREATING), int(State.LOADING)
_STARTING, _READY = int(State.STARTING), int(State.READY)

_CRASHES, _NOTICE, _TAKEN = 0, 1, 2  # details of a CRASH event
_PRICE, _OFFERS = 0, 1  # stamps of a MARKET event
