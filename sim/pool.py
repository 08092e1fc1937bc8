"""The ready workers of one group, by how many requests each is serving.

One bit mask per count, so that "the least busy worker with a free slot, lowest number first" takes a few machine words however
many workers there are.
"""

from __future__ import annotations


class Pool:
    __slots__ = ("_masks", "_slots")

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._masks = [0] * (slots + 1)

    def add(self, worker: int, serving: int) -> None:
        self._masks[serving] |= 1 << worker

    def remove(self, worker: int, serving: int) -> None:
        self._masks[serving] &= ~(1 << worker)

    def move(self, worker: int, serving: int, serving_now: int) -> None:
        bit = 1 << worker
        self._masks[serving] ^= bit
        self._masks[serving_now] ^= bit

    def least_busy_with_room(self) -> int | None:
        """The worker that should have the next request, or None when every slot is taken."""
        masks = self._masks
        for serving in range(self._slots):
            mask = masks[serving]
            if mask:
                return (mask & -mask).bit_length() - 1
        return None

    def least_busy_load(self) -> float | None:
        """The share of its slots that this worker has taken; None when every slot is taken."""
        for serving in range(self._slots):
            if self._masks[serving]:
                return serving / self._slots
        return None

    def first_to_go(self) -> int | None:
        """The worker whose stop interrupts least: an idle one, else the least busy; the highest number among equals."""
        for mask in self._masks:
            if mask:
                return mask.bit_length() - 1
        return None
