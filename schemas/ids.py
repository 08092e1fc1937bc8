"""Names of things, and how they look as one token of a NATS subject.

An endpoint is `e42`, a worker group `g7`, a worker `w281474976710655`. The digits are the whole identity, because the
public Vast clients know endpoints, groups and workers as integers.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

EndpointId = NewType("EndpointId", int)
GroupId = NewType("GroupId", int)
WorkerId = NewType("WorkerId", str)  #: "w" and digits; unique for ever
CommandId = NewType("CommandId", str)  #: "e42.g7.s0": endpoint, generation, slot

#: What may stand in one token of a subject or key.
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_WORKER = re.compile(r"w[0-9]{1,16}")
_ENDPOINT = re.compile(r"e[0-9]{1,16}")


def is_token(text: str) -> bool:
    return TOKEN.fullmatch(text) is not None


def endpoint_token(endpoint_id: EndpointId) -> str:
    return f"e{endpoint_id:d}"


def endpoint_from_token(token: str) -> EndpointId:
    """Raises ValueError when the token does not name an endpoint."""
    if _ENDPOINT.fullmatch(token) is None:
        raise ValueError(f"not an endpoint token: {token!r}; expected e<digits>")
    return EndpointId(int(token[1:]))


def worker_id(text: str) -> WorkerId:
    """Raises ValueError when the text is not a worker id."""
    if _WORKER.fullmatch(text) is None:
        raise ValueError(f"not a worker id: {text!r}; expected w<digits>")
    return WorkerId(text)


def worker_number(wid: WorkerId) -> int:
    """The integer by which Vast's clients and PyWorker (CONTAINER_ID) know this worker."""
    return int(wid[1:])


def command_id(endpoint_id: EndpointId, generation: int, slot: int) -> CommandId:
    """Deterministic, so that a new leader that decides the same thing again says it with the same id."""
    return CommandId(f"{endpoint_token(endpoint_id)}.g{generation}.s{slot}")


def worker_id_for(command: CommandId, salt: str = "") -> WorkerId:
    """The id of the worker that a create command asks for: 48 bits of its hash, so a repeat names the same worker.

    `salt` is the installation's id: two installations that meet at one provider must not share worker ids.
    """
    digest = hashlib.sha256(f"{salt}/{command}".encode()).digest()
    return WorkerId(f"w{int.from_bytes(digest[:6], 'big')}")
