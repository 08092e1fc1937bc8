"""Mooncake's traces (kvcache-ai/Mooncake, FAST25-release/traces; Apache-2.0).

JSON lines with timestamp (ms), input_length, output_length, hash_ids (one per block of 512 prompt tokens; equal ids: the same
text up to there). Arrivals are published in batches about every 3 s, so each is moved by a random time within the batch.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from sim import chance

from .requests import RecordingMalformed, Requests

BATCH_S = 3.0
_SPREAD = 2001  # a stream of chance


class _Line(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []


def read(path: Path, *, spread_s: float = BATCH_S, seed: int = 1) -> Requests:
    """Raises RecordingMalformed, OSError."""
    lines = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                lines.append(msgspec.json.decode(line, type=_Line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                wanted = "a JSON object with timestamp, input_length, output_length"
                raise RecordingMalformed(f"{path}, line {number}: must be {wanted}: {error}") from None
    if not lines:
        raise RecordingMalformed(f"{path}: not a single request")
    if any(min(line.timestamp, line.input_length, line.output_length) < 0 for line in lines):
        raise RecordingMalformed(f"{path}: a time or a length is negative")
    at_s = np.array([line.timestamp for line in lines]) / 1000
    return Requests(
        at_s + spread_s * chance.units(seed, _SPREAD, len(lines)),
        np.array([line.input_length for line in lines], np.int64),
        np.array([line.output_length for line in lines], np.int64),
        [" ".join(map(str, line.hash_ids)) for line in lines],
    )
