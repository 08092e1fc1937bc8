"""python -m scaler, as it is really run: killed without warning, started again, stopped politely."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from schemas.states import WorkerState
from tests.scaler.house import eventually

ROOT = Path(__file__).parents[2]


async def scaler_process(server, name, **settings):
    nats = server.settings("scaler", name)
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SCALER_", "CORRAL_"))},
        "CORRAL_NATS_URLS": ",".join(nats.urls),
        "CORRAL_NATS_CREDS": nats.creds,
        "SCALER_TICK_S": "0.2",
        **settings,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scaler", cwd=ROOT, env=environ, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )


@pytest.mark.slow
async def test_killed_started_again_and_stopped(house):
    await house.endpoint(min_load=180)
    first = await scaler_process(house.server, "p1")
    await eventually(lambda: house.states()[WorkerState.READY] == 2, within_s=20)
    first.send_signal(signal.SIGKILL)
    await first.communicate()
    await house.endpoint(min_load=280)
    # Its lease runs out by itself; nothing happens to the workers meanwhile.
    second = await scaler_process(house.server, "p2")
    await eventually(lambda: house.states()[WorkerState.READY] == 3, within_s=40)
    second.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(second.communicate(), 20)
    assert second.returncode == 0
    assert set(house.created.values()) == {1} and len(house.created) == 3
    events = [json.loads(line) for line in log.decode().splitlines()]
    assert {"reign_began", "decided", "command_sent", "lease_released"} <= {event["event"] for event in events}
    assert "canary-4711" not in log.decode()


async def test_a_wrong_setting_stops_the_start_and_is_named(house):
    process = await scaler_process(house.server, "p3", SCALER_TICKS="1")
    _, log = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert "SCALER_TICKS" in log.decode() and "SCALER_TICK_S" in log.decode()
