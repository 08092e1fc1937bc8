"""Sums and maxima over the recent past, in equal buckets of time. Bounded, and a value like everything else.

Bucket k covers [k * bucket_s, (k + 1) * bucket_s). A reader asks for the last `over_s` seconds and gets the newest, still
filling bucket and as many full ones as make up that time.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import msgspec

from .types import Window

_replace = msgspec.structs.replace


def fresh(bucket_s: float, size: int, at: float) -> Window:
    """An empty window of `size` buckets; what was before `at` is unknown, not zero."""
    return Window(bucket_s=bucket_s, size=size, last=int(at // bucket_s), since_at=at, values=(0.0,) * size)


def advanced(window: Window, at: float) -> Window:
    """The window with its newest bucket at `at`; time that passed in between counts as zero. Never goes back."""
    steps = int(at // window.bucket_s) - window.last
    if steps <= 0:
        return window
    kept = window.values[steps:] if steps < window.size else ()
    return _replace(window, last=window.last + steps, values=kept + (0.0,) * (window.size - len(kept)))


def shifted(window: Window, at: float, by_s: float) -> Window:
    """The window by a clock that is `by_s` behind the one that says `at`. As precise as its buckets."""
    buckets = int(at // window.bucket_s) - int((at - by_s) // window.bucket_s)
    return _replace(window, last=window.last - buckets, since_at=window.since_at - by_s)


def added(window: Window, at: float, amount: float) -> Window:
    """The window with `amount` more in its newest bucket."""
    moved = advanced(window, at)
    return _replace(moved, values=(*moved.values[:-1], moved.values[-1] + amount))


def spread(window: Window, begin_at: float, at: float, amount: float) -> Window:
    """The window with `amount` more, evenly over the time from `begin_at` to `at`: what came while nobody listened."""
    moved = advanced(window, at)
    if begin_at >= moved.last * moved.bucket_s or begin_at >= at:
        return added(moved, at, amount)
    values = list(moved.values)
    for back in range(moved.size):
        bucket_at = (moved.last - back) * moved.bucket_s
        if bucket_at + moved.bucket_s <= begin_at:
            break
        covered_s = min(at, bucket_at + moved.bucket_s) - max(begin_at, bucket_at)
        values[-1 - back] += amount * covered_s / (at - begin_at)
    return _replace(moved, values=tuple(values))


def raised(window: Window, at: float, value: float) -> Window:
    """The window whose newest bucket is at least `value`."""
    moved = advanced(window, at)
    if moved.values[-1] >= value:
        return moved
    return _replace(moved, values=(*moved.values[:-1], value))


def mean_per_s(window: Window, at: float, over_s: float) -> float | None:
    """Average rate over the last `over_s` seconds, or since measuring began if that is later.

    None while less than one bucket was measured: a rate over an instant would be noise.
    """
    moved = advanced(window, at)
    count = _buckets(moved, over_s)
    begin_at = max((moved.last - count + 1) * moved.bucket_s, moved.since_at)
    elapsed_s = at - begin_at
    if at - moved.since_at < moved.bucket_s or elapsed_s <= 0:
        return None
    return sum(moved.values[-count:]) / elapsed_s


def peak(window: Window, at: float, over_s: float) -> float:
    """The highest bucket of the last `over_s` seconds; 0 when nothing was put in."""
    moved = advanced(window, at)
    return max(moved.values[-_buckets(moved, over_s) :])


def busiest_per_s(window: Window, at: float, over_s: float) -> float:
    """The highest rate over two buckets in a row within the last `over_s` seconds; what is still filling counts as it is."""
    moved = advanced(window, at)
    recent = moved.values[-_buckets(moved, over_s) :]
    pairs = [before + after for before, after in pairwise(recent[:-1])] or [recent[-1]]
    return max(pairs) / (2 * moved.bucket_s)


def _buckets(window: Window, over_s: float) -> int:
    return min(window.size, max(1, ceil(over_s / window.bucket_s) + 1))
