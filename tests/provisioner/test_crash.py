"""kill -9 of the provisioner at every point of a command: afterwards everything is as if it had not happened."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from runtime import topology
from schemas import commands, events
from tests.provisioner.desk import eventually
from tests.provisioner.processes import kill, processes_of, runs_of

SCRIPT = Path(__file__).with_name("crashing_provisioner.py")
ROOT = SCRIPT.parent.parent.parent


@pytest.fixture
async def own_nats_server(bare_nats_server, monkeypatch):
    """A server whose queue delivers more often than one test crashes."""
    monkeypatch.setattr(topology, "COMMAND_BACKOFF_S", (0.5,) * 5)
    monkeypatch.setattr(topology, "COMMAND_MAX_DELIVERIES", 1000)
    await bare_nats_server.make_topology()
    return bare_nats_server


@pytest.fixture
async def provisioner_process(own_nats_server, state_dir, tmp_path):
    """provisioner_process(point): the real thing in its own process; the test's end is its end."""
    settings = own_nats_server.settings("provisioner", "provisioner")
    started = []

    async def start(point: str = "never") -> asyncio.subprocess.Process:
        with (tmp_path / "provisioner.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(SCRIPT),
                str(state_dir),
                own_nats_server.url,
                settings.creds,
                point,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def killed(process) -> None:
    async with asyncio.timeout(60):
        assert await process.wait() == -9


async def test_a_create_killed_at_every_point_yields_exactly_one_worker(desk, provisioner_process, template, state_dir):
    """Each provisioner takes up what the last one left, gets one step further, and is killed there."""
    create = desk.create(template())
    await desk.send(create)
    for point in (
        "after claim",
        "after the moving record",
        "before the launch",
        "after the launch",
        "after the record",
        "after the event",
        "after done",
    ):
        await killed(await provisioner_process(point))

    await provisioner_process()
    await desk.event(events.WorkerCreated, command_id=create.command_id)
    await eventually(desk.queue_is_empty)
    record = await desk.record(create.worker_id, "running")
    directory = state_dir / "workers" / create.worker_id
    await eventually((directory / "up").exists)

    assert len(processes_of(state_dir)) == 1
    assert len(runs_of(directory)) == 1
    assert record.provider_ref == f"pid:{processes_of(state_dir)[0].pid}"
    assert len([e for e in desk.events if isinstance(e, events.WorkerCreated)]) == 1
    assert (await desk.intent(create.command_id)).status == "done"
    assert not desk.letters and not [e for e in desk.events if isinstance(e, events.OrphanRemoved | events.WorkerFailed)]


@pytest.mark.parametrize(
    "kind, fact, points",
    [
        (
            commands.StopWorker,
            events.WorkerStopped,
            ("before the signal", "before stopped is written", "after the stopped record"),
        ),
        (commands.DestroyWorker, events.WorkerDestroyed, ("after the destroying record", "before the removal")),
    ],
)
async def test_an_end_killed_at_every_point_is_ended(kind, fact, points, desk, provisioner_process, template, state_dir):
    create = desk.create(template())
    first = await provisioner_process(points[0])
    await desk.do(create)
    end = desk.command(kind, create)
    await desk.send(end)
    await killed(first)
    for point in points[1:]:
        await killed(await provisioner_process(point))

    await provisioner_process()
    await desk.event(fact, command_id=end.command_id)
    await eventually(desk.queue_is_empty)
    stopped = kind is commands.StopWorker
    assert (await desk.record(create.worker_id)).state == ("stopped" if stopped else "gone")
    assert not processes_of(state_dir)
    assert (state_dir / "workers" / create.worker_id).exists() == stopped
    assert len([e for e in desk.events if isinstance(e, fact)]) == 1
    assert not [e for e in desk.events if isinstance(e, events.WorkerFailed)]


async def test_workers_outlive_a_killed_provisioner_and_are_found_again(desk, provisioner_process, template, state_dir):
    first = await provisioner_process()
    creates = [desk.create(template()) for _ in range(3)]
    for create in creates:
        await desk.send(create)
    for create in creates:
        await desk.event(events.WorkerCreated, command_id=create.command_id)
        await eventually((state_dir / "workers" / create.worker_id / "up").exists)
    before = {process.pid for process in processes_of(state_dir)}
    first.kill()
    await killed(first)
    assert {process.pid for process in processes_of(state_dir)} == before

    await provisioner_process()
    await desk.do(desk.command(commands.StopWorker, creates[0]))
    assert len(processes_of(state_dir)) == 2
    assert (await desk.record(creates[1].worker_id)).state == "running"
    assert {process.pid for process in processes_of(state_dir)} < before


async def test_a_worker_that_ends_while_nobody_looks_is_noticed_later(desk, provisioner_process, template, state_dir):
    first = await provisioner_process()
    create = desk.create(template("print('about to vanish', flush=True)"))
    await desk.do(create)
    await eventually((state_dir / "workers" / create.worker_id / "up").exists)
    first.kill()
    await killed(first)
    kill(processes_of(state_dir)[0].pid)

    await provisioner_process()
    failed = await desk.event(events.WorkerFailed, worker_id=create.worker_id)
    assert "about to vanish" in failed.failure.log_tail
    assert (await desk.record(create.worker_id, "failed")).failure.cause == failed.failure.cause
