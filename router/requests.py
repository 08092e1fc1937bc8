"""Requests as the router remembers them. A client names its request by the `request_idx` of a former answer.

                  placed                    comes back: a complaint
      NEW ------------------> ROUTED -----------------------------+
       |                        ^                                 |
       | no worker              | placed                          v
       +-------> WAITING -------+<------------------------- (WAITING or ROUTED again)
                    |
                    | not seen for ABSENT_AFTER_S
                    v
                 ABSENT  keeps its place, is no demand; comes back as WAITING, or is forgotten

Memory is bounded: by time (the client's `replay_timeout`, within limits) and by number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from schemas.ids import EndpointId, WorkerId

MIN_REMEMBER_S = 10.0
DEFAULT_REMEMBER_S = 60.0
MAX_REMEMBER_S = 600.0
#: Vast's clients poll up to 5 s apart; who stays away for longer has left.
ABSENT_AFTER_S = 10.0
MAX_REMEMBERED = 100_000


class Phase(Enum):
    NEW = "new"
    WAITING = "waiting"
    ABSENT = "absent"
    ROUTED = "routed"


class Request:
    """One request of a client, over all its calls to /route/. Times are monotonic s."""

    __slots__ = (
        "arrived_at",
        "cold_start",
        "complaints",
        "cost",
        "endpoint_id",
        "excluded",
        "excluded_at",
        "forget_at",
        "idx",
        "not_before",
        "phase",
        "seq",
        "waiting_since",
        "wake",
        "worker_id",
    )

    def __init__(self, idx: int, seq: int, endpoint_id: EndpointId, cost: float, now: float) -> None:
        self.idx = idx
        self.seq = seq  #: order of arrival at this router
        self.endpoint_id = endpoint_id
        self.cost = cost
        self.arrived_at = now
        self.waiting_since = now
        self.forget_at = now + DEFAULT_REMEMBER_S
        self.phase = Phase.NEW
        self.worker_id: WorkerId | None = None  #: the last one handed out
        self.complaints = 0
        self.excluded: set[WorkerId] | None = None
        self.excluded_at = now
        self.not_before = now  #: a client in a hot loop is held until then
        self.cold_start = False  #: it came when nothing was ready
        self.wake: Callable[[Any], None] | None = None  #: takes the Placement; set while the client listens

    def exclude(self, worker_id: WorkerId, now: float) -> None:
        if self.excluded is None:
            self.excluded = set()
        if worker_id not in self.excluded:
            self.excluded.add(worker_id)
            self.excluded_at = now


class Memory:
    """Requests by their number, until they may be forgotten."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._known: dict[int, Request] = {}
        self._order: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, idx: int, endpoint_id: EndpointId, now: float) -> Request | None:
        """None when it is unknown, forgotten, or of another endpoint."""
        request = self._known.get(idx)
        if request is None or request.endpoint_id != endpoint_id or request.forget_at < now:
            return None
        return request

    def add(self, request: Request) -> Request | None:
        """Remember it; returns the one that had to go for it, when there is no more room."""
        self._known[request.idx] = request
        self._order.append(request)
        return self._drop_oldest() if len(self._known) > self._limit else None

    def forget(self, now: float) -> list[Request]:
        """Drop what is past its time; returns those dropped. Somebody who is waiting is never dropped here."""
        dropped = []
        for _ in range(len(self._order)):
            request = self._order[0]
            if request.forget_at >= now and request.wake is None:
                break
            self._order.popleft()
            if request.wake is not None:
                self._order.append(request)
            elif self._known.get(request.idx) is request:
                del self._known[request.idx]
                dropped.append(request)
        return dropped

    def _drop_oldest(self) -> Request | None:
        for _ in range(len(self._order)):
            request = self._order.popleft()
            if request.wake is None:
                if self._known.get(request.idx) is request:
                    del self._known[request.idx]
                    return request
            else:
                self._order.append(request)
        return None
