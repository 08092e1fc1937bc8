"""Secrets of the router on disk: one directory, readable by its owner only. Every file is made once and then only read."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import structlog

from runtime.errors import SettingsError

log = structlog.get_logger()


class KeysDir:
    """Raises SettingsError when the directory cannot be used or somebody else can read a secret in it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"ROUTER_KEYS_DIR {self.path} cannot be made: {error.strerror}", "name a writable directory"
            ) from error

    def read_or_make(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The secret of this name; made on first use. Two routers that start at once on one directory agree on it."""
        found = self.read(name)
        if found is not None:
            return found
        fresh = self._write(make())
        try:
            os.link(fresh, self.path / name)  # unlike rename, never over somebody else's
        except FileExistsError:
            log.info("secret_made_by_another", file=name)
        finally:
            fresh.unlink(missing_ok=True)
        made = self.read(name)
        assert made is not None
        return made

    def read(self, name: str) -> bytes | None:
        file = self.path / name
        try:
            mode = file.stat().st_mode
            data = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SettingsError(f"{file} cannot be read: {error.strerror}", "it must belong to the router's user") from error
        if stat.S_IMODE(mode) & 0o077:
            raise SettingsError(f"{file} can be read by others", f"chmod 600 {file}; if somebody may have read it, delete it")
        return data

    def replace(self, name: str, data: bytes) -> None:
        """Write anew, atomically."""
        self._write(data).replace(self.path / name)

    def _write(self, data: bytes) -> Path:
        """Into a file that nobody else has; mkstemp makes it for its owner only."""
        handle, path = tempfile.mkstemp(prefix=".fresh-", dir=self.path)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        return Path(path)
