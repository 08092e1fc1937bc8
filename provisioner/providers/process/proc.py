"""Processes: is it alive, is it still the same one, end all of it.

A pid is not a name: the kernel gives it out again. A process is named by pid and birth, and every signal is preceded by a
comparison of the two. A worker is launched as leader of its own session, so that it survives us and so that whatever it
starts can be found and ended with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import psutil

_PROC = Path("/proc")
_POLL_S = 0.2  #: where there is no pidfd


class _Detached(subprocess.Popen[bytes]):
    """Meant to outlive this object and this process: dropping it is no leak, so no warning."""

    def __del__(self, *_: object) -> None:
        return


def launch(argv: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path) -> int:
    """Start a process in a session of its own, output appended to the log; returns its pid.

    Raises OSError when the program or the directory cannot be used.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return _Detached(
            list(argv),
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ).pid
    finally:
        os.close(descriptor)


def birth(pid: int) -> str:
    """What tells this process from any other that ever had its pid; empty when there is none (a zombie counts as none)."""
    if _PROC.joinpath("self/stat").exists():
        try:
            # pid (comm) state ppid ... starttime is the 22nd; comm may contain anything, so count from its last bracket.
            fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if fields[0] in {"Z", "X"} else f"{_boot_id()}:{fields[19]}"
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.6f}"
    except psutil.Error:
        return ""


def is_alive(pid: int, born: str) -> bool:
    """Whether the process that was born then still runs."""
    return pid > 0 and bool(born) and birth(pid) == born


async def ended(pid: int, born: str) -> None:
    """Returns when that process has ended."""
    if hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        try:
            if is_alive(pid, born):  # asked after opening: from here on the descriptor is this very process
                loop.add_reader(descriptor, over.set)
                await over.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return
    while is_alive(pid, born):  # noqa: ASYNC110 - the kernel sets no event here
        await asyncio.sleep(_POLL_S)


def exit_code(pid: int) -> int | None:
    """Collect our own dead child: its code, negative for a signal. None when it was not ours or still lives."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None


def signal_all(pid: int, born: str, number: signal.Signals) -> None:
    """To the whole process group while its leader lives. Does nothing when the leader is gone."""
    if is_alive(pid, born):
        _quietly_kill_group(pid, number)


def kill_rest(pid: int, born: str, marker: tuple[str, str]) -> int:
    """End whatever a worker left behind: members of its session, and processes that left the session but carry its mark.
    Returns how many. Call it before exit_code(): a dead child that is not yet collected keeps its pid from being given out.
    """
    now = birth(pid)
    recycled = bool(now) and now != born
    rest = set(marked(marker))
    if not recycled and pid > 0:
        rest |= {other for other in psutil.pids() if _session(other) == pid and birth(other)}
    for other in rest:
        _quietly_kill(other)
    return len(rest)


def marked(marker: tuple[str, str]) -> list[int]:
    """Living processes of ours whose environment says NAME=value."""
    name, value = marker
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(name) == value and birth(process.pid):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue  # another user's, or gone meanwhile
    return found


def leader_of(marker: tuple[str, str]) -> int | None:
    """The session leader among the marked: the worker's main process. None when it is not there."""
    return next((pid for pid in marked(marker) if _session(pid) == pid), None)


@cache
def _boot_id() -> str:
    return _PROC.joinpath("sys/kernel/random/boot_id").read_text().strip()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _quietly_kill_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # it ended between the look and the signal


def _quietly_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
