"""Start one room of the control plane as a process of its own: `python -P service.py PARENT_PID ROOM [ARGS]`.

Run as a file and not imported, because it must work before anything of ours can be found: the rooms have plain names
(`router`, `schemas`, ...), so their folder goes to the front of this process's path, and of no other's. A `schemas.py` in the
working directory or on PYTHONPATH is then never seen by the rooms, nor are they by anybody else.

The process ends with its parent. `ROOM` may also be `--exec PROGRAM`, for a program that is not ours but shall end the same way.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def rooms() -> Path:
    """The folder that holds the rooms: inside this package when installed, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    carried = here / "_rooms"
    return carried if carried.is_dir() else here.parent


def end_with_parent(parent_pid: int) -> None:
    """SIGTERM to ourselves when the parent is gone, however it went. 0: nobody's child."""
    if not parent_pid:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    else:
        # No such call elsewhere. A thread, because a room's event loop is not ours to use.
        threading.Thread(target=_watch, args=(parent_pid,), daemon=True).start()
    if os.getppid() != parent_pid:  # it went before we asked
        sys.exit(1)


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def main(argv: list[str]) -> None:
    parent_pid, room, *args = argv
    end_with_parent(int(parent_pid))
    if room == "--exec":
        os.execv(args[0], args)  # noqa: S606 - the death signal survives an exec
    sys.path.insert(0, str(rooms()))
    sys.argv = [room, *args]
    runpy.run_module(room, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
