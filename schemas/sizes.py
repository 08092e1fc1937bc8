"""Sizes of requests in classes of a quarter octave: precise to a tenth, and few enough to be counted in a message."""

from __future__ import annotations

import math

PER_OCTAVE = 4
#: Sizes beyond these bounds count as the bound: 2**-10 and 2**40 work units.
_LOWEST, _HIGHEST = -10 * PER_OCTAVE, 40 * PER_OCTAVE


def class_of(units: float) -> int:
    """The class of a request of so many work units, at least 0."""
    if units <= 0:
        return _LOWEST
    return min(max(math.floor(PER_OCTAVE * math.log2(units)), _LOWEST), _HIGHEST)


def units_of(size_class: int) -> float:
    """A typical size of the class: its geometric middle."""
    return float(2.0 ** ((size_class + 0.5) / PER_OCTAVE))
