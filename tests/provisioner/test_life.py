"""A worker's life, end to end: real nats-server, real processes."""

import psutil

from schemas import commands, events
from tests.provisioner.desk import eventually
from tests.provisioner.processes import runs_of


async def test_create_stop_start_reboot_destroy(desk, serving, template, state_dir):
    await serving()
    create = desk.create(template())
    directory = state_dir / "workers" / create.worker_id

    created = await desk.do(create)
    assert created.provider == "process" and created.worker_id == create.worker_id
    record = await desk.record(create.worker_id, "running")
    assert record.url.startswith("http://127.0.0.1:") and record.starts == 1
    await eventually((directory / "up").exists)
    first = int((directory / "up").read_text())

    await desk.do(desk.command(commands.StopWorker, create))
    assert (await desk.record(create.worker_id)).state == "stopped"
    assert not psutil.pid_exists(first)
    assert directory.is_dir()

    (directory / "up").unlink()
    await desk.do(desk.command(commands.StartWorker, create))
    assert (await desk.record(create.worker_id)).starts == 2
    await eventually((directory / "up").exists)
    assert len(runs_of(directory)) == 2

    (directory / "up").unlink()
    await desk.do(desk.command(commands.RebootWorker, create))
    await eventually((directory / "up").exists)
    third = int((directory / "up").read_text())

    gone = desk.command(commands.DestroyWorker, create)
    destroyed = await desk.do(gone)
    assert destroyed.lived_s > 0
    assert (await desk.record(create.worker_id)).state == "gone"
    assert not psutil.pid_exists(third)
    assert not directory.exists()
    await eventually(desk.queue_is_empty)
    assert not desk.letters and not [e for e in desk.events if isinstance(e, events.CommandRefused | events.WorkerFailed)]
