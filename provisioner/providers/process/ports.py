"""Ports for workers: blocks of four below the range the kernel uses for outgoing connections, so that a port which is free
when we look is still free when the worker binds it a moment later.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable, Collection

from provisioner.provider import Transient
from schemas.reasons import Cause

from .files import Ports

#: WORKER_PORT, WORKER_HTTP_PORT (Vast's PyWorker takes the one above), MODEL_PORT, and one to spare.
BLOCK = 4
_MODEL = 2


def allocate(
    seed: str, span: tuple[int, int], taken: Collection[int], is_free: Callable[[int], bool] | None = None, *, skip: int = 0
) -> Ports:
    """A block of which nothing is reserved by another worker nor listened on. Where the search begins depends on `seed`
    (the directory and worker), so that two installations on one machine rarely meet. `skip`: blocks passed over.

    Raises Transient(PORT_CONFLICT) when the span is full.
    """
    free = is_free or is_port_free
    first, last = span
    blocks = (last - first + 1) // BLOCK
    begin = zlib.crc32(seed.encode()) + skip
    for step in range(blocks):
        base = first + (begin + step) % blocks * BLOCK
        block = range(base, base + BLOCK)
        if not any(port in taken for port in block) and all(free(port) for port in block[: _MODEL + 1]):
            return Ports(worker=base, model=base + _MODEL)
    raise Transient(
        Cause.PORT_CONFLICT,
        f"no free block of {BLOCK} ports between {first} and {last}",
        hint="widen PROVISIONER_PROCESS_PORTS or destroy stopped workers",
    )


def block_of(ports: Ports) -> range:
    return range(ports.worker, ports.worker + BLOCK)


def are_free(ports: Ports) -> bool:
    return all(is_port_free(port) for port in (ports.worker, ports.worker + 1, ports.model))


def is_port_free(port: int) -> bool:
    """Whether nobody listens on it, on loopback or on all addresses."""
    for address in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - bound for a moment, never listened on
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
