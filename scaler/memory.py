"""A state as bytes and back: the KV value that a new leader continues from.

What it will learn again at once is left out: facts about workers that the provisioner's records, our own records and
the next heartbeats repeat. What is large is compressed; operators can read what is not. What is too large even so goes without what
can be done without: first the acts of a decision that is still to be told, then the engine's memory.
"""

from __future__ import annotations

import zlib

import msgspec

from schemas.states import WorkerState

from .types import EndpointState, LastDecision, WorkerFact

FORMAT = 1
#: What the memory of an endpoint of a hundred workers takes at most.
USUAL_BYTES = 64 * 1024
#: The bus takes messages of 1 MiB, headers included.
MAX_BYTES = 896 * 1024
_COMPRESS_ABOVE_BYTES = 16 * 1024
_ZLIB_MAGIC = 0x78  # a zlib stream begins with it, a JSON object with a brace

_replace = msgspec.structs.replace
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EndpointState)


class TooLarge(ValueError):
    """The state does not fit one KV value."""


class Fitted(msgspec.Struct, frozen=True):
    """A memory that fits."""

    data: bytes
    without: str = ""  #: what had to be left out of it, in words; "": nothing


def fitted(state: EndpointState) -> Fitted:
    """At most MAX_BYTES. Raises TooLarge."""
    kept = snapshot(state)
    data = _pack(kept)
    without = []
    if len(data) > MAX_BYTES and kept.last is not None and kept.last.decision.actions:
        # They are done all the same: intents and drains are with their workers.
        kept = _replace(kept, last=_untold_acts(kept.last))
        without.append("the acts of its newest decision")
        data = _pack(kept)
    if len(data) > MAX_BYTES and kept.engine:
        kept = _replace(kept, engine=b"", engine_format="")  # it can be learned again, the rest cannot
        without.append("the engine's memory")
        data = _pack(kept)
    if len(data) > MAX_BYTES:
        raise TooLarge(f"its memory takes {len(data)} bytes, {MAX_BYTES} is the limit")
    return Fitted(data, " and ".join(without))


def dump(state: EndpointState) -> bytes:
    """As `fitted`. Raises TooLarge."""
    return fitted(state).data


def load(data: bytes) -> EndpointState:
    """Raises ValueError for what is no state, or one of a later format."""
    try:
        if data[:1] and data[0] == _ZLIB_MAGIC:
            data = zlib.decompress(data)
        state = _decoder.decode(data)
    except (msgspec.DecodeError, zlib.error) as error:
        raise ValueError(f"not a scaler state: {error}") from error
    if state.format > FORMAT:
        raise ValueError(f"a scaler state of format {state.format}, this version knows {FORMAT}: upgrade the scaler")
    return state


def _pack(state: EndpointState) -> bytes:
    data = _encoder.encode(state)
    return zlib.compress(data, level=1) if len(data) > _COMPRESS_ABOVE_BYTES else data


def snapshot(state: EndpointState) -> EndpointState:
    """The state without what is learned again within a second."""
    workers = {wid: _essence(worker) for wid, worker in state.workers.items() if _must_be_kept(worker)}
    last = state.last
    if last is not None and last.published:
        # Told already: the next one needs only its hash.
        decision = _replace(last.decision, actions=(), inputs=(), candidates=(), engine=None)
        last = LastDecision(decision=decision, decision_hash=last.decision_hash, published=True)
    elif last is not None:
        acts = tuple([_replace(action, avoid_hosts=()) if action.avoid_hosts else action for action in last.decision.actions])
        last = _replace(last, decision=_replace(last.decision, actions=acts))  # commands carry those hosts, events do not
    return _replace(state, workers=workers, last=last)


def _untold_acts(last: LastDecision) -> LastDecision:
    decision = last.decision
    sentence = f"{decision.sentence}; its {len(decision.actions)} acts are not listed"
    return _replace(last, decision=_replace(decision, actions=(), sentence=sentence))


def _must_be_kept(worker: WorkerFact) -> bool:
    """Nobody else remembers commands in flight, drains, and starts not yet proven."""
    if worker.intent is not None or worker.drain is not None or worker.gone_at is not None:
        return True
    return worker.state is not WorkerState.STOPPED and not (worker.proven and worker.failure is None)


def _essence(worker: WorkerFact) -> WorkerFact:
    return WorkerFact(
        worker_id=worker.worker_id,
        group_id=worker.group_id,
        revision=worker.revision,
        state=worker.state,
        state_at=worker.state_at,
        created_at=worker.created_at,
        launched_at=worker.launched_at,
        from_cold=worker.from_cold,
        ready_at=worker.ready_at,
        proven=worker.proven,
        blamed=worker.blamed,
        phase_at=worker.phase_at,
        rebooted_at=worker.rebooted_at,
        end_failures=worker.end_failures,
        end_failed_at=worker.end_failed_at,
        intent=worker.intent,
        instance_state=worker.instance_state,
        instance_at=worker.instance_at,
        provider=worker.provider,
        host=worker.host,
        usd_per_hour=worker.usd_per_hour,
        beat_state=worker.beat_state,
        boot=worker.boot,
        old_boot=worker.old_boot,
        seq=worker.seq,
        perf=worker.perf,
        slots=worker.slots,
        gone_at=worker.gone_at,
        drain=worker.drain,
        failure=worker.failure,
    )
