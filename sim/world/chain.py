"""The decisions of one endpoint as they are told: each derived again from its input, each following the one before by its hash."""

from __future__ import annotations

from scaler import audit
from schemas.events import Decided

_OUT_OF_ORDER = frozenset({audit.Outcome.BROKEN, audit.Outcome.MISSING})


class Chain:
    """What was told without its input (its leader died before it could tell it) breaks the chain off; whatever comes next is
    believed to follow.
    """

    def __init__(self) -> None:
        self.broken_off = False  #: by the decision added last
        self._auditor = audit.Auditor()

    def add(self, event: Decided) -> str | None:
        """None when it is right and follows the one before; else one sentence."""
        after_a_break, self.broken_off = self.broken_off, bytes(event.record) == b"null"
        finding = self._auditor.take(event)
        if finding.outcome not in audit.WRONG or (after_a_break and finding.outcome in _OUT_OF_ORDER):
            return None
        return f"{event.decision_id} (generation {event.generation}): {finding.text}"
