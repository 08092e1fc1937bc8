"""Follows a log file that somebody else writes: rotated, truncated, half-written and absent files included."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

READ_BYTES = 1 << 20  #: at most per call, so that a flood does not hold the loop
LINE_BYTES = 64 * 1024  #: a longer line is cut


class LogTail:
    """Whole lines, in order, each once. `from_start=False` skips what is already there."""

    def __init__(self, path: Path, *, from_start: bool = True) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._partial = b""
        self._skip_existing = not from_start

    def lines(self) -> list[str]:
        """What was completed since the last call. A file that is not there (yet) has no lines."""
        if self._file is None and not self._open():
            return []
        found = self._read()
        if self._was_replaced():
            # The rest of the old file was just read; its last line will not be completed any more.
            if self._partial:
                found.append(_text(self._partial))
            self.close()
            self._skip_existing = False
            if self._open():
                found += self._read()
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        self._partial = b""

    def _open(self) -> bool:
        try:
            self._file = self._path.open("rb")
        except OSError:
            return False
        if self._skip_existing:
            self._file.seek(0, os.SEEK_END)
        self._skip_existing = False
        return True

    def _was_replaced(self) -> bool:
        assert self._file is not None
        try:
            there = self._path.stat()
        except OSError:
            return False  # between two rotations: stay with the file we have
        here = os.fstat(self._file.fileno())
        return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev)

    def _read(self) -> list[str]:
        assert self._file is not None
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            # Truncated in place ("copytruncate"): what was cut off is gone, start again.
            self._file.seek(0)
            self._partial = b""
        data = self._partial + self._file.read(READ_BYTES)
        *whole, self._partial = data.split(b"\n")
        if len(self._partial) > LINE_BYTES:
            whole.append(self._partial[:LINE_BYTES])
            self._partial = b""
        return [_text(line) for line in whole]


def last_words(path: Path, limit_bytes: int = 4096) -> str:
    """The end of a file, for a person; empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            return _text(file.read(limit_bytes))
    except OSError:
        return ""


def _text(data: bytes) -> str:
    return data[:LINE_BYTES].rstrip(b"\r").decode("utf-8", "replace")
