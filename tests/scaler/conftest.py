"""One nats-server for all tests of the scaler: starting one takes longer than most of them. Each leaves it empty."""

import asyncio
import contextlib

import pytest

from scaler import decide
from schemas import subjects
from tests.conftest import TestServer
from tests.scaler import story
from tests.scaler.house import House


@pytest.fixture(autouse=True)
def engine(request, monkeypatch):
    """Pains and the stories of the scaler's day are told with each demand engine, unless they are marked with COUNTS."""
    name = getattr(request, "param", "reactive")
    monkeypatch.setattr(story, "ENGINE", name)
    return name


def pytest_generate_tests(metafunc):
    if not metafunc.module.__name__.endswith(("test_pains", "test_stories")):
        return
    if not any(mark == story.COUNTS.mark for mark in metafunc.definition.iter_markers("parametrize")):
        metafunc.parametrize("engine", list(decide.ENGINES), indirect=True)


BUCKETS = (
    subjects.BUCKET_ENDPOINTS,
    subjects.BUCKET_INSTANCES,
    subjects.BUCKET_DEMAND,
    subjects.BUCKET_WORKERS,
    subjects.BUCKET_SCALER,
    subjects.BUCKET_LEASE,
)


@pytest.fixture(scope="module")
def scaler_server(tmp_path_factory):
    server = TestServer(tmp_path_factory.mktemp("scaler-nats"))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(server.start())
    try:
        loop.run_until_complete(server.make_topology())
        yield server
    finally:
        loop.run_until_complete(server.stop())
        server.close()
        loop.close()


@pytest.fixture
async def house(scaler_server, bus_for, endpoint_id):
    """Everything but the scaler; `house.server` is the server."""
    bus = await bus_for("scaler", "house", server=scaler_server)
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as tasks:
            made = House(bus, tasks, endpoint_id)
            made.server = scaler_server
            await made.open()
            async with bus.view(subjects.BUCKET_WORKERS, made.on_record) as view:
                await view.wait_synced(10)
                yield made
            for task in list(tasks._tasks):
                task.cancel()
    for name in BUCKETS:
        bucket = bus.bucket(name)
        for entry in await bucket.all():
            await bucket.delete(entry.key)


@pytest.fixture
async def scaler_bus(bus_for, scaler_server):
    """A connection for a scaler, by name."""

    async def make(name):
        return await bus_for("scaler", name, server=scaler_server)

    return make
