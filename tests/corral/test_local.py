"""What `corral up` is made of: locks, ports, logs, children; and where the client looks for it."""

import asyncio
import os
import socket
import stat
import sys

import msgspec
import psutil
import pytest

from corral import service
from corral.connection import find
from corral.datadir import DataDir, RunInfo, locate
from corral.errors import ConfigError, StartError
from corral.up import bus, house, kept, ports
from corral.up.child import Child, Spec
from corral.up.lock import Lock
from corral.up.log import BoundedLog, tail


def running(data, url="http://127.0.0.1:8080"):
    data.root.mkdir(parents=True, exist_ok=True)
    info = RunInfo(url=url, nats_url="nats://x:1", pids={"up": 7}, ports={}, started_at=1.0, data_dir="", admin_key_file="")
    data.run_json.write_bytes(msgspec.json.encode(info))
    data.admin_key.write_text("local-admin-key\n")


# --- where ---------------------------------------------------------------------------------------------------------


def test_the_data_directory_is_found_in_this_order(tmp_path):
    env = {"HOME": str(tmp_path / "home"), "CORRAL_DATA_DIR": str(tmp_path / "env")}
    assert locate(tmp_path / "flag", env, tmp_path).root == tmp_path / "flag"
    assert locate(None, env, tmp_path).root == tmp_path / "env"
    del env["CORRAL_DATA_DIR"]
    assert locate(None, env, tmp_path).root == tmp_path / "home/.local/share/corral"
    assert locate(None, {**env, "XDG_DATA_HOME": "/xdg"}, tmp_path).root.as_posix() == "/xdg/corral"
    (tmp_path / ".corral").mkdir()
    assert locate(None, env, tmp_path).root == tmp_path / ".corral"


def test_flag_then_environment_then_what_runs_here(tmp_path):
    data = DataDir(tmp_path)
    running(data)
    env = {"CORRAL_DATA_DIR": str(tmp_path), "CORRAL_URL": "http://env:1", "CORRAL_API_KEY": "env-key"}
    assert find("http://flag:1", "flag-key", environ=env).url_from == "given"
    found = find(environ=env)
    assert (found.url, found.api_key) == ("http://env:1", "env-key")
    found = find(environ={"CORRAL_DATA_DIR": str(tmp_path)})
    assert (found.url, found.api_key) == ("http://127.0.0.1:8080", "local-admin-key")
    # Naming a directory means that one, whatever the environment says.
    assert find(data_dir=tmp_path, environ=env).api_key == "local-admin-key"


def test_the_local_admin_key_goes_to_nobody_else(tmp_path):
    running(DataDir(tmp_path))
    assert find("http://elsewhere:1", environ={"CORRAL_DATA_DIR": str(tmp_path)}).api_key == ""


@pytest.mark.parametrize("url", ["", "elsewhere:8080", "ftp://x", "http://"])
def test_no_address_or_none_that_makes_sense(url, tmp_path):
    with pytest.raises(ConfigError) as caught:
        find(url, environ={"CORRAL_DATA_DIR": str(tmp_path)})
    assert caught.value.hint


# --- what is kept --------------------------------------------------------------------------------------------------


def test_secrets_are_made_once_and_for_us_alone(tmp_path):
    data = DataDir(tmp_path)
    key = kept.admin_key(data)
    assert kept.admin_key(data) == key
    assert len(key) > 40
    assert stat.S_IMODE(data.admin_key.stat().st_mode) == 0o600
    assert key not in kept.digest(key)
    assert kept.installation(data) == kept.installation(data)
    data.admin_key.write_text("")
    with pytest.raises(StartError, match="is empty"):
        kept.admin_key(data)


def test_one_up_per_directory(tmp_path):
    data = DataDir(tmp_path / "d")
    with Lock(data):
        assert stat.S_IMODE(data.root.stat().st_mode) == 0o700
        running(data)
        with pytest.raises(StartError, match=r"already runs in .* at http://127.0.0.1:8080 \(pid 7\)"), Lock(data):
            pass
    with Lock(data):  # and again afterwards
        pass


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="--data-dir"), Lock(DataDir(tmp_path / "file" / "d")):
        pass


# --- ports ---------------------------------------------------------------------------------------------------------


def test_a_taken_port_names_its_holder():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not ports.is_free("127.0.0.1", port)
        with pytest.raises(StartError, match=rf"port {port} .* taken by .*pid {os.getpid()}.*--port"):
            ports.require("127.0.0.1", port, "--port")
    assert ports.is_free("127.0.0.1", port)


def test_an_address_that_is_not_ours():
    with pytest.raises(StartError, match="--host"):
        ports.is_free("203.0.113.7", 1234)


@pytest.mark.parametrize(
    "host,local", [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("example.org", False)]
)
def test_loopback(host, local):
    assert ports.is_loopback(host) is local


# --- logs ----------------------------------------------------------------------------------------------------------


def test_a_log_is_bounded(tmp_path):
    log = BoundedLog(tmp_path / "x.log", max_bytes=100)
    for number in range(200):
        log.write(b"line %03d\n" % number)
    log.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 100
    assert tail(tmp_path / "x.log", 1) == "line 199"
    assert tail(tmp_path / "none.log") == ""


# --- children ------------------------------------------------------------------------------------------------------


def spec(code, **more):
    return Spec(name="child", argv=(sys.executable, "-c", code), env=dict(os.environ), **more)


class Told:
    """Collects what a child says about itself."""

    def __init__(self, tmp_path, made_spec):
        self.log = BoundedLog(tmp_path / "child.log")
        self.pids = []
        self.news = asyncio.Event()
        self.child = Child(made_spec, self.log, self.changed)

    def changed(self, child):
        if child.pid is not None:
            self.pids.append(child.pid)
        self.news.set()

    async def started(self, times):
        async with asyncio.timeout(10):
            while len(self.pids) < times:
                self.news.clear()
                await self.news.wait()


