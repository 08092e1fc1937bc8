"""What the engine remembers of one endpoint, and as bytes: all of it, exactly, so that a new leader goes on bit for bit.

Arrays keep their type and shape; what is large is 32-bit. Bytes that another version of the rules has written are not read: the
engine then begins anew, which costs some minutes of caution.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import rules
from .constants import Constants
from .departures import BIN_S, BINS

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
    slots: int  #: of the usual worker; all loads are counted in them
    lead_s: float
    caution_hot: int  #: not below this at first
    hot: int  #: the last opinion
    net_hot: int  #: workers asked for because of the real queue; 0: none
    last_active_s: float
    # the load
    departures: Narrow
    flows: Wide  #: work that arrives per second and falls within the lead, per forecast smoothing
    averages: Wide
    peaks: Wide
    surprise: Wide  #: discounted squared error of each level as a forecast ...
    surprise_weight: Wide  #: ... and discounted level
    past_levels: Wide  #: levels at the last stages
    service_mean_s: float
    service_square_s2: float
    # what costs are worth
    routed_units: float  #: discounted, of requests that got a worker, as clients say
    served_units: float  #: discounted, as workers count
    busy_s: float  #: discounted worker-seconds
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
    pool_width: int  #: workers to a level

    def copy(self) -> Memory:
        arrays = {name: value.copy() for name in self.__struct_fields__ if isinstance(value := getattr(self, name), np.ndarray)}
        return msgspec.structs.replace(self, **arrays)


def fresh(constants: Constants, at_s: float, start_hot: int, lead_s: float, *, slots: int = 1, caution_hot: int = 0) -> Memory:
    """Before the first request is seen. Every rule begins at the size of the real pool; that was here before us for a reason, so
    at first it is not made smaller than `caution_hot`.
    """
    count, horizons = len(rules.table(constants)), len(constants.half_lives_s)
    levels = len(constants.forecast_s) + len(constants.average_s)
    shadows = np.zeros((_POOL_ROWS, count), dtype=np.float32)
    shadows[TARGET] = shadows[READY] = start_hot
    stage_s = _stage_s(lead_s)
    return Memory(
        at_s=at_s,
        began_s=at_s,
        slots=slots,
        lead_s=lead_s,
        caution_hot=caution_hot,
        hot=start_hot,
        net_hot=0,
        last_active_s=at_s - 1e6,
        departures=np.zeros(BINS, dtype=np.float32),
        flows=np.zeros(len(constants.forecast_s)),
        averages=np.zeros(len(constants.average_s)),
        peaks=np.zeros(len(constants.rises_s) * len(constants.falls_s)),
        surprise=np.full(levels, 600.0),
        surprise_weight=np.full(levels, 600.0),
        past_levels=np.zeros((STAGES, levels)),
        service_mean_s=0.0,
        service_square_s2=0.0,
        routed_units=0.0,
        served_units=0.0,
        busy_s=0.0,
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
        pool_width=1,
    )


def reslotted(memory: Memory, slots: int) -> Memory:
    """The same in workers of so many slots: a request holds one of them as much longer, as the worker is no faster for it. What is in
    the infinite pool now leaves when it leaves.
    """
    if slots == memory.slots:
        return memory
    memory = memory.copy()
    ratio = slots / memory.slots
    for loads in (memory.flows, memory.averages, memory.peaks, memory.past_levels, memory.surprise_weight, memory.shadows[LAG]):
        np.multiply(loads, ratio, out=loads)
    memory.surprise *= ratio * ratio
    memory.service_mean_s *= ratio
    memory.service_square_s2 *= ratio * ratio
    memory.slots = slots
    return memory


def restaged(memory: Memory, lead_s: float) -> Memory:
    """The same for another lead: what is on its way in the shadows takes as much longer or shorter, and as much more or less of the work
    that arrives falls within it.
    """
    stage_s = _stage_s(lead_s)
    if stage_s == memory.stage_s:
        return memory
    memory = memory.copy()
    stage = int(memory.at_s // stage_s)
    turn = (stage - memory.stage) % STAGES
    if memory.service_mean_s > 0:
        memory.flows *= min(memory.service_mean_s, lead_s) / min(memory.service_mean_s, memory.lead_s)
    memory.recent_targets = np.roll(memory.recent_targets, turn, axis=0)
    memory.past_levels = np.roll(memory.past_levels, turn, axis=0)
    memory.stage, memory.stage_s, memory.lead_s = stage, stage_s, lead_s
    return memory


def shifted(memory: Memory, by_s: float) -> Memory:
    """The same so much earlier, by a clock that is behind the one it was written by; rounded up to whole bins of departures. Every moment
    in it moves by the same, and what lasts lasts as long.
    """
    bins = math.ceil(by_s / BIN_S)
    by_s = bins * BIN_S
    memory = memory.copy()
    memory.at_s -= by_s
    memory.began_s -= by_s
    memory.last_active_s -= by_s
    memory.pool_used_s -= by_s
    memory.pool_at_s -= by_s
    memory.departures = np.roll(memory.departures, -bins)
    stage = int(memory.at_s // memory.stage_s)
    turn = (stage - memory.stage) % STAGES
    memory.recent_targets = np.roll(memory.recent_targets, turn, axis=0)
    memory.past_levels = np.roll(memory.past_levels, turn, axis=0)
    memory.stage = stage
    return memory


def _stage_s(lead_s: float) -> float:
    return max(lead_s, 1.0) / (STAGES - 0.5)


# --- as bytes ---------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where an array lies, counted in bytes from the first."""

    name: str
    kind: np.dtype[np.generic]
    shape: tuple[int, ...]
    begin: int


