"""The provider "process" on real processes, without a bus."""

import asyncio
import json
import os
import signal
import stat
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from provisioner.provider import MachineState, Permanent
from provisioner.providers.process import Folder, files, proc
from provisioner.providers.process.files import ProcessState
from schemas import codec
from schemas.ids import worker_number
from schemas.reasons import Cause
from schemas.records import Template
from schemas.signals import WorkerBundle
from tests.provisioner.desk import eventually
from tests.provisioner.processes import kill, processes_of, runs_of

# --- what a worker is told -----------------------------------------------------------------------------------------


async def test_a_worker_sees_vasts_environment_and_ours_and_none_of_our_secrets(make_provider, order, template, up, state_dir):
    parent = {
        "PATH": os.environ["PATH"],
        "HOME": "/home/somebody",
        "LC_ALL": "C.UTF-8",
        "VIRTUAL_ENV": "/venv",
        "PYTHONPATH": "/rooms",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "HF_TOKEN": "canary",
        "ALLOWED": "yes",
        "NATS_PASSWORD": "canary",
        "CORRAL_NATS_CREDS": "canary",
        "CORRAL_API_KEY": "canary",
        "ROUTER_ADMIN_KEY_SHA256": "canary",
        "SCALER_NAME": "canary",
        "PROVISIONER_WORKER_SIGNING_SEED_FILE": "canary",
        "PYWORKER_X": "canary",
    }
    provider = make_provider(environ=parent, pass_environment=("ALLOWED", "CORRAL_API_KEY"))
    wanted = order(template(env={"MODEL": "http://127.0.0.1:{MODEL_PORT}", "LITERAL": '{"a":1}', "WORKER_PORT": "1"}))
    machine = await provider.create(wanted)
    pid = await up(machine)
    directory = state_dir / "workers" / machine.worker_id
    (run,) = runs_of(directory)
    env = run["env"]

    port, number = env["WORKER_PORT"], str(worker_number(machine.worker_id))
    assert env["CONTAINER_ID"] == number
    assert env["VAST_CONTAINERLABEL"] == f"C.{number}"
    assert machine.url == f"http://127.0.0.1:{port}"
    assert env[f"VAST_TCP_PORT_{port}"] == port
    assert env["PUBLIC_IPADDR"] == "127.0.0.1"
    assert env["REPORT_ADDR"] == env["CORRAL_CONTROL_URL"] == "http://127.0.0.1:9"
    assert env["USE_SSL"] == env["UNSECURED"] == "false"
    assert env["GPU_COUNT"] == "0"
    assert len(env["MASTER_TOKEN"]) == 32
    assert env["CORRAL_WORKER_ID"] == machine.worker_id
    assert env["CORRAL_ENDPOINT_ID"] == "42" and env["CORRAL_ENDPOINT"] == "tiny" and env["CORRAL_GROUP_ID"] == "1"
    assert env["CORRAL_STATE_DIR"] == str(directory)
    assert env["MODEL"] == f"http://127.0.0.1:{env['MODEL_PORT']}"
    assert env["LITERAL"] == '{"a":1}'
    assert int(env["MODEL_PORT"]) not in {int(port), int(port) + 1}
    assert env["HOME"] == "/home/somebody" and env["LC_ALL"] == "C.UTF-8" and env["ALLOWED"] == "yes"

    assert "canary" not in json.dumps(env)
    assert "PYTHONPATH" not in env
    assert psutil.Process(pid).exe() == psutil.Process().exe()
    assert codec.decode(Path(env["CORRAL_WORKER_BUNDLE"]).read_bytes(), WorkerBundle).worker_id == machine.worker_id
    for name in ("instance.json", "bundle.json", "worker.log"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_worker_leads_a_session_of_its_own_and_inherits_no_files(make_provider, order, template, up):
    provider = make_provider()
    with Path(os.devnull).open() as secret:
        os.set_inheritable(secret.fileno(), True)
        pid = await up(await provider.create(order(template())))
    assert os.getsid(pid) == pid != os.getsid(0)
    held = {fd.name: fd.readlink().name for fd in Path(f"/proc/{pid}/fd").iterdir()}
    assert held == {"0": "null", "1": "worker.log", "2": "worker.log"}


async def test_create_again_finds_the_first(make_provider, order, template, up, state_dir):
    provider, wanted = make_provider(), order(template())
    first = await provider.create(wanted)
    await up(first)
    assert await provider.create(wanted) == first
    assert len(processes_of(state_dir)) == 1


# --- stop and destroy ----------------------------------------------------------------------------------------------


async def test_a_worker_that_ignores_sigterm_is_killed_with_all_it_started(make_provider, order, template, up, state_dir):
    stubborn = (
        "import subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-S', '-c', 'import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(99)']);"
        "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(99)'], start_new_session=True)"
    )
    provider = make_provider()
    machine = await provider.create(order(template(stubborn, stop_timeout_s=0.3)))
    await up(machine)
    await eventually(lambda: len(processes_of(state_dir)) == 3)
    began = time.monotonic()
    stopped = await provider.stop(machine.worker_id)
    assert time.monotonic() - began >= 0.3
    assert stopped.state is MachineState.STOPPED
    await eventually(lambda: not processes_of(state_dir))


async def test_what_a_dead_worker_left_behind_is_ended_too(make_provider, order, template, watching, state_dir):
    provider = make_provider()
    told = await watching(provider)
    leaves_a_child = "import subprocess; subprocess.Popen(['sleep', '99']); sys.exit(3)"
    await provider.create(order(template(leaves_a_child)))
    await eventually(lambda: told)
    await eventually(lambda: not processes_of(state_dir))


async def test_stop_keeps_the_disk_and_start_finds_it(make_provider, order, template, up, state_dir):
    provider = make_provider()
    machine = await provider.create(order(template()))
    first = await up(machine)
    await provider.stop(machine.worker_id)
    (state_dir / "workers" / machine.worker_id / "up").unlink()
    # Another provisioner of another day.
    provider = make_provider()
    assert (await provider.describe(machine.worker_id)).state is MachineState.STOPPED
    again = await provider.start(machine.worker_id)
    assert await up(again) != first
    one, two = runs_of(state_dir / "workers" / machine.worker_id)
    assert one["env"]["MASTER_TOKEN"] == two["env"]["MASTER_TOKEN"]
    assert again.starts == 2 and again.mtoken_sha256 == machine.mtoken_sha256


async def test_destroy_leaves_nothing_and_is_harmless_again(make_provider, order, template, up, state_dir):
    provider = make_provider()
    machine = await provider.create(order(template("print('last words', flush=True)")))
    await up(machine)
    assert "last words" in await provider.destroy(machine.worker_id)
    assert not processes_of(state_dir) and not (state_dir / "workers" / machine.worker_id).exists()
    assert await provider.destroy(machine.worker_id) == ""
    assert await provider.describe(machine.worker_id) is None
    for op in (provider.start, provider.stop):
        with pytest.raises(Permanent) as refused:
            await op(machine.worker_id)
        assert refused.value.cause == Cause.HOST_LOST


async def test_stop_all_stops_all_at_once(make_provider, order, template, up, state_dir):
    provider = make_provider()
    for _ in range(3):
        await up(await provider.create(order(template())))
    stopped = await provider.stop_all()
    assert [machine.state for machine in stopped] == [MachineState.STOPPED] * 3
    assert not processes_of(state_dir)


# --- a pid is not a name -------------------------------------------------------------------------------------------


async def test_a_recycled_pid_is_not_mistaken_for_the_worker(make_provider, order, template, up, state_dir):
    provider = make_provider()
    machine = await provider.create(order(template()))
    kill(await up(machine))
    bystander = await asyncio.create_subprocess_exec("sleep", "99", start_new_session=True)
    try:
        # As if the bystander had been given the dead worker's number.
        folder = Folder(state_dir)
        saved = folder.read(machine.worker_id)
        await eventually(lambda: not proc.birth(saved.pid))
        folder.write(msgspec.structs.replace(saved, pid=bystander.pid))
        assert (await provider.describe(machine.worker_id)).state is MachineState.EXITED
        folder.write(msgspec.structs.replace(saved, pid=bystander.pid))
        assert (await provider.stop(machine.worker_id)).state is MachineState.STOPPED
        folder.write(msgspec.structs.replace(saved, pid=bystander.pid, state=ProcessState.STOPPING))
        await provider.destroy(machine.worker_id)
        assert proc.birth(bystander.pid)
    finally:
        bystander.kill()
        await bystander.wait()


def test_birth_tells_processes_apart():
    mine = proc.birth(os.getpid())
    assert mine and proc.is_alive(os.getpid(), mine)
    assert not proc.is_alive(os.getpid(), "another boot:1")
    assert not proc.is_alive(os.getpid(), "") and not proc.is_alive(0, mine)


@pytest.mark.parametrize("without", ["pidfd", "proc"])
async def test_the_end_of_a_process_is_seen_on_other_systems_too(without, monkeypatch):
    if without == "pidfd":
        monkeypatch.delattr(os, "pidfd_open")
    else:
        monkeypatch.setattr(proc, "_PROC", Path("/nonexistent"))
    process = await asyncio.create_subprocess_exec("sleep", "99")
    born = proc.birth(process.pid)
    assert born and proc.is_alive(process.pid, born)
    watching = asyncio.create_task(proc.ended(process.pid, born))
    await asyncio.sleep(0)
    assert not watching.done()
    process.kill()
    await asyncio.wait_for(watching, 60)
    await process.wait()
    assert not proc.birth(process.pid)
    await proc.ended(process.pid, born)


# --- when it ends by itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, cause, words",
    [
        ("print('no such layer'); sys.exit(7)", Cause.START_CRASH, "code 7"),
        ("os.kill(os.getpid(), 9)", Cause.MODEL_OOM, "SIGKILL"),
        ("print('CUDA out of memory. Tried to allocate 2 GiB'); sys.exit(1)", Cause.MODEL_OOM, "code 1"),
        ("sys.exit(137)", Cause.MODEL_OOM, "SIGKILL"),
    ],
)
async def test_an_end_is_noticed_at_once_with_its_cause(code, cause, words, make_provider, order, template, watching):
    provider = make_provider()
    told = await watching(provider)
    machine = await provider.create(order(template(code)))
    await eventually(lambda: told == [machine.worker_id])
    after = await provider.describe(machine.worker_id)
    assert after.state is MachineState.EXITED
    assert after.failure.cause == cause and words in after.failure.message
    assert "hello from" in after.failure.log_tail


