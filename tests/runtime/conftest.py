import asyncio
from collections.abc import Awaitable, Callable

import pytest


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """await eventually(condition): wait for what other tasks bring about; the deadline is the test's failure."""

    async def wait(condition: Callable[[], object], deadline_s: float = 10.0) -> None:
        async with asyncio.timeout(deadline_s):
            while not condition():
                await asyncio.sleep(0.005)

    return wait
