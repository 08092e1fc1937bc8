"""The states of a worker and of an endpoint, and what may follow what.

                          +-----------------------------------------------+
                          v                                               |
    pending -> creating -> loading -> model_loading -> benchmarking -> ready -> draining
                                ^                                         |        |
                                |                                         |        v
                           starting <---------- stopped <---------------- | --- stopping
                                                   |                      v
    any living state -> error | rebooting | updating      any -> destroying -> gone

*Hot* states serve or soon will; *cold* is `stopped`: the model lies on disk and is back in seconds.
"""

from __future__ import annotations

from enum import StrEnum


class WorkerState(StrEnum):
    PENDING = "pending"  #: asked for, not yet at the provider
    CREATING = "creating"  #: the provider prepares the machine
    LOADING = "loading"  #: the machine boots, the image loads
    MODEL_LOADING = "model_loading"
    BENCHMARKING = "benchmarking"
    READY = "ready"  #: routable
    DRAINING = "draining"  #: no new tickets; finishes what it has
    STOPPING = "stopping"
    STOPPED = "stopped"  #: cold
    STARTING = "starting"  #: cold, on its way to ready
    UPDATING = "updating"
    REBOOTING = "rebooting"
    ERROR = "error"
    DESTROYING = "destroying"
    GONE = "gone"


class EndpointState(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"  #: no scaling; workers stay as they are
    STOPPED = "stopped"  #: all workers cold


#: On their way to ready: they count as capacity already bought.
COMING = frozenset(
    {
        WorkerState.PENDING,
        WorkerState.CREATING,
        WorkerState.LOADING,
        WorkerState.MODEL_LOADING,
        WorkerState.BENCHMARKING,
        WorkerState.STARTING,
        WorkerState.REBOOTING,
        WorkerState.UPDATING,
    }
)
#: Hot: serving or coming.
HOT = COMING | {WorkerState.READY}
#: The machine runs, and costs its hot price.
BILLED = frozenset(WorkerState) - {
    WorkerState.PENDING,
    WorkerState.CREATING,
    WorkerState.STOPPED,
    WorkerState.DESTROYING,
    WorkerState.GONE,
}
#: States a worker itself may claim in a heartbeat.
SELF_REPORTED = frozenset(
    {
        WorkerState.LOADING,
        WorkerState.MODEL_LOADING,
        WorkerState.BENCHMARKING,
        WorkerState.READY,
        WorkerState.DRAINING,
        WorkerState.ERROR,
    }
)
#: The name Vast's clients know a state by (vastai reads "idle" as ready).
VAST_STATUS = {WorkerState.READY: "idle"}


def vast_status(state: WorkerState) -> str:
    return VAST_STATUS.get(state, str(state))
