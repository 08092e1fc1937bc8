"""A state as bytes and back: the KV value that a new leader continues from.

What it will learn again at once is left out: facts about workers that the provisioner's records, our own records and
the next heartbeats repeat. What is large is compressed; operators can read what is not.
"""

from __future__ import annotations

import zlib

import msgspec

from schemas.states import WorkerState

from .types import EndpointState, LastDecision, WorkerFact

FORMAT = 1
MAX_BYTES = 64 * 1024
_COMPRESS_ABOVE_BYTES = 16 * 1024
_ZLIB_MAGIC = 0x78  # a zlib stream begins with it, a JSON object with a brace

_replace = msgspec.structs.replace
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EndpointState)


class TooLarge(ValueError):
    """The state does not fit one KV value."""


def dump(state: EndpointState) -> bytes:
    """At most MAX_BYTES. An engine that outgrew its bound is left out. Raises TooLarge."""
    data = _pack(snapshot(state))
    if len(data) > MAX_BYTES and state.engine:
        data = _pack(snapshot(_replace(state, engine=b"", engine_format="")))  # it can be learned again, the rest cannot
    if len(data) > MAX_BYTES:
        raise TooLarge(f"endpoint {state.endpoint_id}: its memory takes {len(data)} bytes, {MAX_BYTES} is the limit")
    return data


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
    return zlib.compress(data, level=6) if len(data) > _COMPRESS_ABOVE_BYTES else data


def snapshot(state: EndpointState) -> EndpointState:
    """The state without what is learned again within a second."""
    workers = {wid: _essence(worker) for wid, worker in state.workers.items() if _must_be_kept(worker)}
    last = state.last
    if last is not None and last.published:
        # Told already: the next one needs only its hash.
        decision = _replace(last.decision, actions=(), inputs=(), candidates=(), engine=None)
        last = LastDecision(decision=decision, decision_hash=last.decision_hash, published=True)
    return _replace(state, workers=workers, last=last)


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
