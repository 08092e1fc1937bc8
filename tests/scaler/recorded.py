"""Stories whose decisions are told as events, for tests of what can be made of those."""

from __future__ import annotations

from scaler import decide, observations, replay
from scaler.types import Decision
from schemas import events
from schemas.events import Decided
from tests.scaler.story import Story


class Recorded(Story):
    """A story whose decisions are told, as the council tells them."""

    def __init__(self, **more) -> None:
        self.events: list[Decided] = []
        self.looks = 0
        super().__init__(**more)

    def decide(self) -> Decision:
        self.fold(observations.Ticked(at=self.now))
        here = self.state
        decision = decide.decide(here, self.policy, self.now)
        self.looks += 1
        recorded = bool(decision.actions) or self.looks % 10 == 0
        previous = here.last.decision_hash if here.last is not None else ""
        digest = replay.hash_of(decision, previous) if recorded else ""
        if recorded:
            self.events.append(
                replay.told(
                    decision,
                    epoch=1,
                    policy_hash=replay.policy_hash(self.policy),
                    previous_hash=previous,
                    record=replay.pack(here, self.policy, self.now),
                    read=(events.StreamRead(stream="KV_corral_endpoints", first_seq=1, last_seq=2, messages=2),),
                )
            )
        self.fold(observations.DecisionTaken(at=self.now, decision=decision, recorded=recorded, decision_hash=digest))
        self.decisions.append(decision)
        for action in decision.actions:
            self._act(action)
        return decision


def recorded(count: int, story: Recorded | None = None, **more) -> tuple[Decided, ...]:
    """So many decisions under load."""
    story = story or Recorded(create_s=15, inactivity_timeout=60, **more)
    story.asks(250).within(600, lambda s: len(s.events) >= count)
    return tuple(story.events[:count])
