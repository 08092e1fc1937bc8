"""The engine scales as well as it did: on made-up traffic of three kinds, against the two cheapest peers of each."""

import pytest

from bench.scaling import gate
from bench.scaling.compare import WAIT_S
from bench.scaling.gate import GATES, Gate, judge
from sim import synthetic
from sim.peers import peer
from sim.policy import PoolFacts
from sim.run import run


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("asked", GATES, ids=lambda asked: asked.shape)
def test_the_engine_attains_as_much_and_costs_as_little(asked):
    outcome = judge(asked)
    assert outcome.attains, f"{outcome.attainment:.4f} begun within 5 s, {asked.attainment} asked"
    assert outcome.is_cheap, f"{outcome.ratio:.3f} of the hours of {outcome.against}, {asked.hours_ratio} asked"


@pytest.mark.parametrize("asked", GATES, ids=lambda asked: asked.shape)
def test_the_peers_of_a_gate_attain_what_is_asked_of_ours(asked):
    workload = synthetic.make(asked.shape, hours=asked.hours)
    for name in asked.peers:
        attained = run(workload, peer(name).at_default(PoolFacts.of(workload))).within(WAIT_S)
        assert attained >= asked.attainment, f"{name} attains {attained:.4f}: who is cheaper than that proves nothing"


class Fixed:
    """An engine that buys more and more would attain everything."""

    name, interval_s, workers = "fixed", 60.0, 0

    def __init__(self, workload):
        self.most = workload.max_workers

    def decide(self, seen):
        return min(self.workers, self.most)


@pytest.mark.parametrize("workers,attains,is_cheap", [(48, True, False), (4, False, True)])
def test_the_gate_catches_who_buys_too_much_and_who_buys_too_little(monkeypatch, workers, attains, is_cheap):
    monkeypatch.setattr(gate, "CorralEngine", Fixed)
    monkeypatch.setattr(Fixed, "workers", workers)
    outcome = judge(Gate("steady", 0.3, ("AIBrix APA", "Vast-like (docs)"), attainment=0.95, hours_ratio=1.0))
    assert (outcome.attains, outcome.is_cheap) == (attains, is_cheap)
    attainment, cost = outcome.lines()
    assert f'"ok":{str(attains).lower()}' in attainment
    assert f'"ok":{str(is_cheap).lower()}' in cost
