"""How coarse the clock may be: fine while anything is going on, coarse while the world sleeps."""

from __future__ import annotations

from sim.virtual_time import virtual_loop


class Tempo:
    """Whatever goes on holds it; when nobody does, the clock may take the quiet grain."""

    def __init__(self, grain_s: float, quiet_grain_s: float | None) -> None:
        self._grain_s = grain_s
        self.quiet_grain_s = grain_s if quiet_grain_s is None else quiet_grain_s
        self._held: dict[str, int] = {}
        self._loop = virtual_loop()
        self._set()

    def hold(self, why: str) -> None:
        self._held[why] = self._held.get(why, 0) + 1
        self._set()

    def release(self, why: str) -> None:
        if self._held[why] == 1:
            del self._held[why]
        else:
            self._held[why] -= 1
        self._set()

    def _set(self) -> None:
        self._loop.grain_s = self._grain_s if self._held else self.quiet_grain_s