class _Layout(NamedTuple):
    head: bytes  #: names everything that gives the bytes their meaning
    scalars: tuple[str, ...]
    arrays: tuple[_Place, ...]
    arrays_bytes: int


def pack(memory: Memory, constants: Constants) -> bytes:
    """All of it; `unpack` gives it back bit for bit."""
    layout = _layout(constants)
    scalars = msgspec.msgpack.encode([getattr(memory, name) for name in layout.scalars])
    return b"".join((layout.head, scalars, *[getattr(memory, place.name) for place in layout.arrays]))


def unpack(data: bytes, constants: Constants) -> Memory | None:
    """None: written by another version of the rules, or no memory at all."""
    layout = _layout(constants)
    first = len(data) - layout.arrays_bytes
    if first <= len(layout.head) or not data.startswith(layout.head):
        return None
    try:
        values = dict(zip(layout.scalars, msgspec.msgpack.decode(data[len(layout.head) : first]), strict=True))
    except (msgspec.DecodeError, ValueError, TypeError):
        return None
    # Writable, copied once, and where numbers are expected to lie: arithmetic on what lies elsewhere takes twice as long.
    buffer = np.frombuffer(data, np.uint8, offset=first).copy()
    for name, kind, shape, begin in layout.arrays:
        values[name] = np.ndarray(shape, kind, buffer, begin)
    return Memory(**values)


@lru_cache(maxsize=8)
def _layout(constants: Constants) -> _Layout:
    example = fresh(constants, 0.0, 0, 1.0)
    arrays, scalars, at = [], [], 0
    for name in Memory.__struct_fields__:
        value = getattr(example, name)
        if isinstance(value, np.ndarray):
            arrays.append(_Place(name, value.dtype, value.shape, at))
            at += value.nbytes
        else:
            scalars.append(name)
    meaning = (FORMAT, rules.table(constants).names, Memory.__struct_fields__, constants.half_lives_s, constants.forecast_s)
    head = b"ens" + hashlib.sha256(msgspec.msgpack.encode(meaning)).digest()[:8]
    return _Layout(head, tuple(scalars), tuple(arrays), at)
