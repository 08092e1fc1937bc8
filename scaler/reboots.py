"""A worker that failed while it served is rebooted before it is replaced: its machine is paid, its model lies on the disk.

proven, then failed or silent --> reboot --> ready again
                                    +--> failed again, or within its budget no more --> replaced

The budget is per worker and per group in any hour, so that a fault which a reboot does not mend costs a few of them and not an endless
loop. A start that never served is not rebooted: that is for the breaker to judge.
"""

from __future__ import annotations

import msgspec

from schemas.reasons import Cause

from .types import EndpointState, GroupMemory, Intent, Policy, WorkerFact

_replace = msgspec.structs.replace

WITHIN_S = 3600.0
_KEPT = 32

#: The machine is gone or another start of the same would end in the same way.
_FRUITLESS = frozenset(
    {
        Cause.NO_OFFER,
        Cause.PRICE_CAP,
        Cause.BUDGET,
        Cause.RENT_FAILED,
        Cause.HOST_LOST,
        Cause.PREEMPTED,
        Cause.PROTOCOL_MISMATCH,
        Cause.AUTH,
        Cause.HALTED,
    }
)
#: What the provider has while a machine is still ours to boot.
_BOOTABLE = frozenset({"running", "failed"})


def may(worker: WorkerFact, memory: GroupMemory | None, ordered: int, policy: Policy, now: float) -> bool:
    """Whether this failed worker may be rebooted, with `ordered` more of its group in the plan already."""
    cause = worker.failure.cause if worker.failure is not None else Cause.START_CRASH
    if not worker.proven or worker.ready_at is None or worker.gone_at is not None or worker.drain is not None:
        return False
    if worker.intent is not None or cause in _FRUITLESS or worker.instance_state not in _BOOTABLE:
        return False
    of_group = memory.rebooted_at if memory is not None else ()
    return (
        recent(worker.rebooted_at, now) < policy.reboots_per_worker and recent(of_group, now) + ordered < policy.reboots_per_group
    )


def recent(rebooted_at: tuple[float, ...], now: float) -> int:
    """How many of them are within the hour."""
    return sum(1 for at in rebooted_at if at > now - WITHIN_S)


def ordered(worker: WorkerFact, intent: Intent, at: float) -> WorkerFact:
    """The worker once its reboot is commanded."""
    return _replace(worker, intent=intent, rebooted_at=_with(worker.rebooted_at, at))


def counted(state: EndpointState, worker: WorkerFact, at: float) -> EndpointState:
    """The state with this reboot on its group's account."""
    memory = state.groups.get(worker.group_id)
    if memory is None:
        return state
    memory = _replace(memory, rebooted_at=_with(memory.rebooted_at, at))
    return _replace(state, groups={**state.groups, worker.group_id: memory})


def _with(rebooted_at: tuple[float, ...], at: float) -> tuple[float, ...]:
    return (*(before for before in rebooted_at if before > at - WITHIN_S), at)[-_KEPT:]
