"""Follow a stream from some point on, through outages, for as long as somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from .connection import Link
from .cursor import Cursor
from .errors import BusUnavailable, StreamMissing
from .jetstream import JetStream, Stored

log = structlog.get_logger()

_POLL_S = 2.0
_RETRY_S = (0.05, 1.0)

OnStored = Callable[[str, bytes, int], None]


async def follow(
    link: Link,
    jetstream: JetStream,
    stream: str,
    subjects: Sequence[str],
    on_message: OnStored,
    *,
    since_at: float | None,
    room: Callable[[], Awaitable[None]] | None = None,
    caught_up: Callable[[], None] | None = None,
) -> None:
    """Tell every message of the stream that matches, in order, each once, until cancelled. A stream that is made anew is
    told from its start. Outages are waited out; raises BusRefused when we may not read it. `room` and `caught_up`: see Bus.tail.
    """
    cursor = Cursor(link, jetstream, stream, subjects, room)
    link.on_up.append(cursor.wake)
    created = ""
    wait_s = _RETRY_S[0]

    def tell(stored: Stored) -> None:
        try:
            on_message(stored.subject, stored.data, stored.seq)
        except Exception:
            log.exception("tail_listener_failed", stream=stream, seq=stored.seq)

    try:
        await cursor.open()
        while True:
            try:
                facts = await jetstream.facts(stream)
                if not created:
                    cursor.seek(facts.last_seq) if since_at is None else cursor.since(since_at, otherwise_seq=facts.last_seq)
                elif facts.created != created or facts.last_seq < cursor.seq:
                    log.warning("tail_stream_made_anew", stream=stream)
                    cursor.seek(0)
                created = facts.created
                await _read_for(_POLL_S, cursor, tell, caught_up)
                wait_s = _RETRY_S[0]
            except (BusUnavailable, StreamMissing) as error:
                if link.connected:
                    log.warning("tail_failed", stream=stream, error=error.message)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, _RETRY_S[1])
    finally:
        link.on_up.remove(cursor.wake)
        await cursor.close()


async def _read_for(
    duration_s: float, cursor: Cursor, tell: Callable[[Stored], None], caught_up: Callable[[], None] | None
) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + duration_s
    while (left_s := until - loop.time()) > 0:
        await cursor.read(tell)
        if caught_up is not None:
            caught_up()
        await cursor.wait(min(left_s, until - loop.time()))
