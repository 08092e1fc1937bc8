"""Decides for every endpoint: each tick, and at once when somebody begins to wait or a worker changes.

A decision that acts or says something new is recorded in this order, so that a crash at any point loses and doubles nothing:

    fold it into the state -> store the state by compare-and-set -> tell the event -> send the commands

The generation is stored before anything leaves, so the next leader neither reuses a command id nor forgets a command: what is not
yet seen to be done stays in the state as an intent, and is sent again under the same id. So nothing is decided about an endpoint whose
newest decision could not be stored. An event that the bus does not take holds up no command: it is told shorter, or given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from runtime.bus import Bus
from runtime.errors import BusError, BusRefused, Conflict
from runtime.lease import Lease
from schemas import codec, events, subjects
from schemas.commands import op_of
from schemas.ids import EndpointId, GroupId
from schemas.states import WorkerState

from . import brevity, decide, drain, memory, orders, replay
from .desk import Desk
from .intake import SCALER, Intake
from .metrics import Metrics
from .observations import DecisionTaken, EndpointSeen, Ticked
from .outbox import Outbox
from .types import Decision, LastDecision, Policy

log = structlog.get_logger()

_replace = msgspec.structs.replace

#: However much happens, an endpoint is not decided more often than this.
_LEAST_S = 0.1
#: Endpoints that are decided in one go.
_AT_ONCE = 16
#: A hold whose reason alone changes is told this often at most.
_REASONS_EVERY_S = 10.0
#: What was learned is stored this often although nothing was decided.
_STORE_EVERY_S = 30.0
#: An endpoint that cannot be decided is tried this often.
_ERRORS_EVERY_S = 60.0
#: Workers of an endpoint nobody has heard of: its record may be a moment behind.
_UNKNOWN_S = 10.0


#: Of a decision with more acts than this the log names the first ones.
_LOGGED_ACTS = 64
_TOO_LARGE_HINT = "fewer workers, or several endpoints in its place; where the bus refuses it: python -m runtime.migrate brings the bucket up to date"


class _NotStored(Exception):
    """The bus will never take this memory."""


class Council:
    """run() until cancelled. Raises Conflict when somebody else writes our memory: then we do not lead any more."""

    def __init__(
        self,
        *,
        bus: Bus,
        desks: dict[EndpointId, Desk],
        intake: Callable[[], Intake],
        endpoints_vanished: Callable[[], bool],
        lease: Lease,
        shard: int,
        outbox: Outbox,
        policy: Policy,
        now: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._bus = bus
        self._bucket = bus.bucket(subjects.BUCKET_SCALER)
        self._desks = desks
        self._intake = intake
        self._endpoints_vanished = endpoints_vanished
        self._lease = lease
        self._shard = shard
        self._outbox = outbox
        self._policy = policy
        self._policy_hash = replay.policy_hash(policy)
        self._now = now
        self._metrics = metrics
        self._woken: set[EndpointId] = set()
        self._news = asyncio.Event()

    def wake(self, desk: Desk) -> None:
        """Decide about it now."""
        self._woken.add(desk.id)
        self._news.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                for count, desk in enumerate(self._due()):
                    if count % _AT_ONCE == _AT_ONCE - 1:
                        await asyncio.sleep(0)  # heartbeats and the lease have their turn
                    if desk.id not in self._desks:
                        continue
                    self._try(desk)
                    if self._has_work(desk) and not desk.settling:
                        desk.settling = True
                        tasks.create_task(self._settle(desk), name=f"settle {desk.id}")
                await self._wait()

    # --- when ---

    def _due(self) -> list[Desk]:
        now = self._now()
        woken, self._woken = self._woken, set()
        found = []
        for desk in list(self._desks.values()):
            if desk.errors and now < desk.look_at:
                continue
            if desk.id in woken and now - desk.looked_at < _LEAST_S:
                desk.look_at = min(desk.look_at, desk.looked_at + _LEAST_S)
            elif desk.id in woken or now >= desk.look_at:
                found.append(desk)
        return found

    async def _wait(self) -> None:
        next_at = min((desk.look_at for desk in self._desks.values()), default=self._now() + self._policy.tick_s)
        self._news.clear()
        if self._woken:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(min(max(next_at - self._now(), 0.01), self._policy.tick_s)):
                await self._news.wait()
        except TimeoutError:
            return

    # --- think ---

    def _try(self, desk: Desk) -> None:
        """Whatever is wrong with one endpoint, the others are looked after; it is tried again, less and less often."""
        try:
            self._look(desk)
        except Exception:
            self._set_aside(desk)
            log.exception("endpoint_not_decided", endpoint=desk.id, errors=desk.errors, again_in_s=self._again_s(desk))
            return
        if not desk.is_stuck:
            desk.errors = 0

    def _set_aside(self, desk: Desk) -> None:
        desk.errors += 1
        desk.looked_at = self._now()
        desk.look_at = desk.looked_at + self._again_s(desk)
        self._metrics.endpoint_errors.inc()

    def _again_s(self, desk: Desk) -> float:
        return float(min(self._policy.tick_s * 2 ** min(desk.errors, 16), _ERRORS_EVERY_S))

    def _look(self, desk: Desk) -> None:
        now = self._now()
        if desk.endpoint is None and not desk.state.deleted:
            if self._endpoints_vanished():
                desk.look_at = now + self._policy.tick_s
                return
            if desk.state.spec is not None or now - desk.begun_at > _UNKNOWN_S:
                desk.fold(EndpointSeen(at=now, endpoint=None))
        before, state = desk.fold(Ticked(at=now))
        if desk.is_stuck:
            desk.looked_at, desk.look_at = now, now + self._policy.tick_s
            self._intake().compare(desk, before)
            return
        began = time.perf_counter()
        decision = decide.decide(state, self._policy, now)
        self._metrics.decide_s.observe(time.perf_counter() - began)
        desk.looked_at = now
        desk.look_at = now + decision.look_again_s
        self._tell_halts(desk, decision)
        if not self._is_news(desk, decision):
            desk.fold(DecisionTaken(at=now, decision=decision, recorded=False))
        else:
            self._record(desk, decision, now)
        self._intake().compare(desk, before)

    def _is_news(self, desk: Desk, decision: Decision) -> bool:
        last = desk.state.last.decision if desk.state.last is not None else None
        if last is None or (decision.actions and not decision.advisory):
            return True
        since_s = decision.at - last.at
        if since_s >= self._policy.hold_repeat_s:
            return True
        if (decision.hot_wanted, decision.halted, decision.activity) != (last.hot_wanted, last.halted, last.activity):
            return True
        said_otherwise = (decision.why, decision.cold_wanted) != (last.why, last.cold_wanted)
        return said_otherwise and since_s >= _REASONS_EVERY_S

    def _record(self, desk: Desk, decision: Decision, now: float) -> None:
        state = desk.state
        previous_hash = state.last.decision_hash if state.last is not None else ""
        event = replay.told(
            decision,
            epoch=self._lease.epoch,
            policy_hash=self._policy_hash,
            previous_hash=previous_hash,
            record=replay.pack(state, self._policy, now),
            read=desk.take_read(),
        )
        self._tell_drained(desk, decision, now)
        desk.fold(
            DecisionTaken(at=now, decision=decision, decision_hash=replay.hash_of(decision, previous_hash), published=False)
        )
        desk.untold.append(event)
        self._metrics.decisions.labels(decision.why).inc()
        log.info(
            "decided",
            endpoint=desk.id,
            decision=decision.decision_id,
            why=decision.why,
            hot=f"{decision.hot_before}->{decision.hot_wanted}",
            cold=f"{decision.cold_before}->{decision.cold_wanted}",
            acts=len(decision.actions),
            actions=[f"{action.op} {action.worker_id}" for action in decision.actions[:_LOGGED_ACTS]],
            reason=decision.sentence,
        )

    # --- act ---

    def _has_work(self, desk: Desk) -> bool:
        state = desk.state
        if state.generation > desk.stored_generation or desk.untold or desk.is_over or desk.is_stuck:
            return True
        if any(w.intent is not None and w.intent.command_id not in desk.sent for w in state.workers.values()):
            return True
        return desk.stored_state is not state and self._now() - desk.stored_at >= _STORE_EVERY_S

    async def _settle(self, desk: Desk) -> None:
        """Store, tell, send. What the bus does not take now is tried at the next look. Raises Conflict and nothing else."""
        try:
            if desk.is_over:
                await self._close(desk)
                return
            await self._store(desk)
            # What was decided meanwhile is not stored yet: told before, a crash would have the next leader decide it otherwise.
            while desk.untold and desk.untold[0].generation <= desk.stored_generation:
                await self._tell(desk.untold[0])
                desk.untold.pop(0)
            self._mark_told(desk)
            await self._send(desk)
            desk.is_stuck = False
        except Conflict:
            raise
        except BusError as error:
            log.warning("decision_delayed", endpoint=desk.id, error=error.message)
        except _NotStored as error:
            desk.is_stuck = True
            self._set_aside(desk)
            again_s = self._again_s(desk)
            log.warning("endpoint_not_stored", endpoint=desk.id, error=str(error), hint=_TOO_LARGE_HINT, again_in_s=again_s)
        except Exception:
            desk.is_stuck = True
            self._set_aside(desk)
            log.exception("endpoint_not_settled", endpoint=desk.id, errors=desk.errors, again_in_s=self._again_s(desk))
        finally:
            desk.settling = False

    async def _store(self, desk: Desk) -> None:
        """Raises Conflict, BusError, _NotStored."""
        state = desk.state
        if not self._lease.held:
            raise Conflict(f"the lease over endpoint {desk.id} is not held any more")
        try:
            fitted = memory.fitted(state)
        except memory.TooLarge as error:
            raise _NotStored(str(error)) from error
        key = subjects.endpoint_key(desk.id)
        if desk.unsure is not None:
            await self._find_out(desk, key)
        desk.unsure = fitted.data
        try:
            if desk.revision:
                desk.revision = await self._bucket.update(key, fitted.data, desk.revision)
            else:
                desk.revision = await self._bucket.create(key, fitted.data)
        except BusRefused as error:
            desk.unsure = None
            raise _NotStored(f"the bus refuses its memory of {len(fitted.data)} bytes: {error.message}") from error
        desk.unsure = None
        desk.stored_generation = state.generation
        desk.stored_state = state
        desk.stored_at = self._now()
        if fitted.without != desk.stored_without:
            desk.stored_without = fitted.without
            self._warn_of_gaps(desk, len(fitted.data))

    def _warn_of_gaps(self, desk: Desk, size: int) -> None:
        if not desk.stored_without:
            log.info("memory_whole_again", endpoint=desk.id, bytes=size)
            return
        self._metrics.memories_cut.inc()
        log.warning("memory_cut", endpoint=desk.id, without=desk.stored_without, most_bytes=memory.MAX_BYTES)

    async def _find_out(self, desk: Desk, key: str) -> None:
        """The answer to our last write was lost: did it happen? Raises Conflict when somebody else wrote since."""
        entry = await self._bucket.get(key)
        if entry is not None and entry.data == desk.unsure:
            desk.revision = entry.revision
        elif (entry.revision if entry is not None else 0) != desk.revision:
            raise Conflict(f"somebody else wrote the memory of endpoint {desk.id}")
        desk.unsure = None

    async def _send(self, desk: Desk) -> None:
        """Every command whose effect is not seen yet, once per reign. Raises BusError."""
        stored = desk.stored_state
        assert stored is not None
        for worker in list(desk.state.workers.values()):
            intent = worker.intent
            if intent is None or intent.command_id in desk.sent:
                continue
            known = stored.workers.get(worker.worker_id)
            if known is None or known.intent is None or known.intent.command_id != intent.command_id:
                continue  # decided meanwhile; stored at the next look
            now = self._now()
            command = orders.command_for(desk.state, worker, desk.endpoint, epoch=self._lease.epoch, shard=self._shard)
            if command is None or now >= intent.deadline_at:
                continue
            if not self._lease.held:
                raise Conflict(f"the lease over endpoint {desk.id} is not held any more")
            op = op_of(command)
            ttl_s = max(1, int(intent.deadline_at - now))
            await self._bus.append(subjects.command(op, desk.id), codec.encode(command), msg_id=command.command_id, ttl_s=ttl_s)
            desk.sent.add(intent.command_id)
            self._metrics.commands.labels(op).inc()
            log.info("command_sent", endpoint=desk.id, command=intent.command_id, op=op, worker=worker.worker_id)
        desk.sent &= {w.intent.command_id for w in desk.state.workers.values() if w.intent is not None}

    async def _close(self, desk: Desk) -> None:
        """Nothing is left of a deleted endpoint: forget it."""
        await self._bucket.delete(subjects.endpoint_key(desk.id))
        self._desks.pop(desk.id, None)
        log.info("endpoint_forgotten", endpoint=desk.id)

    # --- tell ---

    async def _tell(self, event: events.Decided) -> None:
        """As whole as the bus takes it; what it does not take at all is given up. Raises BusError when that is not known."""
        refused = ""
        for version in brevity.versions(event):
            try:
                await self._outbox.send(version)
            except BusRefused as error:
                refused = error.message
                continue
            if version is not event:
                self._metrics.events_shortened.inc()
                log.warning("decision_told_shorter", endpoint=event.endpoint_id, decision=event.decision_id)
            return
        self._outbox.give_up(event, refused)

    @staticmethod
    def _mark_told(desk: Desk) -> None:
        last = desk.state.last
        if last is not None and not last.published and not desk.untold:
            desk.state = _replace(desk.state, last=_replace(last, published=True))

    def retell(self, desk: Desk) -> None:
        """The leader before us stored a decision and may not have told it: tell it again under the same id."""
        last = desk.state.last
        if last is None or last.published:
            return
        desk.untold.append(_retold(last, self._lease.epoch, self._policy_hash))

    def _tell_halts(self, desk: Desk, decision: Decision) -> None:
        """Breakers that opened, that go on to cost (starts that were on their way fail too), and that closed."""
        halted: dict[GroupId, tuple[float, int]] = {}
        for group_id in sorted(decision.halted):
            known = desk.state.groups.get(group_id)
            if known is None or known.breaker is None:
                continue
            breaker = known.breaker
            halted[group_id] = (breaker.opened_at, breaker.failures)
            if known.last_failure is None or desk.halted.get(group_id) == halted[group_id]:
                continue
            log.error("group_halted", endpoint=desk.id, group=group_id, cause=breaker.cause, failures=breaker.failures)
            self._outbox.tell(
                events.GroupHalted(
                    id=f"evt:e{desk.id}:g{group_id}:halted:{breaker.opened_at:.3f}:{breaker.failures}",
                    at=self._now(),
                    endpoint_id=desk.id,
                    group_id=group_id,
                    revision=breaker.revision,
                    failure=known.last_failure,
                    failures=breaker.failures,
                    cost_usd=breaker.cost_usd,
                )
            )
        for group_id in sorted(desk.halted.keys() - halted.keys()):
            log.info("group_resumed", endpoint=desk.id, group=group_id)
            self._outbox.tell(
                events.GroupResumed(
                    id=f"evt:e{desk.id}:g{group_id}:resumed:{desk.halted[group_id][0]:.3f}",
                    at=self._now(),
                    endpoint_id=desk.id,
                    group_id=group_id,
                    by=SCALER,
                    reason="its breaker is closed" if group_id in desk.state.groups else "the group is no more",
                )
            )
        desk.halted = halted

    def _tell_drained(self, desk: Desk, decision: Decision, now: float) -> None:
        """The evidence, for every worker that this decision ends after a drain."""
        for action in decision.actions:
            worker = desk.state.workers.get(action.worker_id)
            if action.command_id is None or worker is None or worker.drain is None or worker.state is not WorkerState.DRAINING:
                continue
            proof = drain.progress(worker, self._policy, now)
            if proof.done:
                self._outbox.tell(
                    events.WorkerDrained(
                        id=f"evt:{action.command_id}:drained",
                        at=now,
                        endpoint_id=desk.id,
                        worker_id=worker.worker_id,
                        group_id=worker.group_id,
                        waited_s=proof.waited_s,
                        ticket_window_s=proof.ticket_window_s,
                        inflight=proof.inflight,
                        cut_short=proof.cut_short,
                    )
                )


def _retold(last: LastDecision, epoch: int, policy_hash: str) -> events.Decided:
    return replay.told(
        last.decision,
        epoch=epoch,
        policy_hash=policy_hash,
        previous_hash=last.previous_hash,
        record=msgspec.Raw(b"null"),
    )
