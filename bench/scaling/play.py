"""Play one case. Runs in processes of its own."""

from __future__ import annotations

from functools import cache

from bench.scaling import cases
from bench.scaling.cases import Case, Played
from sim import cold_pools, traces
from sim.corral_policy import CorralEngine
from sim.fleet import Tier
from sim.machines import CREATE, Machine
from sim.peers import peer
from sim.peers.vast import DocumentedColdPool
from sim.policy import ColdPool, Policy, PoolFacts
from sim.run import run
from sim.service import FixedRate, ProcessorSharing
from sim.workload import SECOND_US, Workload

SERVICES = {cases.FIXED: FixedRate, cases.SHARING: ProcessorSharing}
#: Where workers come up in minutes, decisions are made more slowly too.
NEW_INTERVAL_S = 5.0


@cache
def workload(trace: str, first_h: float = 0.0) -> Workload:
    whole = traces.load(trace)
    return whole.prefix(first_h) if first_h else whole


def policy(case: Case, load: Workload) -> Policy:
    """Raises KeyError when there is no such policy."""
    if case.policy != cases.OURS:
        return peer(case.policy).at(PoolFacts.of(load), case.knob)
    if case.tier == cases.NEW:
        billed = 1 - Machine().creating_share
        return CorralEngine(load, interval_s=NEW_INTERVAL_S, lead_s=CREATE.mean_s, billed_share=billed)
    return CorralEngine(load)


def cold_pool(case: Case, load: Workload) -> ColdPool | None:
    if case.tier != cases.TRI:
        return None
    if case.pool == cases.LEARNED:
        from sim.corral_policy import LearnedColdPool

        return LearnedColdPool(load)
    if case.pool == cases.DOCUMENTED:
        return DocumentedColdPool()
    return cold_pools.HighestOfDay() if case.pool == cases.DAY else cold_pools.Everything(load.max_workers)


def play(case: Case) -> Played:
    load = workload(case.trace, case.first_h)
    result = run(
        load,
        policy(case, load),
        tier=Tier(case.tier),
        seed=case.seed,
        pool=cold_pool(case, load),
        service=SERVICES[case.service],
    )
    return Played(case, result, load.end_us / SECOND_US / 3600)
