"""The model server as a child: its own process group, its output in a file, gone when we are gone."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil
import structlog

from . import files, logtail

log = structlog.get_logger()

_PR_SET_PDEATHSIG = 1
MAX_LOG_BYTES = 64 * 1024 * 1024  #: then the log starts again; what was written before is gone


class _Mark(msgspec.Struct):
    """Enough to recognise a child of an earlier life that outlived it."""

    pid: int
    created_at: float


class ModelProcess:
    """start(), exited, stop(). `log_path` holds stdout and stderr of this run; `<log>.1` those of the run before."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: str | None, state_dir: Path) -> None:
        self._command = list(command)
        self._env = dict(env)
        self._cwd = cwd
        self._mark = state_dir / "model.pid"
        self.log_path = state_dir / "model.log"
        self._process: asyncio.subprocess.Process | None = None
        self._waiter: asyncio.Task[int] | None = None

    async def start(self) -> None:
        """Raises OSError when the command cannot be run."""
        self._end_orphan()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists():
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with files.append(self.log_path) as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._env,
                cwd=self._cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        self._waiter = asyncio.create_task(self._process.wait(), name="model process")
        created_at = psutil.Process(self._process.pid).create_time() if psutil.pid_exists(self._process.pid) else 0.0
        files.write(self._mark, msgspec.json.encode(_Mark(self._process.pid, created_at)))
        log.info("model_started", pid=self._process.pid, command=self._command[0])

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.returncode if self._process is not None else None

    @property
    def exited(self) -> asyncio.Task[int]:
        """Done when the process is. Do not cancel it: wait for it with asyncio.wait or a shield."""
        assert self._waiter is not None
        return self._waiter

    async def stop(self, grace_s: float) -> None:
        """SIGTERM to the whole group, SIGKILL after the grace. Also ends what the model left behind."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            await asyncio.wait({self.exited}, timeout=grace_s)
        self._signal(signal.SIGKILL)
        await asyncio.wait({self.exited}, timeout=5.0)
        self._mark.unlink(missing_ok=True)

    def last_words(self) -> str:
        return logtail.last_words(self.log_path)

    def trim_log(self) -> None:
        """The file is opened for appending, so its writer goes on at the new end."""
        try:
            if self.log_path.stat().st_size > MAX_LOG_BYTES:
                os.truncate(self.log_path, 0)
                log.info("model_log_truncated", path=str(self.log_path))
        except FileNotFoundError:
            return

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return  # the whole group is gone

    def _end_orphan(self) -> None:
        """A worker that was killed could not end its model, which would hold the port and the GPU."""
        try:
            mark = msgspec.json.decode(self._mark.read_bytes(), type=_Mark)
            process = psutil.Process(mark.pid)
            if abs(process.create_time() - mark.created_at) < 1.0:
                log.warning("model_orphan_ended", pid=mark.pid)
                os.killpg(mark.pid, signal.SIGKILL)
        except (OSError, msgspec.MsgspecError, psutil.Error):
            return  # no mark, or nobody there


def _die_with_parent() -> Callable[[], None] | None:
    """The kernel ends the child when our process is killed; only Linux offers it."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between the fork and the line above
            os._exit(1)

    return set_death_signal
