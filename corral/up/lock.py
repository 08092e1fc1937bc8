"""One `corral up` per data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from corral.datadir import DataDir
from corral.errors import StartError


class Lock:
    """Held while entered. The kernel lets go of it when the process ends, however it ends, so none is ever stale."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Raises StartError when another process holds it, or the directory cannot be written."""
        make_private(self._data.root)
        try:
            self._descriptor = os.open(self._data.lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartError(f"cannot write in {self._data.root}: {error.strerror}", "choose another with --data-dir") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            running = self._data.running()
            os.close(self._descriptor)
            where = f" at {running.url} (pid {running.pids.get('up', '?')})" if running else ""
            raise StartError(
                f"a control plane already runs in {self._data.root}{where}",
                "use it, stop it, or give this one its own --data-dir",
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)


def make_private(path: Path) -> None:
    """A directory that only we may enter. Raises StartError."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise StartError(f"cannot make {path}: {error.strerror}", "choose another directory with --data-dir") from error
