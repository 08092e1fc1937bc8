"""The regression gate: ours against two peers on made-up traffic, in under a minute. `make bench-scaling-gate`; also part of make test.

Everything is deterministic, so the figures move only when the engine, the simulator or the generator of traffic does. Each workload
asks for an attainment, and for hot hours that are at most a share of those of the cheaper peer that attains as much. Where the
engine got better, make the numbers in GATES harder: they are what it reached, with a little room.

An engine that simply buys more passes the first and fails the second; when it attains more than both peers, the one that attains
most is what it is compared with.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import msgspec

from bench.scaling.compare import WAIT_S
from sim import synthetic
from sim.corral_policy import CorralEngine
from sim.peers import peer
from sim.policy import PoolFacts
from sim.run import run


class Gate(NamedTuple):
    shape: str
    hours: float
    peers: tuple[str, str]  #: the two cheapest that attain as much as ours at their defaults
    attainment: float  #: at least
    hours_ratio: float  #: ours / the cheaper peer's, at most


GATES = (
    Gate("steady", 1, ("Dynamo planner (thr.+load)", "Vast-like (docs)"), attainment=0.968, hours_ratio=1.01),
    Gate("bursty", 8, ("K8s HPA / KEDA", "Ray Serve"), attainment=0.945, hours_ratio=0.76),
    Gate("diurnal", 10, ("AIBrix APA", "Baseten-like"), attainment=0.93, hours_ratio=0.89),
)


class Outcome(NamedTuple):
    gate: Gate
    attainment: float
    hot_h: float
    against: str
    against_h: float

    @property
    def ratio(self) -> float:
        return self.hot_h / self.against_h

    @property
    def attains(self) -> bool:
        return self.attainment >= self.gate.attainment

    @property
    def is_cheap(self) -> bool:
        return self.ratio <= self.gate.hours_ratio

    def lines(self) -> list[str]:
        """As JSON."""
        name, gate = f"scaling_gate.{self.gate.shape}", self.gate
        attained = {"bench": f"{name}.attainment", "value": round(self.attainment, 4), "unit": "share within 5 s", "vs": ""}
        cost = {"bench": f"{name}.hot_h", "value": round(self.ratio, 4), "unit": "ours / theirs", "vs": self.against}
        parts = ((attained, gate.attainment, self.attains), (cost, gate.hours_ratio, self.is_cheap))
        return [msgspec.json.encode({**found, "bar": bar, "ok": ok}).decode() for found, bar, ok in parts]


def judge(gate: Gate) -> Outcome:
    workload = synthetic.make(gate.shape, hours=gate.hours)
    ours = run(workload, CorralEngine(workload))
    attainment = ours.within(WAIT_S)
    theirs = {name: run(workload, peer(name).at_default(PoolFacts.of(workload))) for name in gate.peers}
    able = {name: result.hot_h for name, result in theirs.items() if result.within(WAIT_S) >= attainment}
    best = min(able, key=able.__getitem__) if able else max(theirs, key=lambda name: theirs[name].within(WAIT_S))
    return Outcome(gate, attainment, ours.hot_h, best, theirs[best].hot_h)


def main() -> None:
    outcomes = [judge(gate) for gate in GATES]
    for outcome in outcomes:
        print("\n".join(outcome.lines()))
    sys.exit(0 if all(outcome.attains and outcome.is_cheap for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
