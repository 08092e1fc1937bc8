"""A control plane of the demo's own: `corral up` in a temporary directory, and every trace of it gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import psutil

from corral.datadir import DataDir, RunInfo
from corral.errors import StartError
from corral.up.log import BoundedLog, tail

_START_S = 60.0
#: A drain waits out the last ticket: with the usual minute, people would watch nothing happen for a minute.
_TICKET_TTL_S = 15.0
_STOP_S = 75.0


class House:
    """`start()`, then `stop()` in any case. `clean()` removes the directory."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="corral-demo-"))
        self.data = DataDir(self.root / "data")
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[RunInfo] | None = None
        self.warnings: list[str] = []

    async def start(self) -> RunInfo:
        """Raises StartError with the last lines of its log."""
        self._ready = asyncio.get_running_loop().create_future()
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CORRAL_", "ROUTER_", "SCALER_", "PROVISIONER_"))
        }
        env["CORRAL_TICKET_TTL_S"] = f"{_TICKET_TTL_S:g}"
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "corral.cli", "up", "--json", "--data-dir", str(self.data.root), "--port", "0"),
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the demo, which stops it in order
        )
        self._output = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(_START_S):
                return await self._ready
        except TimeoutError as error:
            raise StartError(f"corral up was not ready within {_START_S:.0f} s", f"see {self.data.logs}") from error

    async def _read(self) -> None:
        """Its JSON lines: ready, warnings; everything also goes into a log."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._ready is not None
        log = BoundedLog(self.root / "up.log")
        try:
            async for line in self._process.stdout:
                log.write(line)
                said = _json(line)
                if said.get("event") == "ready" and not self._ready.done():
                    self._ready.set_result(msgspec.convert(said, RunInfo))
                elif said.get("event") == "warning":
                    self.warnings.append(str(said.get("message")))
        finally:
            log.close()
            if not self._ready.done():
                self._ready.set_exception(StartError(f"corral up ended:\n{tail(self.root / 'up.log')}", f"see {self.data.logs}"))

    def admin_key(self) -> str:
        return self.data.admin_key.read_text().strip()

    async def stop(self) -> None:
        """In order; whatever is left after that is killed."""
        process = self._process
        if process is None:
            return
        family = _family(process.pid)
        try:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _STOP_S)
        finally:  # also when a second Ctrl-C ends the waiting
            for member in family:
                with contextlib.suppress(psutil.Error):
                    if member.is_running():
                        member.kill()
        await process.wait()
        if self._output is not None:
            await asyncio.gather(self._output, return_exceptions=True)
        if self._ready is not None and self._ready.done():
            self._ready.exception()  # looked at, so that nobody complains about it

    def clean(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def last_words(self) -> str:
        """The ends of all logs, for a demo that failed."""
        logs = [
            self.root / "up.log",
            *sorted(self.data.logs.glob("*.log")),
            *sorted(self.data.provisioner.glob("workers/*/worker.log")),
        ]
        return "\n".join(f"--- {log.relative_to(self.root)}\n{words}" for log in logs if (words := tail(log, 12)))


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [*root.children(recursive=True), root]
    except psutil.Error:
        return []


def _json(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
