"""What a group's starts teach: how long they take, how often they fail, and when to stop trying.

start ok ------> failures in a row = 0, boot time and price learned
start failed --> the template's fault (crash, out of memory, hang ...): back off 5, 10, 20 ... s; the third in a row
opens the breaker: nothing more is bought until the template changes or a person says so
--> the market's fault (no offer, price, host gone, no answer ...): back off only, up to five minutes

What was refused before it began (no offer, price, budget) says nothing about how often starts fail.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.ids import GroupId
from schemas.reasons import Cause, Phase
from schemas.records import UNMANAGED_PROVIDERS, Failure

from .types import Breaker, EndpointState, GroupMemory, HostMemory, Policy, WorkerFact

_replace = msgspec.structs.replace

#: Not the template's fault: another try may well succeed, so they never open the breaker.
MARKET_CAUSES = frozenset({Cause.NO_OFFER, Cause.PRICE_CAP, Cause.BUDGET, Cause.RENT_FAILED, Cause.HOST_LOST, Cause.PREEMPTED})

#: Nothing was started, so nothing is learned of starts.
_REFUSALS = frozenset({Cause.NO_OFFER, Cause.PRICE_CAP, Cause.BUDGET})

_KEPT_BOOTS = 16
_GOOD_HOSTS = 2  #: of one that fails, the other is elsewhere
_FAILED_HOSTS = 8  #: that are remembered by name
_DECAY = 0.9  #: each start weighs this much of the one after it
_PERF_WEIGHT = 0.3  #: of a new benchmark in the group's smoothed perf


def memory_of(state: EndpointState, group_id: GroupId, revision: int) -> GroupMemory:
    """What is known of a group at a template revision. A new revision starts with a clean sheet of failures; boot times,
    perf and price of the old one are the best guess, and reboots are counted on.
    """
    known = state.groups.get(group_id)
    if known is None:
        return GroupMemory(revision=revision)
    if revision > known.revision:
        return GroupMemory(
            revision=revision,
            boot_new_s=known.boot_new_s,
            boot_cold_s=known.boot_cold_s,
            perf=known.perf,
            slots=known.slots,
            offer_usd_per_hour=known.offer_usd_per_hour,
            offer_storage_usd_per_hour=known.offer_storage_usd_per_hour,
            usd_per_hour=known.usd_per_hour,
            phase_s=known.phase_s,
            rebooted_at=known.rebooted_at,
        )
    return known


def start_failed(
    memory: GroupMemory, failure: Failure, phase: Phase, cost_usd: float, at: float, policy: Policy, *, host: str = ""
) -> GroupMemory:
    """The memory after one more failed start. `host`: where; "": nowhere yet, or nobody knows."""
    market = _is_the_markets(failure.cause, phase)
    in_row = memory.failed_in_row + (0 if market else 1)
    missed = memory.missed_in_row + (1 if market else 0)
    step = missed if market else in_row
    wait_s = min(policy.backoff_first_s * 2.0 ** min(step - 1, 16), policy.backoff_max_s)
    cost_usd += memory.failed_cost_usd
    breaker = memory.breaker
    if breaker is None and in_row >= policy.breaker_failures:
        breaker = Breaker(revision=memory.revision, opened_at=at, cause=failure.cause, failures=in_row, cost_usd=cost_usd)
    elif breaker is not None:
        breaker = _replace(breaker, failures=in_row, cost_usd=cost_usd)
    return _replace(
        memory,
        failed_in_row=in_row,
        last_failure=failure,
        last_phase=phase,
        failed_cost_usd=cost_usd,
        missed_in_row=missed,
        backoff_until_at=max(memory.backoff_until_at, at + wait_s),
        failed_hosts=memory.failed_hosts if market else failed_on(memory, host).failed_hosts,
        breaker=breaker,
        **_counted(memory, failed=failure.cause not in _REFUSALS),
    )


def failed_on(memory: GroupMemory, host: str) -> GroupMemory:
    """The memory after a worker failed there. "": nobody knows where."""
    if not host:
        return memory
    return _replace(memory, failed_hosts=(*_without(memory.failed_hosts, host), host)[-_FAILED_HOSTS:])


def _without(hosts: tuple[str, ...], host: str) -> tuple[str, ...]:
    return tuple(name for name in hosts if name != host)


def _is_the_markets(cause: Cause, phase: Phase) -> bool:
    """A provider that does not answer hangs before there is anything that the template could have done wrong."""
    return cause in MARKET_CAUSES or (cause is Cause.HANG and phase is Phase.RENT)


def _counted(memory: GroupMemory, *, failed: bool) -> dict[str, float]:
    """The decayed counts with one more failed start."""
    if not failed:
        return {}
    return {"starts_ok": memory.starts_ok * _DECAY, "starts_failed": memory.starts_failed * _DECAY + 1.0}


def became_ready(memory: GroupMemory, worker: WorkerFact, at: float) -> GroupMemory:
    """The memory after a worker of this group and revision became ready: how long it took, how fast it is and its price."""
    took_s = max(0.0, at - worker.launched_at)
    was_started = worker.launched_at > 0 and worker.provider not in UNMANAGED_PROVIDERS  # else people brought it, as it is
    boots = {"boot_cold_s" if worker.from_cold else "boot_new_s": took_s} if was_started else {}
    kept = {name: (*getattr(memory, name), took)[-_KEPT_BOOTS:] for name, took in boots.items()}
    perf = memory.perf
    if worker.perf > 0:
        perf = worker.perf if perf <= 0 else perf + _PERF_WEIGHT * (worker.perf - perf)
    slots = worker.slots or memory.slots
    others = _without(memory.good_hosts, worker.host)
    good_hosts = (*others, worker.host)[-_GOOD_HOSTS:] if worker.host else others
    return _replace(
        memory,
        ready_seen=True,
        good_hosts=good_hosts,
        failed_hosts=_without(memory.failed_hosts, worker.host),
        perf=perf,
        slots=slots,
        usd_per_hour=worker.usd_per_hour,
        **kept,
    )


def start_proven(memory: GroupMemory) -> GroupMemory:
    """The memory after a start held: whatever failed before was not the template."""
    return _replace(
        memory,
        breaker=None,
        failed_in_row=0,
        last_failure=None,
        last_phase=None,
        failed_cost_usd=0.0,
        missed_in_row=0,
        backoff_until_at=0.0,
        starts_ok=memory.starts_ok * _DECAY + 1.0,
        starts_failed=memory.starts_failed * _DECAY,
    )


def breaker_reset(memory: GroupMemory) -> GroupMemory:
    """The memory after a person said: try again."""
    return _replace(
        memory, breaker=None, failed_in_row=0, failed_cost_usd=0.0, missed_in_row=0, backoff_until_at=0.0, failed_hosts=()
    )


def failure_rate(memory: GroupMemory) -> float:
    """Share of recent starts that failed, 0..1; 0 while nothing is known."""
    total = memory.starts_ok + memory.starts_failed
    return memory.starts_failed / total if total >= 1.0 else 0.0


def counted_failure_rate(memory: GroupMemory, policy: Policy) -> float:
    """The failure rate as far as it is to be counted with: above learn_failure_rate and from enough starts, else 0."""
    rate = failure_rate(memory)
    enough = memory.starts_ok + memory.starts_failed >= policy.sure_starts
    return rate if enough and rate > policy.learn_failure_rate else 0.0


def boot_s(memory: GroupMemory, *, from_cold: bool, guess_s: float, quantile: float = 0.5) -> float:
    """Seconds from the command to ready that a start takes with this probability; `guess_s` while nothing is known."""
    seen = memory.boot_cold_s if from_cold else memory.boot_new_s
    if not seen:
        return guess_s
    ranked = sorted(seen)
    return ranked[min(len(ranked) - 1, int(quantile * len(ranked)))]


def works_elsewhere(memory: GroupMemory, hosts: Mapping[str, HostMemory], host: str, at: float) -> bool:
    """Whether the same template became ready on another host that is not shut out itself. Who has one host only keeps it."""
    shut = {name for name, known in hosts.items() if known.quarantined_until_at > at}
    return any(name != host and name not in shut for name in memory.good_hosts)


def host_failed(memory: HostMemory | None, at: float, policy: Policy, *, template_works: bool) -> HostMemory:
    """What is known of a host after a start failed on it. It is shut out only where the same template works elsewhere."""
    failures = (memory.failures if memory else 0) + 1
    until_at = at + policy.quarantine_s if failures >= policy.host_failures and template_works else 0.0
    until_at = max(until_at, memory.quarantined_until_at if memory else 0.0)
    return HostMemory(failures=failures, quarantined_until_at=until_at, failed_at=at)
