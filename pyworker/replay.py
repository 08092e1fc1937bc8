"""Which tickets have been used. Pure: time is an argument.

Bounded in number, and fail closed: a cache that is full of live tickets refuses instead of forgetting one, because a forgotten
ticket could be used again. Each entry leaves when its ticket could no longer be accepted anyway.
"""

from __future__ import annotations

from collections import defaultdict

DEFAULT_CAPACITY = 1 << 18  #: live tickets; about 60 MiB when full


class ReplayCacheFull(Exception):
    """No more tickets can be remembered until some expire."""


class ReplayCache:
    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._uses: dict[str, int] = {}
        self._by_second: defaultdict[int, list[str]] = defaultdict(list)
        self._swept_to: int | None = None

    def __len__(self) -> int:
        return len(self._uses)

    def is_spent(self, jti: str, uses: int) -> bool:
        return self._uses.get(jti, 0) >= uses

    def spend(self, jti: str, expires_at: int, now: float) -> None:
        """Count one use; the entry lives until `expires_at` (unix s) has passed. Raises ReplayCacheFull."""
        self._sweep(int(now))
        used = self._uses.get(jti, 0)
        if used == 0:
            if len(self._uses) >= self._capacity:
                raise ReplayCacheFull
            self._by_second[max(expires_at, int(now))].append(jti)
        self._uses[jti] = used + 1

    def _sweep(self, now: int) -> None:
        if self._swept_to is None or now - self._swept_to > len(self._by_second):
            due = [second for second in self._by_second if second < now]
        else:
            due = [second for second in range(self._swept_to, now) if second in self._by_second]
        for second in due:
            for jti in self._by_second.pop(second):
                self._uses.pop(jti, None)
        self._swept_to = now
