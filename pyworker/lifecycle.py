"""The life of one PyWorker process. Pure: moves in, life out.

    loading --> model_loading --> benchmarking --> ready
                 ^      ^ |           |  |           |
                 |      +-|-----------+  |           |        benchmarking -> model_loading: the model was not there after all
                 |        v              v           v
                 +------ error <---------+-----------+        error -> model_loading: the model is back

Draining lies over it: what was ready goes on with its work and shows as `draining`. `undrain` lifts it; `leave` does not come back.
"""

from __future__ import annotations

import msgspec

from .wire import records, states

W = states.WorkerState

#: state -> what may follow it
NEXT: dict[states.WorkerState, frozenset[states.WorkerState]] = {
    W.LOADING: frozenset({W.MODEL_LOADING, W.ERROR}),
    W.MODEL_LOADING: frozenset({W.BENCHMARKING, W.ERROR}),
    W.BENCHMARKING: frozenset({W.READY, W.MODEL_LOADING, W.ERROR}),
    W.READY: frozenset({W.ERROR}),
    W.ERROR: frozenset({W.MODEL_LOADING}),
}


class IllegalMove(ValueError):
    """The table has no such move; nothing was changed."""


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """`base` is how the model is; `state` is what the world is told."""

    base: states.WorkerState = W.LOADING
    since: float = 0.0  #: unix s of the last change
    failure: records.Failure | None = None  #: set in `error`, and only there
    draining_since: float | None = None  #: unix s
    leaving: bool = False  #: the process will end

    @property
    def state(self) -> states.WorkerState:
        return W.DRAINING if self.draining_since is not None and self.base is not W.ERROR else self.base

    @property
    def draining(self) -> bool:
        return self.draining_since is not None

    def to(self, base: states.WorkerState, now: float) -> Life:
        """Raises IllegalMove. For `error` see fail()."""
        if base is W.ERROR:
            raise IllegalMove("error needs a failure: use fail()")
        if base not in NEXT[self.base]:
            raise IllegalMove(f"{self.base} -> {base}")
        return msgspec.structs.replace(self, base=base, since=now, failure=None)

    def fail(self, failure: records.Failure, now: float) -> Life:
        """From any state. A second failure in `error` keeps the first: it is the cause."""
        if self.base is W.ERROR:
            return self
        return msgspec.structs.replace(self, base=W.ERROR, since=now, failure=failure)

    def drain(self, now: float, *, leaving: bool = False) -> Life:
        since = now if self.draining_since is None else self.draining_since
        return msgspec.structs.replace(
            self, draining_since=since, leaving=self.leaving or leaving, since=now if self.draining_since is None else self.since
        )

    def undrain(self, now: float) -> Life:
        """Raises IllegalMove when the process is already leaving."""
        if self.leaving:
            raise IllegalMove("the worker is leaving and takes no more requests")
        return self if self.draining_since is None else msgspec.structs.replace(self, draining_since=None, since=now)
