"""What every reader gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class RecordingMalformed(ValueError):
    """A file is not what its data set promises: which one, where, and what was expected."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in any order."""

    at_s: NDArray[np.float64]  #: seconds since the beginning of the recording
    in_tokens: NDArray[np.int64]
    out_tokens: NDArray[np.int64]
    prefix_blocks: Sequence[str] | None = None  #: ids of blocks of the prompt that others share, separated by spaces

    def __len__(self) -> int:
        return len(self.at_s)


def number_of(text: str, where: str, what: str, *, least: float = 0.0) -> float:
    """A number that is at least so much. Raises RecordingMalformed."""
    try:
        number = float(text)
    except ValueError:
        raise RecordingMalformed(f"{where}: {what} must be a number, found {text[:40]!r}") from None
    if not least <= number < float("inf"):
        raise RecordingMalformed(f"{where}: {what} must be a number from {least:g} on, found {text[:40]!r}")
    return number


def tokens_of(text: str, where: str, what: str) -> int:
    """A whole number of tokens. Raises RecordingMalformed."""
    number = number_of(text, where, what)
    if number != int(number):
        raise RecordingMalformed(f"{where}: {what} must be a whole number, found {text[:40]!r}")
    return int(number)
