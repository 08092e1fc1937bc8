"""When will there be a worker? From how long starts of this endpoint took before; no guess before the first."""

from __future__ import annotations

from schemas.ids import WorkerId
from schemas.records import WorkerRecord
from schemas.states import COMING, WorkerState

#: Weight of the newest start in the average.
NEWEST = 0.3


class Starts:
    """Starts of one endpoint's workers, as their records tell. Times are unix s of the scaler's clock."""

    def __init__(self) -> None:
        self.usual_s: float | None = None  #: from asked for to ready; None: none seen yet
        self._since: dict[WorkerId, float] = {}

    def saw(self, record: WorkerRecord) -> None:
        if record.state in COMING:
            self._since.setdefault(record.worker_id, record.state_at)
            return
        since = self._since.pop(record.worker_id, None)
        if since is not None and record.state is WorkerState.READY and record.state_at >= since:
            took_s = record.state_at - since
            self.usual_s = took_s if self.usual_s is None else self.usual_s + NEWEST * (took_s - self.usual_s)

    def gone(self, worker_id: WorkerId) -> None:
        self._since.pop(worker_id, None)

    def eta_s(self, now: float) -> float | None:
        """Seconds until the first of those on their way should be ready; None when nothing is known or on its way."""
        if self.usual_s is None or not self._since:
            return None
        return max(0.0, min(self._since.values()) + self.usual_s - now)
