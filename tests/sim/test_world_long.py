"""Long stories: a day, a week, a day of bad weather. The clock is coarse (see sim.virtual_time), the services are the real ones."""

from __future__ import annotations

import math

from runtime.lease import LeaseTimes
from scaler.settings import ScalerSettings
from sim.weather import Weather
from sim.world import Kind, group

HOUR_S, DAY_S = 3600.0, 86_400.0
#: Looked at less often than in production; whoever begins to wait or becomes ready is looked at at once all the same.
CALM = ScalerSettings(tick_s=6.0)


def test_a_day_of_diurnal_traffic(tell):
    """Up in the morning, down in the evening, nobody at night; everybody is answered and hardly anybody waits."""
    seen = {}

    def rate(at_s: float) -> float:
        return 0.11 * (0.6 - math.cos(2 * math.pi * at_s / DAY_S))

    async def day(world):
        chat = await world.operator.create("chat", group(), max_workers=8)
        crowd = world.clients.come(chat, world.clients.poisson(rate, 0.11 * 1.6, 2000, DAY_S, sigma=0.5))
        await world.until(2 * HOUR_S)
        seen["night"] = len(world.market.of(chat.id, "running"))
        for hour in range(10, 15):
            await world.until(hour * HOUR_S)
            seen[hour] = world.count(chat)
        await world.until(DAY_S)
        seen["crowd"], seen["running_h"] = crowd, world.market.cost_usd(group().id)
        seen["most"] = world.market.most[chat.id]

    tell(day, grain_s=3.0, quiet_grain_s=10.0, scalers=1, routers=1, scaler=CALM)
    crowd = seen["crowd"]
    print(seen, crowd.asked, crowd.ended, crowd.share_within(5), crowd.refusals, crowd.cut, crowd.wait_quantile_s(0.99))


def test_a_week_of_sparse_traffic_from_zero_and_back(tell):
    seen = {}

    async def week(world):
        chat = await world.operator.create("chat", group(), max_workers=4)

        def visits():
            for visit in range(42):
                begin_s = visit * 4 * HOUR_S + 600 + 977 * (visit % 7)
                for n in range(12):
                    yield begin_s + n * 5, 300.0

        crowd = world.clients.come(chat, visits())
        await world.until(7 * DAY_S)
        seen["crowd"] = crowd
        seen["cost"] = world.market.cost_usd(group().id)
        seen["creates"] = world.market.creates
        seen["calls"] = world.market.calls
        seen["j"] = world.journal.counts

    tell(
        week,
        grain_s=3.0,
        quiet_grain_s=60.0,
        scalers=1,
        routers=1,
        scaler=CALM,
        lease=LeaseTimes(ttl_s=300, renew_s=60.0, margin_s=5.0, request_s=5.0),
    )
    crowd = seen["crowd"]
    print(seen, crowd.asked, crowd.ended, crowd.share_within(5), crowd.refusals, crowd.cut, crowd.wait_quantile_s(0.99))


def test_lossy_weather_for_a_day(tell):
    seen = {}

    async def day(world):
        chat = await world.operator.create("chat", group(), max_workers=6)

        def rate(at_s: float) -> float:
            return 0.5 if at_s % (3 * HOUR_S) < 1200 else 0.0

        crowd = world.clients.come(chat, world.clients.poisson(rate, 0.5, 400, DAY_S - 2 * HOUR_S))
        await world.until(DAY_S)
        seen["crowd"] = crowd
        seen["journal"] = world.journal.counts

    tell(
        day,
        grain_s=1.0,
        quiet_grain_s=6.0,
        scaler=CALM,
        kinds=(Kind(create_s=40, start_s=10, fails=0.03),),
        weather=Weather(delay_s=(0.001, 0.15), lost=0.05, duplicated=0.05, lost_replies=0.02),
    )
    crowd = seen["crowd"]
    print(seen, crowd.asked, crowd.ended, crowd.share_within(5), crowd.refusals, crowd.cut, crowd.wait_quantile_s(0.99))
