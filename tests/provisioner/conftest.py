"""A provisioner on a real nats-server with real processes, and what a test says to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from provisioner.bundles import Bundles
from provisioner.hand import order_of
from provisioner.plan import Patience
from provisioner.providers.process import Folder, ProcessProvider, ProcessSettings
from provisioner.reconcile import Rhythm
from provisioner.wiring import provisioner
from runtime import js_names, topology
from runtime.nats_bus import open_client
from schemas import subjects
from schemas.commands import CreateWorker
from schemas.ids import WorkerId
from schemas.records import Template
from tests.conftest import TestServer
from tests.provisioner.desk import Desk, eventually, make_command
from tests.provisioner.processes import WORKER, processes_of
from tests.provisioner.scripted import ScriptedProvider

CONTROL_URL = "http://127.0.0.1:9"
EMPTIED = (
    subjects.STREAM_COMMANDS,
    subjects.STREAM_ADVISORIES,
    subjects.STREAM_DEAD_LETTERS,
    js_names.kv_stream(subjects.BUCKET_IDEM),
    js_names.kv_stream(subjects.BUCKET_INSTANCES),
    js_names.kv_stream(subjects.BUCKET_ENDPOINTS),
)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list]:
    """What was logged, as events; shown when the test fails."""
    with capture_logs() as logged:
        yield logged
    for event in logged:
        print(event)


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "provisioner"
    yield directory
    for process in processes_of(directory):
        with contextlib.suppress(psutil.Error):
            process.kill()


@pytest.fixture
def worker_script(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture
def template(worker_script: Path) -> Callable[..., Template]:
    """template("python code to run first", stop_timeout_s=...)"""

    def make(code: str = "", **more) -> Template:
        more.setdefault("stop_timeout_s", 5.0)
        return Template(name="tiny", command=("python", str(worker_script), *([code] if code else [])), **more)

    return make


@pytest.fixture
def make_provider(state_dir: Path) -> Callable[..., ProcessProvider]:
    def make(environ=None, gpus_here=lambda: (), now=time.time, **settings) -> ProcessProvider:
        return ProcessProvider(
            folder=Folder(state_dir),
            settings=ProcessSettings(control_url=CONTROL_URL, **settings),
            bundles=Bundles(minter=None, nats_urls=("nats://127.0.0.1:1",), control_url=CONTROL_URL, ttl_s=3600, now=now),
            now=now,
            environ=os.environ if environ is None else environ,
            gpus_here=gpus_here,
        )

    return make


@pytest.fixture
def order():
    return lambda template, **more: order_of(make_command(CreateWorker, 42, template=template, endpoint_name="tiny", **more))


@pytest.fixture
def up(state_dir):
    """Waits until a worker says that it is up; returns its pid."""

    async def wait(machine) -> int:
        path = state_dir / "workers" / machine.worker_id / "up"
        await eventually(path.exists, "up")
        return int(path.read_text())

    return wait


@pytest.fixture
async def watching():
    """watching(provider): follows it; returns the list of worker ids that it was told of."""
    tasks = []

    async def watch(provider) -> list[WorkerId]:
        told: list[WorkerId] = []
        tasks.append(asyncio.create_task(provider.watch(told.append)))
        await asyncio.sleep(0)
        return told

    yield watch
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


IMPATIENT = Rhythm(every_s=0.3, orphan_grace_s=0.2, abandoned_s=30.0)


@pytest.fixture
def scripted() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture(scope="session")
def quick_nats_server(tmp_path_factory):
    """One server for all tests of the provisioner: starting one takes longer than most of them. Its queue of commands tries again
    after half a second instead of half a minute.
    """
    server = TestServer(tmp_path_factory.mktemp("provisioner-nats"))
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        patch.setattr(topology, "COMMAND_BACKOFF_S", (0.5,) * 5)
        runner.run(server.start())
        try:
            runner.run(server.make_topology())
            yield server
        finally:
            runner.run(server.stop())
            server.close()


@pytest.fixture
async def own_nats_server(quick_nats_server):
    """The server, with nothing in it but old events."""
    async with open_client(quick_nats_server.settings("migrate", "migrate")) as client:
        streams = client.jetstream()
        for name in EMPTIED:
            await streams.purge_stream(name)
    return quick_nats_server


@pytest.fixture
async def desk(own_nats_server, bus_for, endpoint_id) -> AsyncIterator[Desk]:
    bus = await bus_for("scaler", "desk", server=own_nats_server)
    made = Desk(bus, endpoint_id)
    following = asyncio.create_task(made.follow())
    yield made
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


@pytest.fixture
async def serving(own_nats_server, bus_for, make_provider):
    """serving(providers=..., rhythm=...): a running provisioner; `await` it, it stops with the test."""
    running: list[asyncio.Task] = []

    async def serve(*providers, name: str = "provisioner", rhythm=IMPATIENT, patience=None, bus=None, bundles=None, metrics=None):
        bus = bus or await bus_for("provisioner", name, server=own_nats_server)
        providers = {provider.name: provider for provider in providers or (make_provider(),)}
        service = provisioner(
            bus=bus,
            streams=bus,
            providers=providers,
            bundles=bundles or Bundles(minter=None, nats_urls=(), control_url=CONTROL_URL, ttl_s=3600, now=time.time),
            now=time.time,
            rng=random.Random(1),
            metrics=metrics,
            patience=patience or Patience(first_delay_s=0.05, factor=1.5),
            rhythm=rhythm,
        )
        running.append(asyncio.create_task(service.run()))
        return running[-1]

    yield serve
    for task in running:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