async def test_an_end_by_a_signal_is_noticed_and_named(make_provider, order, template, up, watching):
    provider = make_provider()
    told = await watching(provider)
    machine = await provider.create(order(template()))
    kill(await up(machine), signal.SIGSEGV)
    await eventually(lambda: told)
    assert "SIGSEGV" in (await provider.describe(machine.worker_id)).failure.message


async def test_a_command_that_does_not_exist_leaves_nothing_behind(make_provider, order, state_dir):
    provider = make_provider()
    for template in (
        Template(name="x", command=("/no/such/program",)),
        Template(name="x", command=()),
        Template(name="x", command=("python",), cwd="/no/such/folder"),
    ):
        with pytest.raises(Permanent) as refused:
            await provider.create(order(template))
        assert refused.value.cause == Cause.START_CRASH and refused.value.hint
    assert not list((state_dir / "workers").iterdir())


async def test_the_tail_is_of_the_latest_start_only_and_the_log_is_bounded(make_provider, order, template, up, state_dir):
    talks = "import itertools; runs = sum(1 for _ in open(here / 'runs.jsonl')); print('run', runs, flush=True)"
    provider = make_provider(log_limit_bytes=2000)
    machine = await provider.create(order(template(talks)))
    await up(machine)
    await provider.stop(machine.worker_id)
    directory = state_dir / "workers" / machine.worker_id
    (directory / "up").unlink()
    await provider.start(machine.worker_id)
    await up(machine)
    tail = await provider.log_tail(machine.worker_id)
    assert "run 2" in tail and "run 1" not in tail
    assert "run 1" in (directory / "worker.log").read_text()

    with (directory / "worker.log").open("a") as log:
        log.write("x" * 3000)
    assert files.rotate(directory / "worker.log", 2000)
    assert (directory / "worker.log").stat().st_size == 0
    assert len((directory / "worker.log.1").read_text()) > 3000
    assert not files.rotate(directory / "worker.log", 2000)
    # Its writer goes on where the file now ends, and the tail is found although the offset lies beyond it.
    (directory / "worker.log").write_text("after the turn")
    assert await provider.log_tail(machine.worker_id) == "after the turn"
    assert len((await provider.log_tail(machine.worker_id, 5)).encode()) == 5
