"""python -m provisioner, as init systems and `corral up` run it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from provisioner import __main__
from runtime.errors import SettingsError
from runtime.jwt import claims
from schemas import codec, commands, events
from schemas.signals import WorkerBundle
from tests.provisioner.desk import eventually
from tests.provisioner.processes import processes_of, runs_of

ROOT = Path(__file__).parent.parent.parent


class Running:
    def __init__(self, process, log: Path) -> None:
        self.process = process
        self.log = log

    async def exit_code(self) -> int:
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def end(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.exit_code()


@pytest.fixture
async def run(own_nats_server, state_dir, tmp_path):
    nats = own_nats_server.settings("provisioner", "provisioner")
    keys = own_nats_server.keyring.directory
    started = []

    async def start(*arguments: str, **settings: str) -> Running:
        log = tmp_path / f"provisioner-{len(started)}.log"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "CORRAL_NATS_URLS": own_nats_server.url,
            "CORRAL_NATS_CREDS": nats.creds,
            "PROVISIONER_STATE_DIR": str(state_dir),
            "PROVISIONER_CONTROL_URL": "http://127.0.0.1:9",
            "PROVISIONER_WORKER_NATS_URLS": own_nats_server.url,
            "PROVISIONER_WORKER_SIGNING_SEED_FILE": str(keys / "roles" / "worker.seed"),
            "PROVISIONER_NATS_ACCOUNT": (keys / "cp.public").read_text(),
            **settings,
        }
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "provisioner", *arguments, cwd=tmp_path, env=environment, stdout=output, stderr=output
            )
        started.append(process)
        return Running(process, log)

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_workers_go_on_when_the_provisioner_is_stopped(desk, run, template, state_dir):
    first = await run()
    create = desk.create(template())
    await desk.do(create)
    directory = state_dir / "workers" / create.worker_id
    await eventually((directory / "up").exists)
    assert await first.end() == 0
    (worker,) = processes_of(state_dir)
    assert (await desk.record(create.worker_id)).state == "running"

    await run()
    assert processes_of(state_dir) == [worker]
    other = desk.create(template())
    await desk.do(other)
    await desk.do(desk.command(commands.StopWorker, create))
    (mine,) = processes_of(state_dir)
    mine.kill()  # noticed long before the next regular round, by its launcher
    await desk.event(events.WorkerFailed, worker_id=other.worker_id)
    assert len(runs_of(directory)) == 1

    env = runs_of(directory)[0]["env"]
    bundle = codec.decode(Path(env["CORRAL_WORKER_BUNDLE"]).read_bytes(), WorkerBundle)
    assert claims(bundle.nats_jwt).name == create.worker_id
    assert not [name for name in env if name.startswith(("PROVISIONER_", "CORRAL_NATS", "PYTHONPATH"))]
    said = first.log.read_text()
    assert bundle.nats_seed not in said and env["MASTER_TOKEN"] not in said
    assert {json.loads(line)["room"] for line in said.splitlines()} == {"provisioner"}


async def test_on_request_its_end_is_a_cold_night_for_all_workers(desk, run, template, state_dir):
    first = await run(PROVISIONER_STOP_WORKERS_ON_EXIT="true")
    creates = [desk.create(template()) for _ in range(2)]
    for create in creates:
        await desk.do(create)
        await eventually((state_dir / "workers" / create.worker_id / "up").exists)
    assert await first.end(signal.SIGINT) == 0
    assert not processes_of(state_dir)
    for create in creates:
        assert (await desk.record(create.worker_id)).state == "stopped"
        await desk.event(events.WorkerStopped, worker_id=create.worker_id)

    await run()
    await desk.do(desk.command(commands.StartWorker, creates[0]))
    assert (await desk.record(creates[0].worker_id)).starts == 2


async def test_stop_workers_stops_what_a_killed_provisioner_left(desk, run, template, state_dir):
    first = await run()
    create = desk.create(template())
    await desk.do(create)
    await eventually((state_dir / "workers" / create.worker_id / "up").exists)

    in_use = await run("--stop-workers")
    assert await in_use.exit_code() == 1
    assert "another provisioner uses" in in_use.log.read_text()
    assert len(processes_of(state_dir)) == 1

    await first.end(signal.SIGKILL)
    stopping = await run("--stop-workers")
    assert await stopping.exit_code() == 0
    assert not processes_of(state_dir)
    assert (await desk.record(create.worker_id)).state == "stopped"


@pytest.mark.parametrize(
    "setting, value",
    [
        ("PROVISIONER_PROVIDERS", "process,moonbase"),
        ("PROVISIONER_PROCESS_PORTS", "99-12"),
        ("PROVISIONER_PROCESS_MAX_WORKERS", "many"),
        ("PROVISIONER_STATEDIR", "x"),
        ("PROVISIONER_WORKER_SIGNING_SEED_FILE", "/no/such/file"),
    ],
)
async def test_a_wrong_setting_stops_the_start_and_is_named(setting, value, monkeypatch, state_dir):
    monkeypatch.setenv("PROVISIONER_STATE_DIR", str(state_dir))
    monkeypatch.setenv(setting, value)
    monkeypatch.setattr("runtime.logs.setup", lambda *_: None)
    with pytest.raises(SettingsError, match=setting):
        await __main__.main(only_stop_workers=False)


async def test_a_bus_without_streams_is_named_in_words(bare_nats_server, run):
    nats = bare_nats_server.settings("provisioner", "provisioner")
    process = await run(CORRAL_NATS_URLS=bare_nats_server.url, CORRAL_NATS_CREDS=nats.creds)
    assert await process.exit_code() == 1
    last = json.loads(process.log.read_text().splitlines()[-1])
    assert last["event"] == "stopped_by_error" and last["kind"] == "StreamMissing"
