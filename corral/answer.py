"""What a request brings back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .errors import ModelError


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that was asked. `outcome` is "answered", or the code of what went wrong."""

    worker_id: str
    url: str
    outcome: str
    message: str = ""
    status: int | None = None
    took_s: float = 0.0


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. They do not add up to `total_s` exactly: what lies between is our own work."""

    route_wait_s: float = 0.0  #: until a worker was found, over all attempts
    queue_s: float | None = None  #: in the worker's own queue, as the worker says; None: it did not say
    connect_s: float = 0.0  #: to the worker that answered
    first_byte_s: float = 0.0  #: from the connection to the first byte of the answer
    total_s: float = 0.0
    cold_start: bool = False  #: the request waited for a worker to start


class Answer:
    """A complete answer. A model's own 4xx and 5xx are answers too: look at `ok`, or call `raise_for_status`."""

    def __init__(
        self,
        *,
        status: int,
        headers: Mapping[str, str],
        content: bytes,
        worker_id: str,
        group_id: int,
        attempts: tuple[Attempt, ...],
        timing: Timing,
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self.worker_id = worker_id
        self.group_id = group_id
        self.attempts = attempts
        self.timing = timing

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Raises msgspec.DecodeError when the body is not JSON."""
        return msgspec.json.decode(self.content)

    def raise_for_status(self) -> Answer:
        """Raises ModelError at a status of 400 and above; returns itself otherwise."""
        if not self.ok:
            raise ModelError(self.status, self.content, self.worker_id)
        return self

    def __repr__(self) -> str:
        return f"<Answer {self.status} {len(self.content)} bytes from {self.worker_id} in {self.timing.total_s:.2f} s>"
