"""A small closed-loop HTTP load: keep-alive connections, each with one request under way. Cheap enough to share a machine."""

from __future__ import annotations

import asyncio
import time


class _Connection(asyncio.Protocol):
    """Sends the request again as soon as the answer is whole."""

    def __init__(self, request: bytes, load: Load) -> None:
        self._request = request
        self._load = load
        self._buffer = b""
        self._sent_at = 0

    def connection_made(self, transport):
        self._transport = transport
        self._send()

    def _send(self):
        if self._load.take():
            self._sent_at = time.perf_counter_ns()
            self._transport.write(self._request)
        else:
            self._transport.close()

    def data_received(self, data):
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = buffer
            return
        head = buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(buffer) < end + 4 + length:
            self._buffer = buffer
            return
        self._buffer = b""
        self._load.answered(time.perf_counter_ns() - self._sent_at, buffer, end)
        self._send()

    def connection_lost(self, exc):
        self._load.closed(exc)


class Load:
    """`requests` answers over `connections`; every one must contain `expect`."""

    def __init__(self, requests: int, connections: int, expect: bytes) -> None:
        self._left = requests
        self._open = connections
        self._expect = expect
        self._done = asyncio.get_running_loop().create_future()
        self.latencies_ns: list[int] = []

    def take(self) -> bool:
        self._left -= 1
        return self._left >= 0

    def answered(self, took_ns: int, buffer: bytes, end: int) -> None:
        if not buffer.startswith(b"HTTP/1.1 200") or self._expect not in buffer[end:]:
            self._fail(RuntimeError(f"not the answer expected: {buffer[:300]!r}"))
        self.latencies_ns.append(took_ns)

    def closed(self, exc: Exception | None) -> None:
        if exc is not None:
            self._fail(exc)
        self._open -= 1
        if self._open == 0 and not self._done.done():
            if self._left >= 0:
                self._fail(RuntimeError("the server closed the connections"))
            else:
                self._done.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    async def run(self, port: int, request: bytes, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await loop.create_connection(lambda: _Connection(request, self), "127.0.0.1", port)
        await self._done


async def drive(port: int, request: bytes, *, requests: int, connections: int, expect: bytes) -> list[int]:
    """Send them; the latencies in ns. Raises RuntimeError at the first answer that is not as expected."""
    load = Load(requests, connections, expect)
    await load.run(port, request, connections)
    return load.latencies_ns


def post(path: str, body: bytes, key: str = "") -> bytes:
    """One request, as bytes."""
    auth = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{auth}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
