"""A memory by another clock: the leader who stored it was ahead of us, so what it saw last lies in our future."""

from __future__ import annotations

import msgspec

from . import leap
from .types import EndpointState

#: Whoever leads now has waited for the lease, so nothing was stored more recently than this.
_STORED_AGO_S = 2.0


def by_our_clock(state: EndpointState, now: float) -> EndpointState:
    """The state moved into the past. How long ago it was nobody knows: at least a moment. The demand engine moves its own memory, by what
    came meanwhile.
    """
    if state.at <= now:
        return state
    moved = leap.along(state, now - _STORED_AGO_S - state.at)
    return msgspec.structs.replace(moved, at=now, engine=state.engine)
