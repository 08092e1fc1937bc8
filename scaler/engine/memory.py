"""What the engine remembers of one endpoint, and as bytes: all of it, exactly, so that a new leader goes on bit for bit.

Arrays keep their type and shape; what is large is 32-bit. Bytes that another version of the rules has written are not read: the
engine then begins anew, which costs some minutes of caution.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import rules
from .constants import Constants
from .departures import BINS

FORMAT = 1
#: The time from asking for a worker to its being ready is divided into so many stages.
STAGES = 16
#: Levels of the stopped pool; an endpoint that may have more workers counts several to a level.
POOL_LEVELS = 256

#: Rows of `shadows`: the pool of each rule.
TARGET, BELOW_S, READY, DRAINING, LAG = range(5)
_POOL_ROWS = 5

Wide = NDArray[np.float64]
Narrow = NDArray[np.float32]


class Memory(msgspec.Struct, kw_only=True):
    """Changed in place by `step` on a copy of its own; treat it as a value."""

    at_s: float
    began_s: float
    start_hot: int
    last_active_s: float
    # the load
    departures: Narrow
    present: float
    flows: Wide  #: work that arrives per second and falls within the lead, per forecast smoothing
    averages: Wide
    peaks: Wide
    surprise: Wide  #: discounted squared error of each level as a forecast ...
    surprise_weight: Wide  #: ... and discounted level
    past_levels: Wide  #: levels at the last stages
    service_mean_s: float
    service_square_s2: float
    # the shadows
    shadows: Narrow
    recent_targets: Narrow  #: smallest target of each of the last stages, by rule
    stage: int  #: number of the present stage
    stage_s: float
    # the score
    costs: Narrow  #: discounted worker-seconds by horizon and rule
    lates: Narrow  #: discounted late requests
    arrived: Wide  #: discounted arrivals by horizon
    slack: float
    started: int
    late: int
    # the stopped pool
    pool_uses: Narrow
    pool_used_s: Wide
    pool_at_s: float
    pool_hot: int

    def copy(self) -> Memory:
        arrays = {name: value.copy() for name in self.__struct_fields__ if isinstance(value := getattr(self, name), np.ndarray)}
        return msgspec.structs.replace(self, **arrays)


def fresh(constants: Constants, at_s: float, start_hot: int, lead_s: float) -> Memory:
    """Before the first request is seen. Every rule begins at the size of the real pool."""
    count, horizons = len(rules.table(constants)), len(constants.half_lives_s)
    levels = len(constants.forecast_s) + len(constants.average_s)
    shadows = np.zeros((_POOL_ROWS, count), dtype=np.float32)
    shadows[TARGET] = shadows[READY] = start_hot
    stage_s = _stage_s(lead_s)
    return Memory(
        at_s=at_s,
        began_s=at_s,
        start_hot=start_hot,
        last_active_s=at_s - 1e6,
        departures=np.zeros(BINS, dtype=np.float32),
        present=0.0,
        flows=np.zeros(len(constants.forecast_s)),
        averages=np.zeros(len(constants.average_s)),
        peaks=np.zeros(len(constants.rises_s) * len(constants.falls_s)),
        surprise=np.full(levels, 600.0),
        surprise_weight=np.full(levels, 600.0),
        past_levels=np.zeros((STAGES, levels)),
        service_mean_s=0.0,
        service_square_s2=0.0,
        shadows=shadows,
        recent_targets=np.full((STAGES, count), start_hot, dtype=np.float32),
        stage=int(at_s // stage_s),
        stage_s=stage_s,
        costs=np.zeros((horizons, count), dtype=np.float32),
        lates=np.zeros((horizons, count), dtype=np.float32),
        arrived=np.zeros(horizons),
        slack=constants.slack_start,
        started=0,
        late=0,
        pool_uses=np.zeros(POOL_LEVELS, dtype=np.float32),
        pool_used_s=np.full(POOL_LEVELS, -1e9),
        pool_at_s=at_s,
        pool_hot=0,
    )


def _stage_s(lead_s: float) -> float:
    return max(lead_s, 1.0) / (STAGES - 0.5)
