"""A destroy that died is ordered again, less and less often: what one provider cannot do now it can hardly do a moment later, and each
order is a command, an event and a dead letter.
"""

from __future__ import annotations

import msgspec

from .types import Policy, WorkerFact

_replace = msgspec.structs.replace


def died(worker: WorkerFact, at: float) -> WorkerFact:
    """The worker after our destroy of it came to nothing."""
    return _replace(worker, end_failures=worker.end_failures + 1, end_failed_at=at)


def again_at(worker: WorkerFact, policy: Policy) -> float:
    """Not before this is it worth another order; 0 when none died."""
    if not worker.end_failures:
        return 0.0
    wait_s = min(policy.backoff_first_s * 2.0 ** min(worker.end_failures - 1, 16), policy.backoff_max_s)
    return worker.end_failed_at + wait_s


def words(worker: WorkerFact) -> str:
    """For the decisions of the time between."""
    cause = worker.failure.cause if worker.failure is not None else "no word why"
    times = "once" if worker.end_failures == 1 else f"{worker.end_failures} times"
    return f"{worker.worker_id} could not be destroyed ({cause}, {times}); it is tried again, and may cost money"
