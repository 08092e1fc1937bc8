"""A place in a stream, and what follows it: read by sequence, woken by the messages themselves.

Whatever is stored in a stream was published before, so a plain subscription on its subjects tells when to look. It tells only
that: what the message says is read from the stream, in order, complete, and again if need be. No consumer has to exist on the
server, so none is lost with a server, and nobody needs the right to make one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from .connection import Link
from .jetstream import JetStream, Stored

#: A message is heard when it is published, which is before it is stored and, in a cluster, before the replica that we ask has it.
_LOOK_AGAIN_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


class Cursor:
    """Open it, move it with `seek` or `since`, then `read` and `wait` in turns. `room` is awaited before each batch but the first."""

    def __init__(
        self,
        link: Link,
        jetstream: JetStream,
        stream: str,
        subjects: Sequence[str],
        room: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._link = link
        self._js = jetstream
        self._stream = stream
        self._subjects = tuple(subjects)
        self._room = room
        self._heard = asyncio.Event()
        self._since = ""
        self._opened = contextlib.AsyncExitStack()
        self.seq = 0  #: of the last message read

    async def open(self) -> None:
        """Start to listen. Raises BusRefused."""
        for subject in self._subjects:
            subscribed = await self._link.subscribe(subject, lambda _: self._heard.set())
            self._opened.push_async_callback(subscribed.stop)

    async def close(self) -> None:
        await self._opened.aclose()

    def wake(self) -> None:
        self._heard.set()

    def seek(self, seq: int) -> None:
        """Go on after this sequence."""
        self.seq, self._since = seq, ""

    def since(self, at: float, *, otherwise_seq: int) -> None:
        """Go on with what was stored at this time (unix seconds) or later; after `otherwise_seq` when there is nothing."""
        self.seq = otherwise_seq
        self._since = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")

    async def wait(self, timeout_s: float) -> None:
        """Until there may be something to read, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._heard.wait()

    async def rest(self, timeout_s: float) -> None:
        """After a failure: until something is heard from now on (wake() when the connection is back), or the time is over."""
        self._heard.clear()
        await self.wait(timeout_s)

    async def read(self, on_message: Callable[[Stored], None]) -> None:
        """Tell all that follows, oldest first. Having heard a message it looks for it a few times, as it must be there soon.

        Raises BusUnavailable, StreamMissing, BusRefused; what was told by then is not told again.
        """
        heard = self._heard.is_set()
        self._heard.clear()
        for pause_s in (0.0, *(_LOOK_AGAIN_S if heard else ())):
            await asyncio.sleep(pause_s)
            if await self._read_present(on_message):
                return

    async def _read_present(self, on_message: Callable[[Stored], None]) -> bool:
        found = False
        pattern = self._subjects[0] if len(self._subjects) == 1 else ">"
        while True:
            batch = await self._js.read(self._stream, seq=self.seq + 1, since=self._since, pattern=pattern)
            self._since = ""
            for stored in batch.messages:
                self.seq = stored.seq
                if pattern != ">" or any(matches(subject, stored.subject) for subject in self._subjects):
                    on_message(stored)
            found = found or bool(batch.messages)
            if not batch.pending or not batch.messages:
                return found
            if self._room is not None:
                await self._room()


def matches(pattern: str, subject: str) -> bool:
    """NATS's wildcards: * is one token, > is one or more at the end."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":  # noqa: S105
            return len(given) > index
        if index >= len(given) or token not in {"*", given[index]}:
            return False
    return len(wanted) == len(given)
