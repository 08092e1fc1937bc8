"""Whole bodies, with a bound."""

from __future__ import annotations

import aiohttp


async def read_up_to(content: aiohttp.StreamReader, limit_bytes: int) -> tuple[bytes, bool]:
    """The body, and whether that was all of it. What is beyond the limit stays unread; at most one piece more is held."""
    parts: list[bytes] = []
    size = 0
    while size <= limit_bytes:
        part = await content.readany()
        if not part:
            return b"".join(parts), True
        parts.append(part)
        size += len(part)
    return b"".join(parts), False
