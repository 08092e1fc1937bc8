"""Who fell silent. Silence is measured against the last heartbeat of *any* worker.

When everything falls silent at once it is this router's own network that failed, so nobody ages and routing goes on from
the last view. When one falls silent while others speak, it is that one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from .view import LOST_AFTER_S, SUSPECT_AFTER_S, Worker


class Liveness:
    """Workers in the order in which they were last heard. All times monotonic s."""

    def __init__(self) -> None:
        self._order: OrderedDict[Worker, None] = OrderedDict()
        self._suspects: OrderedDict[Worker, None] = OrderedDict()
        self.last_at = float("-inf")  #: when anybody was last heard

    def heard(self, worker: Worker, at: float) -> bool:
        """True when it had been silent long enough to be under suspicion."""
        self.last_at = max(self.last_at, at)
        self._order[worker] = None
        self._order.move_to_end(worker)
        return self._suspects.pop(worker, self) is None

    def forget(self, worker: Worker) -> None:
        self._order.pop(worker, None)
        self._suspects.pop(worker, None)

    def silent_s(self, worker: Worker) -> float:
        """0 for a worker that was never heard: its record vouches for it."""
        return max(0.0, self.last_at - worker.heard_at) if worker.pulse is not None else 0.0

    def changed(self) -> Iterator[Worker]:
        """Workers that have crossed a limit since the last call; cost grows with them, not with the fleet."""
        for worker in list(self._suspects):
            if self.last_at - worker.heard_at < LOST_AFTER_S:
                break
            del self._suspects[worker]
            yield worker
        while self._order:
            worker = next(iter(self._order))
            if self.last_at - worker.heard_at < SUSPECT_AFTER_S:
                return
            del self._order[worker]
            self._suspects[worker] = None
            yield worker
