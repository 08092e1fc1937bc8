"""Azure's LLM inference traces of 2023 and 2024 (Azure/AzurePublicDataset; CC-BY).

CSV with TIMESTAMP, ContextTokens, GeneratedTokens; times as `2023-11-16 18:17:03.9799600`, in 2024 with `+00:00` behind.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from .csv_table import rows
from .requests import RecordingMalformed, Requests, tokens_of


def read(path: Path) -> Requests:
    """Times are from the first request on. Raises RecordingMalformed, OSError."""
    at, came_in, went_out = [], [], []
    for where, (timestamp, context, generated) in rows(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        at.append(_seconds(timestamp, where))
        came_in.append(tokens_of(context, where, "ContextTokens"))
        went_out.append(tokens_of(generated, where, "GeneratedTokens"))
    if not at:
        raise RecordingMalformed(f"{path}: not a single request")
    at_s = np.array(at)
    return Requests(at_s - at_s.min(), np.array(came_in, np.int64), np.array(went_out, np.int64))


def _seconds(timestamp: str, where: str) -> float:
    """Of any zone, as long as it is one. Fractions of a second may have more digits than Python reads."""
    day_and_time, dot, rest = timestamp.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    try:
        whole = datetime.fromisoformat(day_and_time + rest[len(digits) :])
        since = datetime(1970, 1, 1, tzinfo=whole.tzinfo)
        return (whole - since).total_seconds() + (float(f"0.{digits}") if dot else 0.0)
    except ValueError:
        raise RecordingMalformed(
            f"{where}: TIMESTAMP must look like 2023-11-16 18:17:03.9799600, found {timestamp[:40]!r}"
        ) from None
