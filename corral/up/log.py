"""A log file that cannot fill the disk."""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 8 * 1024 * 1024


class BoundedLog:
    """Appends to `path`; at MAX_BYTES the file becomes `path.1` and a new one begins, so at most twice that is kept."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        if self._file.tell() + len(data) > self._max_bytes and self._file.tell():
            self._file.close()
            self.path.replace(self.path.with_name(self.path.name + ".1"))
            self._file = self.path.open("ab", buffering=0)
        self._file.write(data)

    def close(self) -> None:
        self._file.close()


def tail(path: Path, lines: int = 15) -> str:
    """The last lines, for a person who must find out what went wrong; empty when there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - 64 * 1024, 0))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
