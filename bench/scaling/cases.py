"""What is played: one policy on one trace under one seed, and which of these make up the benchmark."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

import msgspec

from sim.fleet import Tier
from sim.metrics import Result
from sim.peers import PEERS, Peer

OURS = "Corral"
COLD, NEW, TRI = Tier.STOPPED_POOL.value, Tier.NOTHING.value, Tier.CHOSEN.value
FIXED, SHARING = "fixed", "sharing"  # how a worker serves, see sim.service
DOCUMENTED, LEARNED, DAY, ALL = "documented", "learned", "highest of 24 h", "everything"  # rules of the stopped pool
#: The trace on which stopped pools are compared.
POOL_TRACE = "alibaba_tenant_bursty_week"
#: Who is played with a stopped pool besides ours.
POOL_PEERS = ("K8s HPA / KEDA", "Modal-like", "Vast-like (docs)")
#: Creating a worker takes minutes: an hour of traffic says nothing about who does it well.
LONG_H = 20.0


class Case(msgspec.Struct, frozen=True, kw_only=True):
    trace: str
    policy: str = OURS
    knob: float | None = None  #: None: the policy's default
    seed: int = 1
    tier: str = COLD
    pool: str = ""  #: in tier TRI: who says how many are kept stopped
    service: str = FIXED
    first_h: float = 0.0  #: only the first hours of the trace; 0: all of it

    @property
    def setting(self) -> Case:
        """The case but for its seed: what is averaged over seeds."""
        return msgspec.structs.replace(self, seed=0)


class Played(msgspec.Struct, frozen=True):
    case: Case
    result: Result
    hours: float  #: length of the workload


def default_knob(peer: Peer) -> float | None:
    """The knob's value at the default; None when the default is none of the knob's values."""
    default = list(inspect.signature(peer.make).parameters.values())[1].default
    return None if default is None else float(default)


def knobs(peer: Peer) -> list[float | None]:
    """All settings of a peer, the default first and once."""
    return [None, *(knob for knob in peer.knobs if knob != default_knob(peer))]


def of_policies(trace: str, seeds: Sequence[int], *, first_h: float = 0.0, service: str = FIXED) -> list[Case]:
    """Ours and every peer at its default."""
    names = [OURS, *(peer.name for peer in PEERS)]
    return [Case(trace=trace, policy=name, seed=seed, first_h=first_h, service=service) for name in names for seed in seeds]


def of_knobs(trace: str, tier: str) -> list[Case]:
    """Every setting of every peer, under the first seed."""
    return [Case(trace=trace, policy=peer.name, knob=knob, tier=tier) for peer in PEERS for knob in knobs(peer)]


def of_new_workers(trace: str, seeds: Sequence[int]) -> list[Case]:
    """Ours and every peer at its default; the knobs come when it is known which are worth playing."""
    peers = [Case(trace=trace, policy=peer.name, tier=NEW) for peer in PEERS]
    return [*(Case(trace=trace, seed=seed, tier=NEW) for seed in seeds), *peers]


def of_stopped_pools(trace: str, seeds: Sequence[int]) -> list[Case]:
    ours = [Case(trace=trace, seed=seed, tier=TRI, pool=pool) for pool in (DOCUMENTED, LEARNED) for seed in seeds]
    ours += [Case(trace=trace, tier=TRI, pool=pool) for pool in (DAY, ALL)]
    return ours + [Case(trace=trace, policy=name, tier=TRI, pool=pool) for name in POOL_PEERS for pool in (DOCUMENTED, DAY)]


def distinct(cases: Iterable[Case]) -> list[Case]:
    return list(dict.fromkeys(cases))
