"""Rows of a CSV file by the names in its first line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from .requests import RecordingMalformed

_POINTER = "version https://git-lfs"


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(where, the values of these columns) for each line. Raises RecordingMalformed, and OSError when the file cannot be read."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        if header and header[0].startswith(_POINTER):
            raise RecordingMalformed(f"{path} is a pointer of git-lfs, not the data: run git lfs pull there")
        missing = [name for name in columns if name not in header]
        if missing:
            raise RecordingMalformed(
                f"{path}: no column {', '.join(missing)} in its first line, found: {', '.join(header) or 'nothing'}"
            )
        indices = [header.index(name) for name in columns]
        for row in reader:
            if not row:
                continue
            where = f"{path}, line {reader.line_num}"
            if len(row) < len(header):
                raise RecordingMalformed(f"{where}: {len(row)} values under {len(header)} columns; is the file cut off?")
            yield where, tuple([row[index].strip() for index in indices])
