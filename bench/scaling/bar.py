"""One thing that is asked, with its figure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    bench: str
    value: float | None  #: None: there is no figure; `vs` says why
    unit: str
    vs: str = ""
    bar: float | None = None  #: None: reported only
    ok: bool | None = None
    not_judged: bool = False  #: it is asked for, but cannot be told
    low: float | None = None  #: lowest and ...
    high: float | None = None  #: ... highest of the seeds

    def line(self) -> str:
        """As JSON; the range only where there is one."""
        found = {name: value for name, value in msgspec.structs.asdict(self).items() if name not in {"low", "high", "not_judged"}}
        if self.low is not None and self.low != self.high:
            found |= {"low": self.low, "high": self.high}
        if self.not_judged:
            found["not_judged"] = True
        return msgspec.json.encode({**found, "bench": f"scaling.{self.bench}"}).decode()


def at_least(bench: str, value: float, bar: float | None, unit: str, **more: str | float) -> Bar:
    return Bar(bench=bench, value=round(value, 4), unit=unit, bar=bar, ok=None if bar is None else value >= bar, **more)


def at_most(bench: str, value: float, bar: float | None, unit: str, **more: str | float) -> Bar:
    return Bar(bench=bench, value=round(value, 4), unit=unit, bar=bar, ok=None if bar is None else value <= bar, **more)


def without(bench: str, bar: float | None, unit: str, why: str, *, asked: bool = True) -> Bar:
    """There is no figure."""
    return Bar(bench=bench, value=None, unit=unit, bar=bar, vs=why, not_judged=asked)


def verdict(bars: Sequence[Bar]) -> str:
    """How many are met, and the names of those that are not or could not be judged. Plain enough for a page and a terminal."""
    asked = [bar for bar in bars if bar.ok is not None or bar.not_judged]
    missed = [bar for bar in asked if bar.ok is False]
    unknown = [bar for bar in asked if bar.not_judged]
    met = len(asked) - len(missed) - len(unknown)
    if met == len(asked):
        return f"All {met} bars are met."
    parts = [f"{met} of {len(asked)} bars are met"]
    if missed:
        parts.append(f"{len(missed)} missed: " + ", ".join(f"`{bar.bench}` ({bar.value:g}, asked {bar.bar:g})" for bar in missed))
    if unknown:
        parts.append(f"{len(unknown)} not judged: " + ", ".join(f"`{bar.bench}` ({bar.vs})" for bar in unknown))
    return "; ".join(parts) + "."
