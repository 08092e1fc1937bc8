"""Rounding as the peers do it, without the accidents of binary fractions."""

from __future__ import annotations

from math import ceil


def round_up(value: float) -> int:
    """The next whole number above; a value that is whole but for the last bits of a float is that number."""
    return ceil(value - 1e-9)
