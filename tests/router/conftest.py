"""A real router on a real nats-server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router.service import Router
from runtime.bus import Bus
from tests.router.house import House, running, settings


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that the RSA key is made once."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
async def house(bus_for: Any, bus: Bus, keys_dir: Path) -> AsyncIterator[House]:
    router = Router(bus=await bus_for("router"), settings=settings(keys_dir), now=time.time, monotonic=time.monotonic)
    async with running(router) as listener, aiohttp.ClientSession() as http:
        yield House(listener, bus, http)
