"""A whole installation in real processes: `corral up`, an endpoint, real workers. Shared by the tests of one file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import psutil

from corral import Corral

ROOT = Path(__file__).parents[2]
ECHO = ROOT / "examples" / "echo" / "corral.yaml"
CORRAL = str(Path(sys.executable).parent / "corral")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


async def until(check, deadline_s: float, what: str, every_s: float = 0.05):
    """The first true answer of check(), sync or async. Fails with the last thing seen when the deadline passes."""
    end = time.monotonic() + deadline_s
    seen = None
    while True:
        try:
            seen = check()
            if asyncio.iscoroutine(seen):
                seen = await seen
            if seen:
                return seen
        except (aiohttp.ClientError, OSError, json.JSONDecodeError) as error:
            seen = error
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}; last seen: {seen!r}")
        await asyncio.sleep(every_s)


class Installation:
    """`corral up` in a directory of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def admin_key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    @property
    def run(self) -> dict:
        return json.loads((self.data_dir / "run.json").read_text())

    def pid(self, name: str) -> int:
        return self.run["pids"][name]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "ROUTER_", "SCALER_", "PROVISIONER_"))}
        return {**kept, "CORRAL_DATA_DIR": str(self.data_dir), **more}

    async def start(self, deadline_s: float = 60) -> None:
        output = self.data_dir.parent / f"{self.data_dir.name}.up.log"
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [CORRAL, "up", "--data-dir", str(self.data_dir), "--port", str(self.port)],
                env=self.environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

        def up():
            assert self.process is not None
            assert self.process.poll() is None, output.read_text()[-3000:]
            return (self.data_dir / "run.json").exists() and self.ready()

        await until(up, deadline_s, "corral up is ready")

    async def ready(self) -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/readyz") as answer:
            return answer.status == 200

    async def stop(self, deadline_s: float = 40) -> int:
        assert self.process is not None
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, deadline_s)

    def kill(self) -> None:
        """As if the power went: the supervisor and every process that belongs to this directory."""
        pids = [self.process.pid] if self.process and self.process.poll() is None else []
        mark = str(self.data_dir)
        for process in psutil.process_iter(["pid", "cmdline", "environ"]):
            words = [*(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()]
            if any(mark in word for word in words) and process.pid != os.getpid():
                pids.append(process.pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait(10)

    def corral(self, *argv: str, timeout: float = 60, check: bool = True) -> str:
        done = subprocess.run(
            [CORRAL, *argv], env=self.environment(), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"corral {' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def client(self, **more) -> Corral:
        return Corral(self.url, self.admin_key, **more)

    async def api(self, method: str, path: str, **more):
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.request(method, self.url + path, **more) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if body else None

    async def workers(self) -> list[dict]:
        status, body = await self.api("GET", "/api/v1/workers")
        assert status == 200, body
        return body["results"] if isinstance(body, dict) else body

    def worker_processes(self) -> dict[str, list[psutil.Process]]:
        """Worker id -> its leading processes: those that started with this installation's bundle and have no such parent."""
        ours: dict[int, tuple[psutil.Process, int, str]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                env = process.environ()
                if str(self.data_dir) in env.get("CORRAL_WORKER_BUNDLE", "") and process.status() != psutil.STATUS_ZOMBIE:
                    ours[process.pid] = (process, process.ppid(), env["CORRAL_WORKER_ID"])
        found: dict[str, list[psutil.Process]] = {}
        for process, parent, worker_id in ours.values():
            if parent not in ours:
                found.setdefault(worker_id, []).append(process)
        return found

    def log_texts(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.data_dir)): path.read_text(errors="replace")
            for path in self.data_dir.rglob("*")
            if path.is_file() and path.suffix in {".log", ".json", ".conf"}
        }
