"""A scaling policy, as the simulator runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .observation import Observation, Target
from .workload import Workload


class PoolFacts(NamedTuple):
    """What an operator knows of a pool before the first request."""

    slots: int  #: requests a worker serves at once
    min_workers: int
    max_workers: int
    mean_service_s: float  #: how long a request holds a slot, from a benchmark

    @classmethod
    def of(cls, workload: Workload) -> PoolFacts:
        return cls(workload.slots, workload.min_workers, workload.max_workers, workload.mean_service_s)


class Policy(Protocol):
    """Says how many workers of the one group should be hot. Called every `interval_s`; may keep state, may not look at a clock."""

    @property
    def name(self) -> str: ...

    @property
    def interval_s(self) -> float: ...

    def decide(self, seen: Observation) -> int: ...


class FleetPolicy(Protocol):
    """The same for several groups, or for a policy that also chooses how many workers are kept stopped."""

    @property
    def name(self) -> str: ...

    @property
    def interval_s(self) -> float: ...

    def decide(self, seen: Observation) -> Sequence[Target]: ...


class ColdPool(Protocol):
    """Says how many workers of the one group should exist, hot and stopped together."""

    def total(self, now_s: float, hot: int) -> int: ...


class OneGroup:
    """A policy for one group, as a fleet policy; `pool` decides how many are kept stopped, if anything does."""

    def __init__(self, policy: Policy, pool: ColdPool | None = None) -> None:
        self._policy = policy
        self._pool = pool
        self.name = policy.name
        self.interval_s = policy.interval_s

    def decide(self, seen: Observation) -> Sequence[Target]:
        hot = self._policy.decide(seen)
        return (Target(hot, None if self._pool is None else self._pool.total(seen.now_s, hot)),)


class Fixed:
    """Always so many."""

    name = "fixed"
    interval_s = 60.0

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def decide(self, seen: Observation) -> int:  # noqa: ARG002
        return self._workers
