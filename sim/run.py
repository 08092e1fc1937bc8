"""One policy on one workload: from the first tick to the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import metrics
from .fleet import Tier
from .ledger import HOUR_US
from .machines import HOT, Group, Machine, State
from .metrics import Result
from .observation import Target
from .policy import ColdPool, FleetPolicy, OneGroup, Policy
from .service import FixedRate, Service
from .simulation import GIVE_UP_US, Simulation
from .workload import SECOND_US, Workload

#: What is left at the end of a workload is served during so long, and billed at full use to everybody.
TAIL_US = 600 * SECOND_US


def one_group(workload: Workload, machine: Machine | None = None) -> tuple[Group, ...]:
    """The reference pool of a workload: equal workers, at a constant price of 1."""
    return (
        Group(
            name="workers",
            perf=workload.perf,
            slots=workload.slots,
            max_workers=workload.max_workers,
            machine=machine or Machine(),
        ),
    )


def run(
    workload: Workload,
    policy: Policy,
    *,
    tier: Tier = Tier.STOPPED_POOL,
    seed: int = 1,
    machine: Machine | None = None,
    pool: ColdPool | None = None,
    service: Callable[[Sequence[float], Sequence[Group]], Service] = FixedRate,
    give_up_us: int = GIVE_UP_US,
    record: bool = False,
) -> Result:
    """Play a policy for one group of equal workers. `pool` is for Tier.CHOSEN; it begins with five workers."""
    world = Simulation(
        workload,
        one_group(workload, machine),
        tier=tier,
        seed=seed,
        service=service,
        give_up_us=give_up_us,
        initial=(Target(workload.initial_workers, 5 if tier is Tier.CHOSEN else None),),
        record=record,
    )
    return play(world, OneGroup(policy, pool), workload)


def play(world: Simulation, policy: FleetPolicy, workload: Workload) -> Result:
    """Let the policy decide at each of its ticks until the workload ends; then finish what is left.

    The policy's wish is held to the workload's min_workers and max_workers, over all groups of the fleet.
    """
    end_us = workload.end_us
    interval_us = round(policy.interval_s * SECOND_US)
    flaps = _Flaps()
    now_us = 0
    while now_us < end_us:
        now_us = min(now_us + interval_us, end_us)
        world.advance(now_us)
        targets = policy.decide(world.observe())
        if len(targets) == 1:
            hot = max(workload.min_workers, min(targets[0].hot, workload.max_workers))
            if hot != targets[0].hot:
                targets = (Target(hot, targets[0].total),)
        else:
            hot = sum([target.hot for target in targets])
        flaps.add(hot)
        world.apply(targets)
    return _settle(world, workload, flaps.count)


class _Flaps:
    """Counts reversals of direction."""

    def __init__(self) -> None:
        self.count = 0
        self._last: int | None = None
        self._rising: bool | None = None

    def add(self, wanted: int) -> None:
        if wanted == self._last:
            return
        if self._last is not None:
            rising = wanted > self._last
            if self._rising is not None and rising is not self._rising:
                self.count += 1
            self._rising = rising
        self._last = wanted


def _settle(world: Simulation, workload: Workload, flaps: int) -> Result:
    fleet, ledger = world.fleet, world.fleet.ledger
    ledger.settle(world.now_us)
    hot_h, stopped_h, creating_h = ledger.hours(*HOT), ledger.hours(State.STOPPED), ledger.hours(State.CREATING)
    cost, slot_h, busy_us = ledger.cost(), ledger.slot_hours(), world.busy_us
    starts, creations, stops = fleet.starts, fleet.creations, fleet.stops
    # The tail: whoever is there stays, and at least one worker, until what is left has been served.
    staying = [sum(count[state] for state in _STAYS) for count in ledger.count]
    staying[0] = max(staying[0], 1)
    world.apply([Target(hot) for hot in staying])
    world.advance(world.now_us + TAIL_US)
    left_h = (world.busy_us - busy_us) / HOUR_US / workload.slots
    p50, p95, p99 = metrics.quantiles_s(world.wait_us, 0.5, 0.95, 0.99)
    return Result(
        requests=len(world.wait_us),
        attainment=metrics.attainment(world.wait_us),
        wait_p50_s=p50,
        wait_p95_s=p95,
        wait_p99_s=p99,
        rejected=metrics.rejected(world.wait_us),
        overdue=metrics.overdue(world.wait_us, world.give_up_us),
        hot_h=hot_h + left_h,
        stopped_h=stopped_h,
        creating_h=creating_h,
        cost=cost + left_h,
        starts=starts,
        creations=creations,
        failed_boots=fleet.failed_boots,
        stops=stops,
        crashes=fleet.crashes,
        preemptions=fleet.preemptions,
        no_offers=fleet.no_offers,
        flaps=flaps,
        utilisation=busy_us / HOUR_US / slot_h if slot_h else 0.0,
        digest=world.digest(),
    )


_STAYS = (State.CREATING, State.LOADING, State.STARTING, State.READY)
