"""What one decision about an endpoint of a hundred workers costs, as production decides: the endpoint's whole state in, a decision out.

CPU seconds of this thread. Each moment of a run is decided anew in several passes over the whole run, a few times in a row, and of each
decision the quickest try counts: neighbours on the same core can only slow it down.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

import msgspec

from bench.decide_world import World
from scaler import decide, memory, observations
from scaler.scene import Scene
from scaler.types import EndpointState, Policy

GROUPS, WORKERS = 3, 100
PASSES, TIMES = 10, 2
#: Units per second: where the load begins and turns, and how far it falls. At its top it asks for every worker that there may be.
TOP, SWING = 8100.0, 2600.0


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds of each decision."""

    whole_s: list[float]
    engine_s: list[float]  #: the engine and what it reads
    once_s: list[float]  #: every first try of every pass, whole
    loop_s: list[float]  #: of a fixed loop beside them
    workers: int  #: at every decision at least so many
    acting: int  #: decisions with actions
    state_bytes: int

    @property
    def rest_s(self) -> list[float]:
        return [took - opinion for took, opinion in zip(self.whole_s, self.engine_s, strict=True)]


def cpu_s(run: Callable[[], object], *, times: int = 1) -> tuple[float, object]:
    """CPU seconds that it took, and its answer. What is pure may be done several times: the quickest was disturbed least."""
    took = []
    for _ in range(times):
        before = time.thread_time_ns()
        answer = run()
        took.append(time.thread_time_ns() - before)
    return min(took) / 1e9, answer


def measure(policy: Policy, ticks: int) -> Cost:
    """Lets the load go down and up, so that some decisions act. Begins when all workers exist; none is ever destroyed."""
    world = World(1, groups=GROUPS, max_workers=WORKERS, policy=policy)
    for _ in range(60):
        world.passes(TOP)
        world.obeys(world.decides().actions)
    moments, acting, workers = [], 0, []
    for tick in range(ticks):
        world.passes(TOP - SWING / 2 * (1 - math.cos(tick / 40)))
        world.fold(observations.Ticked(at=world.now))
        moments.append((world.state, world.now))
        decision = decide.decide(world.state, policy, world.now)
        acting += bool(decision.actions)
        workers.append(len(world.state.workers))
        world.fold(observations.DecisionTaken(at=world.now, decision=decision, recorded=bool(decision.actions)))
        world.obeys(decision.actions)

    def of_engine(state_then: EndpointState, now: float) -> object:
        return decide.ENGINES[policy.name](Scene(state_then, policy, now))

    whole, engine, once, loop = [math.inf] * ticks, [math.inf] * ticks, [], []
    for _ in range(PASSES):
        for n, (state_then, now) in enumerate(moments):
            decides = functools.partial(decide.decide, state_then, policy, now)
            once.append(cpu_s(decides)[0])
            whole[n] = min(whole[n], once[-1], cpu_s(decides, times=TIMES - 1)[0])
            engine[n] = min(engine[n], cpu_s(functools.partial(of_engine, state_then, now), times=TIMES)[0])
            loop.append(cpu_s(fixed_loop)[0])
    return Cost(
        whole_s=whole,
        engine_s=engine,
        once_s=once,
        loop_s=loop,
        workers=min(workers),
        acting=acting,
        state_bytes=len(memory.dump(world.state)),
    )


def fixed_loop() -> int:
    return sum([n * n for n in range(1000)])


def quantile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
