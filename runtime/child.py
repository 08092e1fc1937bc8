"""A child process that does not outlive us."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.2


def spawn(argv: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
    """Start it with its output appended to a log file. On Linux the kernel ends it (SIGTERM) when the thread that called
    this ends; elsewhere whoever supervises must. Raises OSError.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509  (only calls prctl, bound before the fork)
            start_new_session=True,  # a Ctrl-C at the terminal is ours to pass on, after everybody else has stopped
        )


async def exited(process: subprocess.Popen[bytes]) -> int:
    """Wait for its end without blocking the loop; returns its exit status (negative: the signal that ended it)."""
    if process.poll() is None and hasattr(os, "pidfd_open"):
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        descriptor = os.pidfd_open(process.pid)
        loop.add_reader(descriptor, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    while (status := process.poll()) is None:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)  # where there is no pidfd to wait for
    return status


async def stop(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """SIGTERM, and SIGKILL after the grace; returns the exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                return await exited(process)
        except TimeoutError:
            process.kill()
    return await exited(process)


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between the fork and the line above
            os._exit(1)

    return set_death_signal
