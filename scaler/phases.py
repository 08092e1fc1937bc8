"""How long each phase of a start takes in a group, learned from the starts that went through it, and when one hangs.

    rent     from the command until the provider has the machine
    boot     until the worker's own process says it loads its model
    model    until the model is loaded
    bench    until it is ready

A phase has a deadline once enough of them were seen: a multiple of what nearly all took, and never less than a floor. A start that
is ended for it is remembered as having taken that long, so a deadline that was too short doubles and trebles by itself.
"""

from __future__ import annotations

import msgspec

from schemas.reasons import Phase

from .types import GroupMemory, Policy, WorkerFact

_replace = msgspec.structs.replace

#: As starts go through them.
ORDER = (Phase.RENT, Phase.BOOT, Phase.MODEL, Phase.BENCH, Phase.SERVE)
_KEPT = 12
_NEARLY_ALL = 0.95


def key(phase: Phase, *, from_cold: bool) -> str:
    """Starts from a stopped disk are another matter than new machines."""
    return f"cold_{phase}" if from_cold else str(phase)


def is_later(phase: Phase, than: Phase) -> bool:
    """Whether a start that goes from one to the other has got on."""
    return phase in ORDER and than in ORDER and ORDER.index(phase) > ORDER.index(than)


def since_at(worker: WorkerFact) -> float:
    """When the phase that it is in began."""
    return worker.phase_at or worker.launched_at


def learned(memory: GroupMemory, phase: Phase, took_s: float, *, from_cold: bool) -> GroupMemory:
    """The memory after a start of this group left a phase."""
    name = key(phase, from_cold=from_cold)
    kept = (*memory.phase_s.get(name, ()), round(max(took_s, 0.0), 1))[-_KEPT:]
    return _replace(memory, phase_s={**memory.phase_s, name: kept})


def quantile_s(memory: GroupMemory, phase: Phase, *, from_cold: bool, quantile: float) -> float | None:
    """Seconds within which a phase ends with this probability (0..1); None while nothing is known."""
    seen = memory.phase_s.get(key(phase, from_cold=from_cold), ())
    if not seen:
        return None
    ranked = sorted(seen)
    return ranked[min(len(ranked) - 1, int(quantile * len(ranked)))]


def limit_s(memory: GroupMemory, phase: Phase, policy: Policy, *, from_cold: bool) -> float | None:
    """After so many seconds in a phase a start hangs; None: not enough is known, only the whole start has its limit."""
    if len(memory.phase_s.get(key(phase, from_cold=from_cold), ())) < policy.phase_samples:
        return None
    usual_s = quantile_s(memory, phase, from_cold=from_cold, quantile=_NEARLY_ALL)
    return None if usual_s is None else max(policy.phase_floor_s, policy.phase_factor * usual_s)
