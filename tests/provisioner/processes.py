"""Worker processes of the tests: what they run, and what became of them."""

import contextlib
import os
import signal
from pathlib import Path

import msgspec
import psutil

#: Says that it runs, then does as it is told until SIGTERM.
WORKER = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(os.environ["CORRAL_STATE_DIR"])
with open(here / "runs.jsonl", "a") as runs:
    runs.write(json.dumps({"pid": os.getpid(), "env": dict(os.environ)}) + "\\n")
print("hello from", os.getpid(), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if len(sys.argv) > 1:
    exec(sys.argv[1])
(here / "up.new").write_text(str(os.getpid()))
(here / "up.new").rename(here / "up")
while True:
    time.sleep(60)
"""


def processes_of(directory: Path) -> list[psutil.Process]:
    """Living processes that were told this state directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.environ().get("CORRAL_STATE_DIR", "").startswith(str(directory))
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def runs_of(directory: Path) -> list[dict]:
    """Every process that was ever started in a worker's directory."""
    path = directory / "runs.jsonl"
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []
