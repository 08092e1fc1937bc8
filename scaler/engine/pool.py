"""The stopped pool: how many workers are worth keeping, hot or cold, because they will be wanted again.

Level k is the k-th worker. To keep it stopped costs storage; to create it anew, next time it is wanted, costs the hot time of a creation
and the waits meanwhile. So each level is kept after its last use for as long as storage stays cheaper than what its
expected uses in that time save:

    kept_s(k) = creation_worth_s * uses per day / (storage price / hot price), within bounds

The same weighing decides when to let go of a rented ski (break-even), and how long a platform keeps a sleeping function in memory
(Shahrad and others, Serverless in the wild, ATC 2020); the uses of each level are learned.
"""

from __future__ import annotations

from math import ceil, log

import numpy as np
from numpy.typing import NDArray

from .constants import Constants
from .memory import POOL_LEVELS, Memory

_DAY_S = 86_400.0


def use(memory: Memory, hot: int, at_s: float, most: int, constants: Constants) -> None:
    """So many are hot from now on: levels that were passed on the way up are used once more."""
    _widen(memory, most)
    memory.pool_uses *= np.float32(0.5 ** (max(0.0, at_s - memory.pool_at_s) / constants.pool_half_life_s))
    before, now = _level(memory, memory.pool_hot), _level(memory, hot)
    if now > before:
        memory.pool_uses[before:now] += 1.0
    memory.pool_used_s[: max(before, now)] = at_s  # in use until now, or from now on
    memory.pool_hot = hot
    memory.pool_at_s = at_s


def total(memory: Memory, at_s: float, storage_share: float, constants: Constants) -> int:
    """How many may exist: the highest level still worth keeping. `storage_share`: price of a stopped worker over a hot one's."""
    is_kept = at_s - memory.pool_used_s <= _kept_s(memory, at_s, storage_share, constants)
    unkept = int(is_kept[::-1].argmax())  # on top of the highest that is kept
    levels = POOL_LEVELS - unkept if is_kept[-1 - unkept] else 0
    return max(levels * memory.pool_width, memory.pool_hot)


def _kept_s(memory: Memory, at_s: float, storage_share: float, constants: Constants) -> NDArray[np.float32]:
    """How long after its last use each level is kept."""
    age_s = max(at_s - memory.began_s, _DAY_S)
    memory_days = constants.pool_half_life_s / log(2) * (1 - 0.5 ** (age_s / constants.pool_half_life_s)) / _DAY_S
    per_day = np.maximum(memory.pool_uses / memory_days, constants.pool_least_uses_per_day)
    kept_s = constants.creation_worth_s / max(storage_share, 1e-3) * per_day
    return np.asarray(np.minimum(np.maximum(kept_s, constants.pool_kept_least_s), constants.pool_kept_most_s))


def _level(memory: Memory, workers: int) -> int:
    return min(ceil(workers / memory.pool_width), POOL_LEVELS)


def _widen(memory: Memory, most: int) -> None:
    """A pool that may have more workers than there are levels counts several to a level."""
    width = max(1, ceil(most / POOL_LEVELS))
    if width == memory.pool_width:
        return
    source = np.minimum(np.arange(POOL_LEVELS) * width // memory.pool_width, POOL_LEVELS - 1)
    memory.pool_uses = memory.pool_uses[source].copy()
    memory.pool_used_s = memory.pool_used_s[source].copy()
    memory.pool_width = width
