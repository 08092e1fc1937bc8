"""How a group stands now: how much of it is here, what one more of it would be like, and whether it may start any."""

from __future__ import annotations

from collections import Counter

import msgspec

from schemas.ids import GroupId
from schemas.reasons import Why

from . import cost, learning
from .roster import Roster
from .types import EndpointState, GroupMemory, GroupSpec, Policy, WorkerFact

#: A try also runs a moment until it is seen to be ready and given up.
_AFTERWARDS_S = 60.0
#: Hosts that a command names to be avoided.
_MOST_AVOIDED = 32


class Closed(msgspec.Struct, frozen=True):
    """Why a group may not start anything now."""

    why: Why
    text: str
    until_at: float | None = None


class Standing:
    """One group at one moment. Counted once per decision; read only."""

    __slots__ = ("_policy", "cold", "coming", "existing", "halted", "hot", "memory", "perf", "spec", "success")

    def __init__(self, spec: GroupSpec, known: GroupMemory, policy: Policy) -> None:
        self._policy = policy
        self.spec = spec
        self.memory = known
        self.halted = known.breaker is not None and known.breaker.revision == spec.revision
        self.perf = known.perf if known.perf > 0 else spec.expected_perf if (spec.expected_perf or 0) > 0 else None
        self.success = 1.0 - learning.counted_failure_rate(known, policy)  #: of starts, as far as it is to be counted with
        self.existing = 0  #: hot, cold and on their way out
        self.coming = 0  #: of the present revision, or the one that works
        self.hot = 0  #: ready or coming, whoever they belong to
        self.cold: list[WorkerFact] = []

    @property
    def name(self) -> str:
        return self.spec.name or f"g{self.spec.id}"

    @property
    def oldest_revision(self) -> int:
        """Workers older than this make way."""
        return self.spec.oldest_revision or self.spec.revision

    @property
    def is_measured(self) -> bool:
        """Its perf is known, or a worker of it was ready and had none to tell: there is nothing to be learned by a try."""
        return self.perf is not None or self.memory.ready_seen

    @property
    def is_worth_a_try(self) -> bool:
        """Whether a start, and a moment until its worker is given up, costs no more than a try may. Where no price is known it may."""
        usd_per_hour = self._usd_per_hour() or 0.0
        return usd_per_hour / 3600.0 * (self.boot_s(from_cold=False) + _AFTERWARDS_S) <= self._policy.learn_usd

    def works_still(self, worker: WorkerFact) -> bool:
        """Of a revision before the one that is halted."""
        breaker = self.memory.breaker
        return breaker is not None and worker.revision < breaker.revision

    def boot_s(self, *, from_cold: bool) -> float:
        """Seconds from the command to ready, as half of its starts took at most."""
        return learning.boot_s(self.memory, from_cold=from_cold, guess_s=self._policy.boot_guess_s)

    def delivered_usd_per_unit(self, *, worker: WorkerFact | None = None) -> float | None:
        """What the work of one more would cost, or of this cold one when it is started; None: nobody knows."""
        usd_per_hour = self._usd_per_hour()
        if worker is not None and self.spec.usd_per_hour is None:
            usd_per_hour = worker.usd_per_hour
        perf = worker.perf if worker is not None and worker.perf > 0 else self.perf
        delivery = cost.Delivery(
            usd_per_hour=usd_per_hour,
            perf=perf,
            boot_s=self.boot_s(from_cold=worker is not None),
            failure_rate=1.0 - self.success,
        )
        return cost.delivered_usd_per_unit(delivery, self._policy.horizon_s)

    def _usd_per_hour(self) -> float | None:
        """What people say, else what is on offer, else what the newest of its workers costs."""
        if self.spec.usd_per_hour is not None:
            return self.spec.usd_per_hour
        offer = self.memory.offer_usd_per_hour
        return offer if offer is not None else self.memory.usd_per_hour


def standings(state: EndpointState, roster: Roster, policy: Policy) -> dict[GroupId, Standing]:
    """All groups of the endpoint, in its order."""
    found = {spec.id: Standing(spec, memory(state, spec), policy) for spec in roster.groups.values()}
    existing = Counter([worker.group_id for worker in roster.living])
    ready = Counter([worker.group_id for worker in roster.serving])
    for group_id, here in found.items():
        here.existing, here.hot = existing[group_id], ready[group_id]
    for worker in roster.coming:
        here = found[worker.group_id]
        here.hot += 1
        if worker.revision >= here.oldest_revision or here.halted:
            here.coming += 1
    for worker in roster.cold:
        here = found[worker.group_id]
        if worker.revision >= here.oldest_revision or here.halted:
            here.cold.append(worker)
    return found


def memory(state: EndpointState, group: GroupSpec) -> GroupMemory:
    return learning.memory_of(state, group.id, group.revision)


def is_halted(state: EndpointState, group: GroupSpec) -> bool:
    """The breaker of the group's present template revision is open."""
    breaker = memory(state, group).breaker
    return breaker is not None and breaker.revision == group.revision


def closed(here: Standing, coming: int, policy: Policy, now: float) -> Closed | None:
    """None: it may start one more, with `coming` of its workers on the way already."""
    group, known, name = here.spec, here.memory, here.name
    if not group.managed:
        return Closed(Why.STEADY, f"{name}: its machines are brought by people")
    if group.weight <= 0:
        return Closed(Why.STEADY, f"{name}: weight 0")
    if here.halted and known.breaker is not None:
        breaker = known.breaker
        text = f"{name}: halted after {breaker.failures} failed starts in a row ({breaker.cause}), ${breaker.cost_usd:.2f} spent on them"
        return Closed(Why.BREAKER_OPEN, text)
    if now < known.backoff_until_at:
        cause = known.last_failure.cause if known.last_failure is not None else "a failure"
        text = f"{name}: last start failed ({cause}), next try in {known.backoff_until_at - now:.0f} s"
        return Closed(Why.REPLACE, text, known.backoff_until_at)
    if known.failed_in_row and coming >= 1:
        return Closed(Why.REPLACE, f"{name}: one start at a time while the last one failed")
    if not known.ready_seen and coming >= policy.breaker_failures:
        return Closed(Why.STEADY, f"{name}: at most {coming} at once until the first of this revision is ready")
    return None


def full(here: Standing, created: int) -> Closed | None:
    """None: one more of it may exist, with `created` in the plan already. A cold one may be started all the same."""
    most = here.spec.max_workers
    if most is None or here.existing + created < most:
        return None
    return Closed(Why.MAX_WORKERS, f"{here.name}: its max_workers allows {most}")


def avoided(state: EndpointState, group_id: GroupId, now: float) -> tuple[str, ...]:
    """Hosts where a provider that has others should put no new worker of this group: the quarantined, and those where a worker of it
    failed last, so that the next one tells whether that was the host or the template. Once the market had nothing else they are taken as well.
    """
    shut, known = quarantined(state, now), state.groups.get(group_id)
    if known is None or known.missed_in_row:
        return shut
    suspects = [name for name in reversed(known.failed_hosts) if name in state.hosts and name not in shut]
    return (*shut, *suspects)[:_MOST_AVOIDED]


def quarantined(state: EndpointState, now: float) -> tuple[str, ...]:
    """Hosts where nothing should be started now, by name. Of more than a command has room for, the newest quarantines."""
    if not state.hosts:
        return ()
    shut = [(host.quarantined_until_at, name) for name, host in state.hosts.items() if host.quarantined_until_at > now]
    return tuple(sorted([name for _, name in sorted(shut)[-_MOST_AVOIDED:]]))
