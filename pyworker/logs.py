"""One JSON object a line on stderr: event names in snake_case, never a payload, never a key."""

from __future__ import annotations

import logging
import sys

import structlog


def setup(*, level: str = "info", **bound: object) -> None:
    """For worker processes; an application that has configured structlog already keeps its own."""
    if structlog.is_configured():
        return
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(room="pyworker", **bound)
