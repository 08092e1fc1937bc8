"""A pool of workers and one queue, event by event.

Requests wait in one first-come-first-served queue and are bound to a worker as late as possible: to the least busy one with a
free slot. That is better than any real router, and equally so for every scaling policy that is compared.

    world = Simulation(workload, groups, tier=Tier.STOPPED_POOL, seed=1)
    world.advance(to_us); world.observe(); world.apply(targets)     # again and again
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop

from .events import NEVER_US, Agenda, Event, Rank
from .fleet import Fleet, Tier
from .machines import Group, State
from .observation import Observation, Target
from .service import FixedRate, Service
from .worker import Worker
from .workload import SECOND_US, Workload

GIVE_UP_US = 300 * SECOND_US
#: In `wait_us`: the request has not started; it was given up.
PENDING, REJECTED = -1, NEVER_US
#: Ranks as plain numbers, for what is looked up at every event.
_COMPLETION, _ARRIVAL, _TICK = int(Rank.COMPLETION), int(Rank.ARRIVAL), int(Rank.TICK)


class Simulation:
    def __init__(
        self,
        workload: Workload,
        groups: Sequence[Group],
        *,
        tier: Tier,
        seed: int,
        service: Callable[[Sequence[float], Sequence[Group]], Service] = FixedRate,
        give_up_us: int = GIVE_UP_US,
        initial: Sequence[Target] | None = None,
        record: bool = False,
    ) -> None:
        """`initial`: workers at the beginning, ready (hot) and stopped; `record`: keep the event log for `digest`."""
        self.units: list[float] = workload.units.tolist()
        self.arrival_us: list[int] = workload.arrival_us.tolist()
        self.wait_us = [PENDING] * len(self.arrival_us)
        self.completed = 0
        self._service = service(self.units, groups)
        self._agenda = Agenda()
        self.fleet = Fleet(groups, self._agenda, tier=tier, seed=seed, initial=initial, forget=self._service.stop)
        self._service_us: list[int] = workload.service_us.tolist()
        self.give_up_us = give_up_us
        self._log = array("q") if record else None

        self._next_arrival = (self.arrival_us[0], _ARRIVAL, 0)
        self._queue: deque[int] = deque()  # requests waiting; those given up are skipped when they come to the front
        self._queued_at_us = [PENDING] * len(self.arrival_us)  # since when a waiting request waits
        self._waiting = 0
        self._serving = 0
        # Integrals over time of those present and of those in service: count * now - (sum of times of entry - of leaving).
        self._present_sum_us = 0
        self._serving_sum_us = 0
        self._arrived_service_us = 0
        self._told_arrivals = 0
        self._new_waits_s: list[float] = []
        self._handlers: tuple[Callable[[Event], None], ...] = (
            self._on_completion,
            self._on_boot,
            self._on_crash,
            self._on_give_up,
            self.fleet.on_market,
        )

    @property
    def now_us(self) -> int:
        return self._agenda.now_us

    def advance(self, until_us: int) -> None:
        """Let everything happen up to and at this time."""
        agenda, log = self._agenda, self._log
        heap = agenda.heap
        limit = (until_us, _TICK)
        while True:
            if heap and heap[0] < self._next_arrival:
                if heap[0] >= limit:
                    break
                event = heappop(heap)
                agenda.now_us = event[0]
                if log is not None:
                    log.extend((event[0], event[1], event[3], event[5]))
                self._handlers[event[1]](event)
            else:
                if self._next_arrival >= limit:
                    break
                self._arrive()
        agenda.now_us = until_us

    def apply(self, targets: Sequence[Target]) -> None:
        """Bring each group towards its target. Raises ValueError when there is not one target per group."""
        self.fleet.steer(targets)
        self._dispatch()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _arrive(self) -> None:
        at_us, _, request = self._next_arrival
        self._agenda.now_us = at_us
        following = request + 1
        following_us = self.arrival_us[following] if following < len(self.arrival_us) else NEVER_US
        self._next_arrival = (following_us, _ARRIVAL, following)
        self._present_sum_us += at_us
        self._arrived_service_us += self._service_us[request]
        worker = None if self._waiting else self.fleet.room()
        if worker is None:
            self._queue.append(request)
            self._wait(request)
        else:
            self._start(request, worker)

    def _wait(self, request: int) -> None:
        """Patience begins anew for who was in service when the worker crashed; `metrics.overdue` counts whom that saves."""
        now_us = self._agenda.now_us
        self._waiting += 1
        self._queued_at_us[request] = now_us
        self._agenda.plan(now_us + self.give_up_us, Rank.GIVE_UP, request, now_us)

    def _start(self, request: int, worker: Worker) -> None:
        now_us = self._agenda.now_us
        wait_us = now_us - self.arrival_us[request]
        self.wait_us[request] = wait_us
        self._new_waits_s.append(wait_us / SECOND_US)
        busy = len(worker.serving)
        worker.serving[request] = None
        self.fleet.pools[worker.group].move(worker.index, busy, busy + 1)
        self._serving += 1
        self._serving_sum_us += now_us
        due_us, stamp, first = self._service.begin(now_us, worker, request)
        self._agenda.plan(due_us, _COMPLETION, worker.number, stamp, first)

    def _dispatch(self) -> None:
        """Give waiting requests to free slots."""
        while self._waiting:
            worker = self.fleet.room()
            if worker is None:
                return
            request = self._queue.popleft()
            if self._queued_at_us[request] != PENDING:
                self._queued_at_us[request] = PENDING
                self._waiting -= 1
                self._start(request, worker)

    def _on_completion(self, event: Event) -> None:
        now_us = event[0]
        worker = self.fleet.workers[event[3]]
        request, following = self._service.finish(now_us, worker, event[4], event[5])
        if request is None:
            return
        if following is not None:
            self._agenda.plan(following[0], _COMPLETION, worker.number, following[1], following[2])
        busy = len(worker.serving)
        del worker.serving[request]
        self.completed += 1
        self._serving -= 1
        self._serving_sum_us -= now_us
        self._present_sum_us -= now_us
        if worker.state is State.READY:
            self.fleet.pools[worker.group].move(worker.index, busy, busy - 1)
            if self._waiting:
                self._dispatch()
        else:
            self.fleet.retire_if_idle(worker)

    def _on_boot(self, event: Event) -> None:
        if self.fleet.on_boot(event):
            self._dispatch()

    def _on_crash(self, event: Event) -> None:
        lost = self.fleet.on_crash(event)
        self._serving -= len(lost)
        self._serving_sum_us -= event[0] * len(lost)
        for request in sorted(lost, reverse=True):  # the oldest ends in front
            self.wait_us[request] = PENDING
            self._queue.appendleft(request)
            self._wait(request)
        if lost:
            self._dispatch()

    def _on_give_up(self, event: Event) -> None:
        request = event[3]
        if self._queued_at_us[request] != event[4]:
            return
        self._queued_at_us[request] = PENDING
        self.wait_us[request] = REJECTED
        self._new_waits_s.append(float("inf"))
        self._waiting -= 1
        self._present_sum_us -= event[0]

    # --- what can be seen ---------------------------------------------------------------------------------------------

    def observe(self) -> Observation:
        """What a policy may know now. Call once per tick: it forgets what it has told."""
        now_us, front = self._agenda.now_us, self._queue
        while front and self._queued_at_us[front[0]] == PENDING:
            front.popleft()
        waiting, serving = self._waiting, self._serving
        told, arrived = self._told_arrivals, self._next_arrival[2]
        self._told_arrivals = arrived
        waits_s, self._new_waits_s = self._new_waits_s, []
        groups = self.fleet.seen()
        ready, coming = groups[0].ready, groups[0].coming
        for group in groups[1:]:
            ready, coming = ready + group.ready, coming + group.coming
        return Observation(
            now_s=now_us / SECOND_US,
            ready=ready,
            coming=coming,
            waiting=waiting,
            serving=serving,
            oldest_wait_s=(now_us - self.arrival_us[front[0]]) / SECOND_US if front else 0.0,
            present_s=((waiting + serving) * now_us - self._present_sum_us) / SECOND_US,
            arrived=arrived,
            arrived_s=self._arrived_service_us / SECOND_US,
            new_units=self.units[told:arrived],
            waits_s=waits_s,
            groups=groups,
        )

    @property
    def present(self) -> int:
        """Requests waiting or in service."""
        return self._waiting + self._serving

    @property
    def busy_us(self) -> int:
        """Integral of requests in service over time, in request-microseconds."""
        return self._serving * self._agenda.now_us - self._serving_sum_us

    def digest(self) -> str:
        """SHA-256 over all waits and, when recorded, the event log."""
        sha = hashlib.sha256(array("q", self.wait_us).tobytes())
        if self._log is not None:
            sha.update(self._log.tobytes())
        return sha.hexdigest()