FOREVER = 'import time\nprint(\'{"event": "here", "n": 1}\', flush=True)\ntime.sleep(60)'


async def test_a_child_that_is_killed_is_started_again(tmp_path):
    told = Told(tmp_path, spec(FOREVER))
    running_ = asyncio.create_task(told.child.run())
    async with asyncio.timeout(10):
        assert (await told.child.said("here"))["n"] == 1
    told.child.settled = True
    os.kill(told.pids[0], 9)
    await told.started(2)
    assert told.pids[0] != told.pids[1]
    assert "killed by SIGKILL" in told.child.ended
    assert await told.child.stop()
    await running_
    assert not psutil.pid_exists(told.pids[1])
    told.log.close()


async def test_a_child_that_never_starts_is_given_up_with_its_last_words(tmp_path):
    told = Told(tmp_path, spec("print('no such model'); raise SystemExit(3)"))
    with pytest.raises(StartError, match="no such model") as caught:
        await told.child.run()
    assert "status 3" in caught.value.message
    assert len(told.pids) == 3
    told.log.close()


async def test_a_child_that_will_not_end_is_killed(tmp_path):
    deaf = 'import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(\'{"event": "deaf"}\', flush=True)\ntime.sleep(60)'
    told = Told(tmp_path, spec(deaf, stop_timeout_s=0.3))
    running_ = asyncio.create_task(told.child.run())
    async with asyncio.timeout(10):
        await told.child.said("deaf")
    assert not await told.child.stop()
    await running_
    told.log.close()


async def test_a_program_that_is_not_there(tmp_path):
    told = Told(tmp_path, Spec(name="x", argv=("/no/such/program",), env={}))
    with pytest.raises(StartError, match="cannot start x"):
        await told.child.run()
    told.log.close()


# --- what it says --------------------------------------------------------------------------------------------------


def test_a_reader_that_is_gone_stops_nobody():
    import subprocess

    code = (
        "import sys, time\nfrom corral.up.progress import Progress\n"
        "plain, lines = Progress(), Progress(as_json=True)\n"
        "sys.stdin.readline()\n"
        "for _ in range(3):\n    plain.loud('x'); plain.say('y'); lines.fact('z')\n"
        "sys.stderr.write('still here')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    _, said = process.communicate("go\n", timeout=30)
    assert "still here" in said


# --- what the rooms are told ---------------------------------------------------------------------------------------


def plan_of(tmp_path, host="127.0.0.1"):
    return house.Plan(data=DataDir(tmp_path), host=host, port=8080, installation="i", admin_key_sha256="d" * 64)


def bus_of(tmp_path):
    return house.Bus(url="nats://127.0.0.1:4222", creds=tmp_path / "creds", worker_seed=tmp_path / "worker.seed", account="A")


@pytest.mark.parametrize(
    "host,url", [("0.0.0.0", "http://127.0.0.1:8080"), ("::1", "http://[::1]:8080"), ("::", "http://[::1]:8080")]
)
def test_the_address_for_clients_of_this_machine(host, url, tmp_path):
    assert plan_of(tmp_path, host).url == url


def test_no_room_is_told_a_key(tmp_path):
    environ = {"PATH": "/bin", "CORRAL_API_KEY": "secret", "CORRAL_URL": "http://x", "HF_TOKEN": "the user's own"}
    for room in house.ROOMS:
        made = house.room_spec(room, plan_of(tmp_path), bus_of(tmp_path), environ, 1)
        assert "secret" not in " ".join([*made.env.values(), *made.argv])
        assert made.env["HF_TOKEN"] == "the user's own"
        assert made.env["CORRAL_NATS_CREDS"].endswith(f"{room}.creds")
        assert made.argv[1] == "-P"


def test_existing_servers_need_complete_credentials(tmp_path):
    with pytest.raises(StartError, match="not an address"):
        bus.existing("http://x", tmp_path)
    with pytest.raises(StartError, match="--creds"):
        bus.existing("nats://x:4222", None)
    with pytest.raises(StartError, match=r"router\.creds is missing"):
        bus.existing("nats://x:4222", tmp_path)
    for name in ("router.creds", "scaler.creds", "provisioner.creds", "migrate.creds", "worker.seed", "cp.public"):
        (tmp_path / name).write_text("A\n")
    assert bus.existing("nats://x:4222", tmp_path).account == "A"


def test_a_room_starts_beside_hostile_names_and_ends_with_its_parent(tmp_path):
    """The launcher itself: a stranger's schemas.py is on the path and in the directory, ours are used."""
    for name in ("schemas", "runtime", "router"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a stranger')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    import subprocess

    done = subprocess.run(
        [sys.executable, "-P", service.__file__, "0", "runtime.migrate"],
        cwd=tmp_path,
        env={**env, "CORRAL_NATS_URLS": "nats://127.0.0.1:1", "CORRAL_NATS_CREDS": str(tmp_path / "none.creds")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "a stranger" not in done.stderr
    assert "none.creds" in done.stderr
    assert done.returncode == 1


def test_a_room_whose_parent_is_gone_ends(tmp_path):
    import subprocess

    middle = (
        "import subprocess, sys, os\n"
        f"p = subprocess.Popen([sys.executable, '-P', {service.__file__!r}, str(os.getpid()), '--exec', sys.executable, '-c',"
        " 'import time; print(1, flush=True); time.sleep(60)'], stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True, timeout=30)
    orphan = int(done.stdout)
    try:
        psutil.Process(orphan).wait(5)
    except psutil.NoSuchProcess:
        pass
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE
