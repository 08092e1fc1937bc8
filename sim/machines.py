"""What a worker costs, how long it takes to come, and how it breaks.

    ABSENT -> CREATING -> LOADING -> READY <-> DRAINING -> STOPPED or ABSENT
                 STOPPED -> STARTING -> READY

Billed as the GPU markets bill: nothing while the machine is being made, the full price from loading to the end of draining,
storage as long as it exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from . import chance
from .chance import Draw
from .workload import SECOND_US


class State(IntEnum):
    ABSENT = 0
    STOPPED = 1
    CREATING = 2  #: exists at the provider, not yet billed for its GPU
    LOADING = 3
    STARTING = 4  #: from STOPPED
    READY = 5
    DRAINING = 6
    EVICTED = 7  #: the provider gave notice: finishes what it can until its time is up


#: Billed at the price of the GPU.
HOT = frozenset({State.LOADING, State.STARTING, State.READY, State.DRAINING, State.EVICTED})


@dataclass(frozen=True, slots=True)
class Boot:
    """One way to become ready: a clipped log-normal time, and how it fails."""

    median_s: float
    sigma: float
    shortest_s: float
    longest_s: float
    failure_rate: float
    failure_after_s: float  #: how long a failing start takes to be seen as failed

    @property
    def mean_s(self) -> float:
        """Mean time of a start that succeeds: of the log-normal, clipped at both ends."""
        if self.sigma == 0:
            return min(max(self.median_s, self.shortest_s), self.longest_s)
        low = math.log(self.shortest_s / self.median_s) / self.sigma
        high = math.log(self.longest_s / self.median_s) / self.sigma
        below, above = chance.normal_share(low), 1 - chance.normal_share(high)
        between = chance.normal_share(high - self.sigma) - chance.normal_share(low - self.sigma)
        unclipped_s = self.median_s * math.exp(self.sigma * self.sigma / 2)
        return self.shortest_s * below + unclipped_s * between + self.longest_s * above

    def duration_us(self, u: float) -> int:
        return round(chance.lognormal(u, self.median_s, self.sigma, self.shortest_s, self.longest_s) * SECOND_US)


RESUME = Boot(median_s=25.0, sigma=0.45, shortest_s=10.0, longest_s=60.0, failure_rate=0.02, failure_after_s=90.0)
CREATE = Boot(median_s=240.0, sigma=0.45, shortest_s=120.0, longest_s=600.0, failure_rate=0.05, failure_after_s=600.0)


@dataclass(frozen=True, slots=True)
class Machine:
    """The habits of one kind of worker."""

    resume: Boot = RESUME  #: stopped -> ready
    create: Boot = CREATE  #: absent -> ready
    creating_share: float = 0.4  #: of a creation's time, before billing begins
    crash_mtbf_s: float = 48 * 3600.0  #: mean time from ready to a crash; 0: never
    preempt_mtbf_s: float = 0.0  #: mean time from ready to the provider's notice; 0: never
    preempt_notice_s: float = 30.0  #: from the notice to the end


PERFECT = Machine(
    resume=Boot(25.0, 0.45, 10.0, 60.0, 0.0, 90.0), create=Boot(240.0, 0.45, 120.0, 600.0, 0.0, 600.0), crash_mtbf_s=0.0
)


@dataclass(frozen=True, slots=True)
class Group:
    """Workers of one kind, as a simulation knows them."""

    name: str
    perf: float  #: units per second
    slots: int
    max_workers: int
    machine: Machine = Machine()
    price: tuple[tuple[int, float], ...] = ((0, 1.0),)  #: (from microsecond, price per hot hour), the first from 0
    storage_price: float = 0.05  #: per hour of existing, as a share of the price of the first step
    offers: tuple[tuple[int, int], ...] = ()  #: (from microsecond, how many may exist); empty: as many as are wanted


def time_to_crash_us(machine: Machine, seed: int, worker: int, start: int) -> int | None:
    if machine.crash_mtbf_s <= 0:
        return None
    return round(chance.exponential(chance.unit(seed, worker, start, Draw.CRASH), machine.crash_mtbf_s) * SECOND_US)


def time_to_notice_us(machine: Machine, seed: int, worker: int, start: int) -> int | None:
    if machine.preempt_mtbf_s <= 0:
        return None
    return round(chance.exponential(chance.unit(seed, worker, start, Draw.PREEMPTION), machine.preempt_mtbf_s) * SECOND_US)


def resume_plan_us(machine: Machine, seed: int, worker: int, start: int) -> tuple[bool, int]:
    """(comes up, microseconds until it does or is seen to have failed)."""
    boot = machine.resume
    if chance.unit(seed, worker, start, Draw.RESUME_FAILS) < boot.failure_rate:
        return False, round(boot.failure_after_s * SECOND_US)
    return True, boot.duration_us(chance.unit(seed, worker, start, Draw.RESUME_TIME))


def create_plan_us(machine: Machine, seed: int, worker: int, start: int) -> tuple[bool, int, int]:
    """(comes up, microseconds of creating, microseconds of loading)."""
    boot = machine.create
    whole = boot.duration_us(chance.unit(seed, worker, start, Draw.CREATE_TIME))
    creating = round(whole * machine.creating_share)
    if chance.unit(seed, worker, start, Draw.CREATE_FAILS) < boot.failure_rate:
        return False, creating, round(boot.failure_after_s * SECOND_US)
    return True, creating, whole - creating
