import asyncio
import socket

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, Counter

from runtime.errors import SettingsError
from runtime.health import Health, HealthSettings


@pytest.fixture
def registry():
    return CollectorRegistry()


async def test_tells_alive_ready_and_figures(registry):
    Counter("corral_things", "Things.", registry=registry).inc(3)
    problems = {"bus": "not connected"}
    health = Health(HealthSettings(), registry, {"bus": lambda: problems["bus"], "view": lambda: ""})
    async with TestClient(TestServer(health.app())) as client:
        assert (await client.get("/livez")).status == 200
        unready = await client.get("/readyz")
        assert unready.status == 503
        assert await unready.json() == {"ok": False, "problems": {"bus": "not connected"}}
        problems["bus"] = ""
        assert (await client.get("/readyz")).status == 200
        assert "corral_things_total 3.0" in await (await client.get("/metrics")).text()


async def test_listens_on_loopback_only(registry):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = asyncio.create_task(Health(HealthSettings(port=port), registry, {}).run())
    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/livez") as answer:
                    assert answer.status == 200
                    break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert HealthSettings().host == "127.0.0.1"


async def test_a_taken_port_is_named(registry):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=str(port)):
            await Health(HealthSettings(port=port), registry, {}).run()


async def test_port_0_is_off(registry):
    running = asyncio.create_task(Health(HealthSettings(port=0), registry, {}).run())
    await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
