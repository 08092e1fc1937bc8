"""Hours in milliseconds, the same every time."""

import asyncio
import time

import pytest

from sim.virtual_time import Deadlock, run_virtual, wall_clock


def test_hours_pass_in_milliseconds_and_in_order():
    async def story() -> list[str]:
        seen = []

        async def worker(name: str, boot_s: float, beats: int) -> None:
            await asyncio.sleep(boot_s)
            for beat in range(beats):
                seen.append(f"{asyncio.get_running_loop().time():g} {name}{beat}")
                await asyncio.sleep(3600)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker("a", 30, 3))
            tasks.create_task(worker("b", 20, 2))
        return seen

    begun = time.perf_counter()
    assert run_virtual(story()) == ["20 b0", "30 a0", "3620 b1", "3630 a1", "7230 a2"]
    assert time.perf_counter() - begun < 2


def test_a_timeout_fires_at_its_time():
    async def story() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7.5):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(story()) == 7.5


def test_a_deadlock_is_an_error_and_not_a_hang():
    async def story() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="every task waits"):
        run_virtual(story())


def test_the_clock_moves_on_even_when_a_step_is_smaller_than_its_precision():
    async def story() -> float:
        await asyncio.sleep(3e8)
        for _ in range(50):
            await asyncio.sleep(1e-9)
        return asyncio.get_running_loop().time()

    assert run_virtual(story()) == pytest.approx(3e8)


def test_the_wall_clock_starts_where_it_is_told():
    async def story() -> tuple[float, float]:
        now = wall_clock(1_700_000_000.0)
        first = now()
        await asyncio.sleep(60)
        return first, now()

    assert run_virtual(story()) == (1_700_000_000.0, 1_700_000_060.0)


def test_what_fails_inside_is_raised_outside():
    async def story() -> None:
        await asyncio.sleep(1)
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        run_virtual(story())
