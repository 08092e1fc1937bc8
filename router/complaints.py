"""What clients say about workers. A request that comes back after it was given a worker is a complaint about that worker:
dead, full, or answering badly. It is the only word of clients about workers that reaches the router.

One complaint proves little (the request itself may be bad), so a worker is set aside only when several different requests
complain within a short time, and never more than half of an endpoint's workers: bad requests must not empty it.
"""

from __future__ import annotations

from schemas.ids import WorkerId

#: Different requests that must complain within WINDOW_S before a worker is benched for BENCH_S.
BENCH_AFTER = 3
WINDOW_S = 10.0
BENCH_S = 10.0
#: A client in a hot loop is held for this long, doubled with each complaint, up to the limit.
FIRST_HOLD_S = 0.1
MAX_HOLD_S = 1.0


class Complaints:
    """Complaints about the workers of one endpoint. Times are monotonic s."""

    def __init__(self) -> None:
        self.totals: dict[WorkerId, int] = {}
        self._recent: dict[WorkerId, dict[int, float]] = {}

    def note(self, worker_id: WorkerId, request_idx: int, now: float) -> bool:
        """Count it. True when the worker should be set aside."""
        self.totals[worker_id] = self.totals.get(worker_id, 0) + 1
        recent = {idx: at for idx, at in self._recent.get(worker_id, {}).items() if at > now - WINDOW_S}
        recent[request_idx] = now
        if len(recent) >= BENCH_AFTER:
            self._recent.pop(worker_id, None)
            return True
        self._recent[worker_id] = recent
        return False

    def forget(self, worker_id: WorkerId) -> None:
        """The worker is gone."""
        self.totals.pop(worker_id, None)
        self._recent.pop(worker_id, None)


def hold_s(complaints: int) -> float:
    """How long a request with so many complaints is held before it gets another worker; the first goes on at once."""
    return 0.0 if complaints <= 1 else float(min(MAX_HOLD_S, FIRST_HOLD_S * 2.0 ** min(complaints - 2, 8)))


def may_bench(benched: int, routable: int) -> bool:
    """`routable` workers could still get tickets, the one in question among them; `benched` cannot."""
    return benched + 1 <= max(1, (benched + routable) // 2)
