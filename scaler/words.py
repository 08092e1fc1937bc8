"""Counts as people say them, and no more than there is room for."""

from __future__ import annotations


def wait(count: int) -> str:
    """1 request waits, 3 requests wait."""
    return "1 request waits" if count == 1 else f"{count} requests wait"


def are_here(count: int) -> str:
    """1 request is here, 3 requests are here."""
    return "1 request is here" if count == 1 else f"{count} requests are here"


def slots(count: int) -> str:
    """1 slot, 3 slots."""
    return "1 slot" if count == 1 else f"{count} slots"


def cut(text: str, chars: int) -> str:
    """At most so many characters of it."""
    return text if len(text) <= chars else text[: chars - 1] + "…"
