"""A digest of everything that happened, in order: equal for equal worlds, in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sim.broker import Broker, Stored


class Chronicle:
    """Hears every message that a stream stores; what is in no stream is noted by hand."""

    def __init__(self, broker: Broker, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._hash = hashlib.sha256()
        self.entries = 0
        for stream in broker.streams.values():
            stream.listeners.append(self._stored)

    def note(self, what: str) -> None:
        self.entries += 1
        self._hash.update(f"{self._now_s():.6f} {what}\n".encode())

    def _stored(self, stored: Stored) -> None:
        self.note(stored.subject)
        self._hash.update(stored.data)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()
