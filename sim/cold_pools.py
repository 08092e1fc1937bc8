"""Simple rules of how many workers to keep stopped, to compare learned ones with."""

from __future__ import annotations

from .windows import HighestOver


class Everything:
    """As many as there may be, always."""

    def __init__(self, max_workers: int) -> None:
        self._max_workers = max_workers

    def total(self, now_s: float, hot: int) -> int:  # noqa: ARG002
        return self._max_workers


class HighestOfDay:
    """As many as have been wanted at once within the last hours."""

    def __init__(self, hours: float = 24.0) -> None:
        self._wanted = HighestOver(hours * 3600.0)

    def total(self, now_s: float, hot: int) -> int:
        return int(self._wanted.add(now_s, hot))
