"""On a machine with a GPU: the card is given to one worker, its readings reach operators, a second worker is told why not.

Skipped where NVML finds none; the same code is tested everywhere with a card that only pretends.
"""

import asyncio
import json
from pathlib import Path

import psutil
import pytest

from provisioner.providers.process import gpus
from pyworker.gpu import Gpus, open_gpus
from tests.system.conftest_system import ECHO, Installation, until

CARDS = gpus.inventory()
pytestmark = pytest.mark.skipif(not CARDS, reason="NVML finds no GPU here")

MANIFEST = """
kind: Template
name: gpu-echo
command: [python, worker.py]
cwd: {folder}
env: {{ECHO_LOAD_S: "0.1", ECHO_TOKEN_S: "0.001", ECHO_SLOTS: "4"}}
gpus: {gpus}
start_timeout_s: 60
---
kind: Endpoint
name: {name}
cold_workers: {workers}
max_workers: {workers}
inactivity_timeout: -1
groups: [{{name: local, template: gpu-echo, provider: process}}]
"""


def test_what_nvml_says_is_whole():
    for card in CARDS:
        assert card.name
        assert card.memory_gb > 1
    opened = open_gpus({})
    assert isinstance(opened, Gpus)
    readings = opened.read()
    opened.close()
    assert len(readings) == len(CARDS)
    for reading in readings:
        assert reading.name == CARDS[reading.index].name
        assert reading.memory_total_bytes and reading.memory_used_bytes is not None
        assert 0 <= reading.utilization_ratio <= 1
        assert 10 < reading.temperature_c < 110
        assert 10 < reading.power_w < 2000
    assert len(open_gpus({"CUDA_VISIBLE_DEVICES": "0"}).read()) == 1
    assert open_gpus({"CUDA_VISIBLE_DEVICES": ""}).read() == ()


@pytest.fixture
async def house(tmp_path):
    made = Installation(tmp_path / "data")
    await made.start()
    try:
        yield made
    finally:
        made.kill()


async def apply(house: Installation, folder: Path, name: str, **fields) -> None:
    file = folder / f"{name}.yaml"
    file.write_text(MANIFEST.format(folder=ECHO.parent, name=name, **fields))
    await asyncio.to_thread(house.corral, "apply", "-f", str(file))


@pytest.mark.slow
async def test_a_gpu_belongs_to_one_worker_and_its_readings_are_seen(house, tmp_path, capsys):
    await apply(house, tmp_path, "one", gpus=len(CARDS), workers=1)

    async def ready():
        return [worker for worker in await house.workers() if worker["state"] == "ready"]

    (worker,) = await until(ready, 60, "the worker with the GPU is ready")
    assert worker["gpu_name"] == CARDS[0].name
    assert worker["num_gpus"] == len(CARDS)
    processes = house.worker_processes()
    (leader,) = processes[worker["id"]] if worker["id"] in processes else next(iter(processes.values()))
    visible = leader.environ()["CUDA_VISIBLE_DEVICES"]
    assert len(visible.split(",")) == len(CARDS)
    async with house.client() as client:
        answer = await client.endpoint("one").request("/generate", {"prompt": "a b c", "max_tokens": 4}, cost=4)
        assert answer.ok
    with capsys.disabled():
        print(f"\n{CARDS[0].name}, {CARDS[0].memory_gb:.1f} GB: worker {worker['id']} has CUDA_VISIBLE_DEVICES={visible}")

    # All cards are taken: one more is refused with the cause, and the first goes on.
    await apply(house, tmp_path, "two", gpus=1, workers=1)

    async def refused():
        lines = await asyncio.to_thread(house.corral, "events", "tail", "--json", "--since", "1h", "--no-follow", check=False)
        found = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
        return [event for event in found if "no_offer" in json.dumps(event)]

    assert await until(refused, 60, "the second worker has no GPU", every_s=1.0)
    assert [w["id"] for w in await ready()] == [worker["id"]]
    assert psutil.pid_exists(leader.pid)
