"""The same inputs give the same waits and the same events, in any process."""

import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from sim import synthetic
from sim.machines import Machine
from sim.policy import Fixed
from sim.run import run
from sim.service import FixedRate, ProcessorSharing

PROGRAM = """
import hashlib
from scaler.engine import memory
from scaler.engine.constants import DEFAULT
from sim import synthetic
from sim.machines import Machine
from sim.run import run
from sim.service import FixedRate, ProcessorSharing
from sim.peers.knative import KnativeAutoscaler
from sim.corral_policy import CorralEngine
from sim.policy import PoolFacts

workload = synthetic.make("bursty", seed=3, hours=6)
machine = Machine(crash_mtbf_s=3600.0)
for service in (FixedRate, ProcessorSharing):
    print(run(workload, KnativeAutoscaler(PoolFacts.of(workload)), machine=machine, seed=2, service=service, record=True).digest)
workload = synthetic.make("steady", seed=3, hours=0.5)
opinions = hashlib.sha256()
class Told(CorralEngine):
    def decide(self, seen):
        hot = super().decide(seen)
        opinions.update(repr(self.opinion).encode())
        return hot
engine = Told(workload)
print(run(workload, engine, machine=machine, seed=2, record=True).digest)
print(opinions.hexdigest(), hashlib.sha256(memory.pack(engine.memory, DEFAULT)).hexdigest())
"""


@cache
def digests(hash_seed: str, **more: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, **more}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_two_processes_and_two_hash_seeds_give_the_same_digest():
    first, second = digests("0"), digests("4242")
    assert first == second
    assert len(set(first.split())) == 5


def test_another_processor_gives_the_same_opinions_to_the_last_bit():
    """A decision is checked again on whatever machine the operator sits at: numpy and BLAS choose their code by the processor."""
    umath = np._core._multiarray_umath
    extras = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]
    poorer = digests("0", NPY_DISABLE_CPU_FEATURES=" ".join(extras), OPENBLAS_CORETYPE="Prescott")
    assert poorer == digests("0")


@pytest.mark.parametrize("service", [FixedRate, ProcessorSharing])
def test_another_seed_gives_another_history(service):
    workload = synthetic.make("steady", hours=0.5)
    machine = Machine(crash_mtbf_s=900.0)
    results = [run(workload, Fixed(9), seed=seed, machine=machine, service=service, record=True) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0].digest != results[2].digest


def test_synthetic_workloads_do_not_change():
    """A changed generator would silently change every figure made from it."""
    found = {name: synthetic.make(name, hours=min(shape.hours, 24)) for name, shape in synthetic.SHAPES.items()}
    facts = {name: (len(made.units), int(made.arrival_us.sum()) % 10**9, int(made.units.sum())) for name, made in found.items()}
    assert facts == {
        "steady": (12292, 137550000, 151637974),
        "diurnal": (32516, 784376000, 33322824),
        "bursty": (24459, 749200000, 14326855),
        "sparse": (1714, 853625000, 1700653),
        "first_burst": (10054, 717580000, 20341972),
    }
