"""Times as people write them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from corral.errors import ConfigError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
#: A bare number above this is a moment in unix seconds, not a span.
_EPOCH_FROM = 1e8


def span_s(text: str) -> float:
    """Seconds of `90`, `15m`, `2h`, `1d`. Raises ConfigError."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"not a span of time: {text!r}", "it looks like 90, 15m, 2h or 1d")
    return float(match[1]) * _UNIT_S[match[2]]


def moment(text: str, now: float) -> float:
    """Unix seconds of `2h` (so long ago), `2026-11-25T10:00`, `2026-11-25 10:00+01:00`, or unix seconds. Without a zone it is UTC.
    Raises ConfigError.
    """
    if _SPAN.fullmatch(text.strip()):
        seconds = span_s(text)
        return seconds if seconds > _EPOCH_FROM else now - seconds
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ConfigError(
            f"not a time: {text!r}", "it looks like 2h (ago), 2026-11-25T10:00 or 2026-11-25T10:00+01:00"
        ) from error
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def shown(at: float) -> str:
    """As UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
