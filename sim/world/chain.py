"""The decisions of one endpoint as they are told: each derived again from its input, each following the one before by its hash."""

from __future__ import annotations

from scaler import decide, replay
from schemas.events import Decided


class Chain:
    """What was told without its input (its leader died before it could tell it) breaks the chain off; whatever comes next is
    believed to follow.
    """

    def __init__(self) -> None:
        self.broken_off = False  #: by the decision added last
        self._next: tuple[str, int] | None = None  #: hash and generation that the next one must name; None: any

    def add(self, event: Decided) -> str | None:
        """None when it is right and follows the one before; else one sentence."""
        expected, self._next = self._next, None
        if expected is not None and (event.previous_hash, event.generation) != expected:
            return f"{event.decision_id} (generation {event.generation}) does not follow the one before (expected {expected[1]})"
        self.broken_off = bytes(event.record) == b"null"
        if self.broken_off:
            return None
        if problem := replay.verify(event):
            return problem
        recorded = replay.unpack(event.record)
        again = decide.decide(recorded.state, recorded.policy, recorded.now)
        self._next = replay.hash_of(again, event.previous_hash), event.generation + 1
        return None
