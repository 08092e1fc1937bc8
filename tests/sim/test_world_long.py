"""Long stories: two days, a week, a day of bad weather. The clock is coarse (see sim.virtual_time), the services are the real ones."""

from __future__ import annotations

import math

import pytest

from provisioner.provider import MachineState
from provisioner.reconcile import Rhythm
from runtime.lease import LeaseTimes
from scaler.settings import ScalerSettings
from schemas.ids import GroupId
from sim.weather import Weather
from sim.world import Kind, group

G1 = GroupId(1)
HOUR_S, DAY_S = 3600.0, 86_400.0
#: Looked at less often than in production; whoever begins to wait or becomes ready is looked at at once all the same.
CALM = {"scaler": ScalerSettings(tick_s=6.0), "rhythm": Rhythm(every_s=30.0)}
#: One that lasts over the steps of a coarse clock.
SLOW_LEASE = LeaseTimes(ttl_s=600, renew_s=120.0, margin_s=5.0, request_s=5.0)


@pytest.mark.long
def test_two_days_of_diurnal_traffic(tell):
    """Up in the morning, down in the evening, nobody at night; everybody is answered and hardly anybody waits."""
    seen = {}

    def rate(at_s: float) -> float:
        return 0.06 * max(0.0, -0.25 - math.cos(2 * math.pi * at_s / DAY_S))

    async def days(world):
        chat = await world.operator.create("chat", group(), max_workers=8)
        crowd = world.clients.come(chat, world.clients.poisson(rate, 0.06, 3000, 2 * DAY_S, sigma=0.5))
        hot = []
        for hour in range(1, 49):
            await world.until(hour * HOUR_S)
            hot.append(len(world.market.of(chat.id, MachineState.RUNNING)))
        seen.update(crowd=crowd, hot=hot, usd=world.market.cost_usd(G1), work_h=crowd.asked * 3000 / 100 / 3600)

    report = tell(days, grain_s=3.0, quiet_grain_s=120.0, lease=SLOW_LEASE, scalers=1, routers=1, **CALM)
    crowd = seen["crowd"]
    assert crowd.ended == {"answered": report.requests} and not crowd.cut
    for day in (seen["hot"][:24], seen["hot"][24:]):
        assert day[2] == day[22] == 0, "nobody at night"
        assert 2 <= max(day[10:14]) <= 5, "and as many as it takes at noon"
    assert crowd.share_within(5) > 0.95
    assert seen["usd"] < 3 * seen["work_h"] + 8 * 0.05 * 48, "at $1 an hour, and the disks"


def test_a_week_of_sparse_traffic_from_zero_and_back(tell):
    """Thirty-three visits, five hours apart: each is served from zero, and nobody stays up in between."""
    seen = {}

    async def week(world):
        chat = await world.operator.create("chat", group(), max_workers=4)

        def visits():
            for visit in range(33):
                begin_s = visit * 5 * HOUR_S + 600 + 977 * (visit % 7)
                yield from ((begin_s + n * 5, 300.0) for n in range(12))

        crowd = world.clients.come(chat, visits())
        await world.until(7 * DAY_S)
        seen.update(crowd=crowd, usd=world.market.cost_usd(G1), creates=world.market.creates, starts=world.market.calls["start"])

    report = tell(week, grain_s=3.0, quiet_grain_s=120.0, lease=SLOW_LEASE, scalers=1, routers=1, **CALM)
    crowd = seen["crowd"]
    assert crowd.ended == {"answered": report.requests} and report.requests == 33 * 12
    assert seen["creates"] + seen["starts"] >= 33 and seen["creates"] <= 8, "back from its disk, not bought again"
    assert crowd.wait_quantile_s(0.5) < 30, "as long as a start takes"
    assert seen["usd"] < 33 * 0.25 + 168 * 0.05 * 4, "a quarter of an hour for a visit, and four disks"


@pytest.mark.long
def test_a_day_of_lossy_weather(tell):
    """One message in twenty is lost, one in twenty comes twice, one answer in fifty is lost, for a whole day."""
    seen = {}

    def rate(at_s: float) -> float:
        return 0.25 if at_s % (4 * HOUR_S) < 500 else 0.0

    async def day(world):
        chat = await world.operator.create("chat", group(), max_workers=6)
        crowd = world.clients.come(chat, world.clients.poisson(rate, 0.25, 600, DAY_S))
        await world.until(DAY_S)
        seen.update(crowd=crowd, journal=world.journal.counts, destroys=world.market.calls["destroy"])

    report = tell(
        day,
        grain_s=1.0,
        quiet_grain_s=30.0,
        lease=SLOW_LEASE,
        kinds=(Kind(create_s=40, start_s=10, fails=0.03),),
        weather=Weather(delay_s=(0.001, 0.15), lost=0.05, duplicated=0.05, lost_replies=0.02),
        **CALM,
    )
    assert seen["crowd"].ended == {"answered": report.requests}
    assert seen["journal"]["lease_not_renewed"] >= 1, "the weather was bad"
