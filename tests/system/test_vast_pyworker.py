"""Vast's public PyWorker and Vast's public client, both unchanged from their package, with a whole Corral between them."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import aiohttp
import psutil
import pytest
from conftest_system import ROOT, Installation, until

from schemas.ids import worker_number

pytestmark = pytest.mark.timeout(150)

EXAMPLE = ROOT / "examples" / "vast_pyworker"
PYTHON = EXAMPLE / ".venv" / "bin" / "python"


@pytest.fixture(scope="module")
def vast_house(tmp_path_factory):
    assert PYTHON.exists(), "Vast's package has an environment of its own: `make dev` installs it"
    made = Installation(tmp_path_factory.mktemp("vast") / "corral")
    try:
        asyncio.run(made.start())
        made.corral("apply", "--yes", "-f", str(EXAMPLE / "corral.yaml"))
        # One at a time, and it stays: a busy machine must not look like load.
        asyncio.run(change(made, max_workers=1, inactivity_timeout=600))
        yield made
    finally:
        made.kill()


async def change(house, **settings) -> None:
    _, found = await house.api("GET", "/api/v1/endpoints/vast-echo")
    status, answer = await house.api("PUT", f"/api/v0/endptjobs/{found['result']['id']}/", json=settings)
    assert status == 200, answer


async def vasts_client(house) -> dict:
    """Answers of Vast's client, in its own process. Meanwhile strangers knock at the worker: see `hurry`."""
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        Path(__file__).with_name("vast_client.py"),
        "vast-echo",
        env={**house.environment(CORRAL_URL=house.url, CORRAL_API_KEY=house.admin_key), "HOME": str(house.data_dir.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60), hurry(house):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()[-3000:]
    return json.loads(out.decode().splitlines()[-1])


class hurry:
    """Vast's PyWorker says that it is ready up to eleven seconds late, unless something happens: a request without a good signature is
    something. It also shows that strangers change nothing but that.
    """

    def __init__(self, house) -> None:
        self.house = house

    async def __aenter__(self):
        self.task = asyncio.create_task(self.knock())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def knock(self):
        auth = {"cost": 1e9, "endpoint": "vast-echo", "request_idx": 1, "signature": "bm8=", "url": "http://elsewhere"}
        async with aiohttp.ClientSession() as session:
            for n in range(1000):
                await asyncio.sleep(0.5)
                for worker in await self.house.workers():
                    if worker["state"] == "model_loading":
                        body = {"auth_data": {**auth, "reqnum": n}, "payload": {"prompt": "let me in", "max_tokens": 1}}
                        try:
                            async with session.post(worker["url"] + "/generate", json=body) as answer:
                                assert answer.status == 401
                        except aiohttp.ClientError:
                            continue  # it does not listen yet


async def test_vasts_client_is_answered_by_vasts_worker_through_corral(vast_house):
    house = vast_house
    seen = await vasts_client(house)
    assert seen["answer"] == {"status": 200, "ok": True, "response": {"text": "one two one", "tokens": 3}}
    assert seen["tokens"] == ["a", "b", "a", "b"]
    assert seen["burst"] == ["x x"] * 8
    assert seen["session"] == "s s"
    (worker,) = await house.workers()
    assert seen["workers"] == [[worker_number(worker["worker_id"]), "idle", True]]
    assert (worker["version"], worker["protocol"], worker["slots"]) == ("vast/1.1.0", 0, 4)
    assert worker["perf"] > 0

    # And our own client, which learns from the router that this worker takes Vast's envelope only.
    async with house.client() as client:
        endpoint = client.endpoint("vast-echo")
        answer = await endpoint.request("/generate", {"prompt": "three four", "max_tokens": 2}, cost=2)
        assert (answer.json()["text"], answer.worker_id) == ("three four", worker["worker_id"])
        async with endpoint.stream("/generate", {"prompt": "five", "max_tokens": 2, "stream": True}, cost=2) as stream:
            assert [event.json()["token"] async for event in stream.events() if not event.done] == ["five", "five"]
    assert len(house.worker_processes()) == 1

    # Its work is counted, what strangers tried is not, and the load is gone again.
    await until(lambda: idle(house), 15, "the worker reports that nothing is in flight")
    master_token = psutil.Process(house.worker_processes()[worker["worker_id"]][0].pid).environ()["MASTER_TOKEN"]
    assert len(master_token) == 32
    ours = {name: text for name, text in house.log_texts().items() if name.startswith("logs/")}
    assert ours
    assert not [name for name, text in ours.items() if master_token in text]


async def idle(house):
    return [(w["state"], w["inflight"], w["load"]) for w in await house.workers()] == [("ready", 0, 0.0)]


async def test_a_killed_one_is_replaced(vast_house):
    house = vast_house
    ((dead, (leader,)),) = house.worker_processes().items()
    model = next(child for child in leader.children(recursive=True) if "model_server.py" in " ".join(child.cmdline()))
    os.kill(leader.pid, signal.SIGKILL)
    async with house.client() as client, hurry(house):
        answer = await client.endpoint("vast-echo").request("/generate", {"prompt": "again", "max_tokens": 1}, cost=1)
    assert answer.json()["text"] == "again"
    assert answer.worker_id != dead
    assert list(house.worker_processes()) == [answer.worker_id]
    assert not model.is_running(), "its model server went with it"
    lines = house.corral("events", "tail", "--json", "--no-follow", "--since", "1m").splitlines()
    kinds = [(line["kind"], line.get("worker_id")) for line in map(json.loads, filter(None, lines))]
    assert ("worker_failed", dead) in kinds
    assert ("worker_ready", answer.worker_id) in kinds


async def vastai(house, *argv) -> str:
    """Vast's command line, unchanged. VAST_URL is for what it asks while it is imported; were it equal to --url, it would send what
    is for a router to Vast's.
    """
    process = await asyncio.create_subprocess_exec(
        PYTHON.with_name("vastai"),
        *argv,
        "--url",
        house.url,
        "--api-key",
        house.admin_key,
        env={
            **house.environment(VAST_URL=f"http://localhost:{house.port}", VASTAI_NO_UPDATE_CHECK="1"),
            "HOME": str(house.data_dir.parent),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        return (await process.communicate())[0].decode()


async def test_vasts_command_line_rolls_a_group_and_takes_it_back(vast_house):
    house = vast_house
    ((old, _),) = house.worker_processes().items()
    await change(house, max_workers=2)
    _, groups = await house.api("GET", "/api/v0/workergroups/")
    (group,) = groups["results"]
    assert "Update started for workergroup" in (told := await vastai(house, "update", "workers", str(group["id"]))), told
    assert "(1 workers)" in told
    await until(lambda: len(house.worker_processes()) == 2, 20, "its successor is started before it goes")
    assert "Update cancelled" in (told := await vastai(house, "update", "workers", str(group["id"]), "--cancel")), told
    assert "nothing to cancel" in await vastai(house, "update", "workers", str(group["id"]), "--cancel")
    worker = next(w for w in await house.workers() if w["worker_id"] == old)
    assert worker["state"] == "ready", "it stays"
