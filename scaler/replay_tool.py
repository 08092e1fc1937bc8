"""python -m scaler.replay_tool: decisions as JSON lines on stdin, what deciding again gives as JSON lines on stdout.

One line in, one line out, in order, until the input ends. `corral replay` and `corral explain` start it as a process of this room.
It reads nothing else, needs no bus and no settings.
"""

from __future__ import annotations

import sys
from typing import BinaryIO

import msgspec

from schemas import codec
from schemas.events import Decided

from .audit import Auditor


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a line that is no decision."""

    text: str
    outcome: str = "unreadable"


def main(lines: BinaryIO, answers: BinaryIO) -> None:
    auditor = Auditor()
    for line in lines:
        try:
            event = codec.event(line)
        except msgspec.DecodeError as error:
            answer: msgspec.Struct = Unreadable(text=f"not an event: {error}")
        else:
            answer = auditor.take(event) if isinstance(event, Decided) else Unreadable(text="an event, but no decision")
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
