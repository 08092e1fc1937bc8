import asyncio
import contextlib

import pytest

from schemas import subjects
from tests.scaler.house import House


@pytest.fixture
async def house(fresh_nats_server, bus_for, endpoint_id):
    """A server of its own with a pretended provisioner; `house.server` is the server."""
    bus = await bus_for("scaler", "house", server=fresh_nats_server)
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as tasks:
            made = House(bus, tasks, endpoint_id)
            made.server = fresh_nats_server
            await made.open()
            async with bus.view(subjects.BUCKET_WORKERS, made.on_record) as view:
                await view.wait_synced(10)
                yield made
            for task in list(tasks._tasks):
                task.cancel()


@pytest.fixture
async def scaler_bus(bus_for, fresh_nats_server):
    """A connection for a scaler, by name."""

    async def make(name):
        return await bus_for("scaler", name, server=fresh_nats_server)

    return make
