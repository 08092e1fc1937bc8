"""Records in KV as the admin API reads them. One that cannot be read, written by hand or by a newer version, harms no other: lists go
on without it, and who asks for it alone is told which value it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from runtime.bus import Entry
from schemas.http import ErrorCode

from .problems import HttpProblem

log = structlog.get_logger()
T = TypeVar("T")


def legible(bucket: str, entries: Iterable[Entry], read: Callable[[bytes], T]) -> list[tuple[T, Entry]]:
    """Those that can be read. The others are logged, by key and never by content."""
    found = []
    for entry in entries:
        try:
            found.append((read(entry.data), entry))
        except ValueError as error:
            log.warning("unreadable_record", bucket=bucket, key=entry.key, revision=entry.revision, error=str(error))
    return found


def the_one(bucket: str, entry: Entry, read: Callable[[bytes], T]) -> T:
    """Raises HttpProblem 500 when it cannot be read."""
    try:
        return read(entry.data)
    except ValueError as error:
        raise HttpProblem(
            500,
            ErrorCode.INTERNAL,
            f"The stored value {entry.key!r} in bucket {bucket} cannot be read: {error}. It was written by hand or by a newer version. "
            f"Nothing was changed. `nats kv history {bucket} {entry.key}` shows what it was before.",
        ) from error
