"""Where workers come from, as the provisioner sees it: one small interface, and the two ways it can say no.

    ProviderError
    +-- Transient   may work later: rate limit, timeout, a busy host. The provisioner tries again
    +-- Permanent   will not work like this: the command becomes a dead letter with this cause

Every call is idempotent by worker id, which is also the label the machine carries at the provider. That is what makes a
repeated command harmless: whoever finds a claim without a result asks the provider by label before calling again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from runtime.errors import CorralError
from schemas.ids import CommandId, EndpointId, GroupId, WorkerId
from schemas.reasons import Cause
from schemas.records import Failure, Template

LOG_TAIL_BYTES = 4096  #: most that an event carries of a worker's log


class ProviderError(CorralError):
    """A provider said no."""

    def __init__(self, cause: Cause, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.cause = cause


class Transient(ProviderError):
    """May work later, not before `retry_after_s`. `cause` is what the dead letter says when patience ends."""

    def __init__(self, cause: Cause, message: str, *, retry_after_s: float = 0.0, hint: str = "") -> None:
        super().__init__(cause, message, hint)
        self.retry_after_s = retry_after_s


class Permanent(ProviderError):
    """Will not work however often it is tried. `log_tail`: the worker's own last words, when it had any."""

    def __init__(self, cause: Cause, message: str, *, hint: str = "", log_tail: str = "") -> None:
        super().__init__(cause, message, hint)
        self.log_tail = log_tail


class MachineState(StrEnum):
    """What a provider knows of a machine; whether the model is ready is the worker's own business."""

    CREATING = "creating"  #: accepted, nothing runs yet
    RUNNING = "running"
    STOPPED = "stopped"  #: on request; its disk is kept
    EXITED = "exited"  #: ended by itself; `failure` says why
    DESTROYING = "destroying"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One thing at a provider that carries our label. Enough to write its record again should that be lost."""

    worker_id: WorkerId  #: the label
    endpoint_id: EndpointId
    group_id: GroupId
    command_id: CommandId  #: that created it
    state: MachineState
    provider_ref: str = ""  #: the provider's own name for it
    template: Template | None = None
    revision: int = 1
    url: str = ""
    host: str = ""
    gpu_name: str = ""
    num_gpus: int = 0
    usd_per_hour: float = 0.0  #: while it runs
    storage_usd_per_hour: float = 0.0  #: while it is stopped
    created_at: float = 0.0
    started_at: float = 0.0  #: of the latest start
    starts: int = 0
    mtoken_sha256: str = ""
    failure: Failure | None = None  #: only when EXITED
    gone_at: float | None = None  #: the provider gave notice that it takes the machine back then


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to create."""

    worker_id: WorkerId
    endpoint_id: EndpointId
    group_id: GroupId
    command_id: CommandId
    template: Template
    revision: int = 1
    endpoint_name: str = ""
    search_params: str = ""  #: Vast's query string; which hardware
    gpu_ram_gb: float | None = None
    price_cap_usd_per_hour: float | None = None
    #: By the names that machines carry in `host`. Where there is nothing else, say NO_OFFER: the next order leaves out what is no more than
    #: suspected.
    avoid_hosts: tuple[str, ...] = ()


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What could be had now."""

    provider: str
    count: int  #: how many like this
    host: str = ""
    gpu_name: str = ""
    num_gpus: int = 0
    gpu_ram_gb: float = 0.0
    usd_per_hour: float = 0.0


class Provider(Protocol):
    """A place workers come from. All methods raise Transient or Permanent and nothing else on purpose."""

    @property
    def name(self) -> str:
        """As groups name it: "process", "external", ..."""
        ...

    @property
    def preemption_notice_s(self) -> float | None:
        """Warning the provider gives before it takes a machine back; None: it never does."""
        ...

    async def offers(self, order: Order) -> Sequence[Offer]:
        """What fits the order, cheapest first; empty when nothing does."""
        ...

    async def create(self, order: Order) -> Machine:
        """Rent and start. A second call for the same worker id answers with the machine of the first."""
        ...

    async def start(self, worker_id: WorkerId) -> Machine:
        """Start a stopped or exited machine; a running one is left alone. Permanent(HOST_LOST) when there is none."""
        ...

    async def stop(self, worker_id: WorkerId) -> Machine:
        """Stop and keep the disk; returns when nothing of it runs any more. Permanent(HOST_LOST) when there is none."""
        ...

    async def destroy(self, worker_id: WorkerId) -> str:
        """Give it back, whatever its state; absent is fine. Returns the tail of its log."""
        ...

    async def inventory(self) -> Sequence[Machine]:
        """Everything of this installation. Raises rather than leave something out: absence is taken for loss."""
        ...

    async def describe(self, worker_id: WorkerId) -> Machine | None:
        """The machine with this label; None when the provider has none."""
        ...

    async def log_tail(self, worker_id: WorkerId, limit_bytes: int = LOG_TAIL_BYTES) -> str:
        """Last lines of the worker's own log; empty when there is none."""
        ...

    async def watch(self, changed: Callable[[WorkerId], None]) -> None:
        """Calls `changed` soon after a machine ended by itself, until cancelled. A hint: reconcile finds it anyway."""
        ...


def host_lost(provider: str, worker_id: WorkerId) -> Permanent:
    return Permanent(
        Cause.HOST_LOST,
        f"provider {provider} has no machine {worker_id}",
        hint="it was destroyed outside Corral; create a new one",
    )
