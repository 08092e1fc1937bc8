"""How badly the network behaves. Changed at will while a simulation runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import chance

_DELAY, _LOSS, _DUPLICATE, _REPLY = range(4)


@dataclass(slots=True)
class Weather:
    """Shares are in [0, 1). The default is a perfect network without delay."""

    seed: int = 1
    delay_s: tuple[float, float] = (0.0, 0.0)  #: every message takes between so long and so long; order per receiver is kept
    lost: float = 0.0  #: of core messages
    duplicated: float = 0.0  #: of core messages and of work queue deliveries
    lost_replies: float = 0.0  #: of answers to a write: it took effect, and the writer cannot know
    _asked: int = field(default=0, init=False)

    def delay(self) -> float:
        low, high = self.delay_s
        return low + (high - low) * self._unit(_DELAY) if high > 0 else low

    def loses(self) -> bool:
        return self.lost > 0 and self._unit(_LOSS) < self.lost

    def duplicates(self) -> bool:
        return self.duplicated > 0 and self._unit(_DUPLICATE) < self.duplicated

    def loses_reply(self) -> bool:
        return self.lost_replies > 0 and self._unit(_REPLY) < self.lost_replies

    def _unit(self, kind: int) -> float:
        self._asked += 1
        return chance.unit(self.seed, 0, self._asked, kind)
