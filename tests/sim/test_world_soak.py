"""Days of everything at once, for `make soak-sim`. SOAK is how many simulated hours each seed gets; without it nothing runs here."""

from __future__ import annotations

import os

import pytest

from sim.weather import Weather
from sim.world import Kind, group

HOURS = float(os.environ.get("SOAK", "0"))
SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "1,2,3,4").split(",")]


@pytest.mark.skipif(not HOURS, reason="make soak-sim runs it")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", SEEDS)
def test_days_of_everything_at_once(tell, seed):
    seen = {}

    async def story(world):
        chat = await world.operator.create("chat", group(1), group(2, tier=1), max_workers=8, inactivity_timeout=60)
        draw = await world.operator.create("draw", group(3, weight=80.0), group(4, weight=20.0), max_workers=5, cold_workers=2)

        def rate(at_s):
            return 0.5 if at_s % 2400 < 1200 else 0.02

        crowds = [
            world.clients.come(chat, world.clients.poisson(rate, 0.5, 400, HOURS * 3600, sigma=0.8)),
            world.clients.come(
                draw, world.clients.poisson(lambda at_s: rate(at_s + 900) / 4, 0.13, 2000, HOURS * 3600, sigma=0.5)
            ),
        ]
        everybody = [*world.scalers, *world.routers, *world.provisioners]
        turn = iter(range(10**9))

        async def harm():
            n = next(turn)
            match n % 9:
                case 3:
                    world.broker.go_down()
                    await world.until(world.now_s + 20 + 7 * (n % 5))
                    world.broker.come_up()
                case 5 if world.market.machines:
                    await world.market.vanish(next(iter(world.market.machines)))
                case 6 if world.market.machines:
                    world.market.preempt(next(reversed(world.market.machines)), 60.0 * (n % 6))
                case 7:
                    world.market.silent = True
                    await world.until(world.now_s + 40)
                    world.market.silent = False
                case _:
                    await everybody[n % len(everybody)].crash_for(3.0 + n % 20)

        world.every(200, harm, "harm")
        await world.until(HOURS * 3600 + 600)
        seen.update(crowds=crowds)

    report = tell(
        story,
        seed=seed,
        grain_s=1.0,
        busy=0.1,
        provisioners=2,
        kinds=(Kind(create_s=40, start_s=10, fails=0.05, hangs=0.01),),
        weather=Weather(seed=seed, delay_s=(0.001, 0.15), lost=0.02, duplicated=0.05, lost_replies=0.02),
    )
    print(report)
    assert report.ended["answered"] == report.requests
