"""Server-sent events and lines out of pieces of bytes that end anywhere. Pure, incremental (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from typing import Any

import msgspec

#: A single line above this is not text that somebody streams to us.
MAX_LINE_BYTES = 8 * 1024 * 1024


class Event(msgspec.Struct, frozen=True):
    """One event. `data` has its lines joined by newlines; `name` is "message" when the server gave none."""

    data: str
    name: str = "message"
    id: str = ""

    @property
    def done(self) -> bool:
        """The end mark of OpenAI-style streams."""
        return self.data.strip() == "[DONE]"

    def json(self) -> Any:
        """The data as JSON. Raises msgspec.DecodeError when it is none, as with `[DONE]`."""
        return msgspec.json.decode(self.data.encode())


class LineSplitter:
    """Lines end with LF, CRLF or CR; the ends are cut off."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Complete lines. Raises ValueError when a line grows above MAX_LINE_BYTES."""
        if not piece:
            return []
        ends_with_cr = piece.endswith(b"\r")
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]  # the other half of a CRLF
        self._after_cr = ends_with_cr
        text = self._rest + piece
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
        return lines

    def flush(self) -> list[bytes]:
        """What is left when the stream has ended."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class EventParser:
    """Feed bytes, get events. An event that the stream's end cut off is not one."""

    def __init__(self) -> None:
        self._lines = LineSplitter()
        self._data: list[str] = []
        self._name = ""
        self._id = ""
        self._first = True

    def feed(self, piece: bytes) -> list[Event]:
        events = []
        for line in self._lines.feed(piece):
            event = self._line(line.decode("utf-8", "replace"))
            if event is not None:
                events.append(event)
        return events

    def flush(self) -> list[Event]:
        """At the end of the stream: servers that forget the last blank line are forgiven."""
        last = [event for line in self._lines.flush() if (event := self._line(line.decode("utf-8", "replace")))]
        final = self._dispatch()
        return [*last, final] if final else last

    def _line(self, line: str) -> Event | None:
        if self._first:
            line, self._first = line.removeprefix("\ufeff"), False
        if not line:
            return self._dispatch()
        if line.startswith(":"):
            return None  # a comment keeps the connection warm
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._name = [], ""
        return Event("\n".join(data), name or "message", self._id) if data else None
