"""The same question has the same answer, and the answers look like chance."""

import math

import numpy as np

from sim import chance
from sim.chance import Draw


def test_the_mixer_is_the_published_one():
    # Reference values of splitmix64: the generator seeded with 1234567 mixes 1234567 + k * golden gamma.
    gamma = 0x9E3779B97F4A7C15
    assert [chance.mix(1234567 + k * gamma) for k in (1, 2, 3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_arrays_and_scalars_agree_bit_for_bit():
    array = chance.units(7, 3, 1000, first=5)
    assert array.tolist() == [chance.unit(7, 3, k, 0) for k in range(5, 1005)]


def test_answers_are_uniform_and_independent_of_their_neighbours():
    answers = np.array([chance.unit(1, worker, start, Draw.RESUME_TIME) for worker in range(100) for start in range(200)])
    assert 0 < answers.min() < answers.max() < 1
    assert abs(answers.mean() - 0.5) < 0.01
    assert abs(answers.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(answers[1:], answers[:-1])[0, 1]) < 0.02


def test_boot_times_have_the_asked_for_distribution():
    times = np.array([chance.lognormal(chance.unit(1, w, 0, 1), 25.0, 0.45, 10.0, 60.0) for w in range(5000)])
    assert times.min() >= 10
    assert times.max() <= 60
    assert abs(float(np.median(times)) - 25.0) < 0.6
    assert abs(times.mean() - 27.3) < 0.5


def test_exponential_times_have_the_asked_for_mean():
    times = [chance.exponential(chance.unit(1, w, 0, 5), 48.0) for w in range(5000)]
    assert math.isclose(sum(times) / len(times), 48.0, rel_tol=0.05)
