"""How long machines take, and simple rules of how many to keep."""

import numpy as np
import pytest

from sim import chance
from sim.cold_pools import Everything, HighestOfDay
from sim.machines import CREATE, RESUME, Boot


@pytest.mark.parametrize(
    "boot", [RESUME, CREATE, Boot(60, 0.0, 30, 120, 0, 1), Boot(60, 0.0, 90, 120, 0, 1), Boot(30, 1.5, 20, 40, 0, 1)]
)
def test_the_mean_is_the_mean_of_the_draws(boot):
    drawn = np.mean([boot.duration_us(u) for u in chance.units(1, 1, 20_000).tolist()]) / 1e6
    assert boot.mean_s == pytest.approx(drawn, rel=0.01)


def test_pools_that_keep_everything_or_what_a_day_needed():
    assert Everything(96).total(0.0, 3) == 96
    day = HighestOfDay()
    wanted = [day.total(hours * 3600.0, hot) for hours, hot in ((0, 2), (1, 9), (2, 1), (25, 3), (25.1, 1), (60, 0))]
    assert wanted == [2, 9, 9, 9, 3, 0]
