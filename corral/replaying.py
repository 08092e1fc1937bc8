"""Decisions held against their inputs by the scaler's own code, which runs as a process of its room: it is never imported here.

`python -m scaler.replay_tool`: one decision a line in, one finding a line out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from . import service
from .errors import StartError

_TOOL = "scaler.replay_tool"
_LINE_LIMIT_BYTES = 4 * 1024 * 1024
_END_S = 10.0

#: What must not be, and what this version cannot say.
WRONG = frozenset({"different", "broken", "missing", "unreadable"})
UNCHECKED = "unchecked"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """About one decision; `outcome` is equal, different, broken, missing, unchecked or unreadable (see scaler/audit.py)."""

    outcome: str
    endpoint_id: int = 0
    decision_id: str = ""
    generation: int = 0
    at: float = 0.0
    policy: str = ""
    field: str = ""  #: the first that differs
    told: str = ""  #: as JSON
    derived: str = ""
    text: str = ""
    anew: bool = False  #: the chain begins here, though there were decisions before

    @property
    def is_wrong(self) -> bool:
        return self.outcome in WRONG


class Replayer:
    """`check` one decision after the other, each endpoint's in the order in which they were told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def check(self, decision: bytes) -> Finding:
        """`decision` is the event as JSON, without a line end. Raises StartError when the process died."""
        told, answers = self._process.stdin, self._process.stdout
        assert told is not None
        assert answers is not None
        with contextlib.suppress(ConnectionError):  # what it said before it died says more
            told.write(decision + b"\n")
            await told.drain()
        line = await answers.readline()
        if not line:
            raise StartError(
                f"the check ended by itself: {await self._last_words()}", "`corral doctor` looks at the installation"
            )
        return msgspec.json.decode(line, type=Finding)

    async def _last_words(self) -> str:
        assert self._process.stderr is not None
        words = (await self._process.stderr.read()).decode("utf-8", "replace").strip().splitlines()
        return words[-1] if words else f"status {await self._process.wait()}"


@contextlib.asynccontextmanager
async def replayer() -> AsyncIterator[Replayer]:
    """The scaler's room answers for as long as the context is open. Raises StartError."""
    # -P: the working directory is not on its path. See service.py for how a room is found.
    argv = (sys.executable, "-P", str(Path(service.__file__)), str(os.getpid()), _TOOL)
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT_BYTES,
        )
    except OSError as error:
        raise StartError(f"cannot start {_TOOL}: {error}", f"tried: {' '.join(argv)}") from error
    try:
        yield Replayer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
