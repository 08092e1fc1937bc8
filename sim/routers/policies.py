"""What others do, in their simplest form. Those called "own" see each completion of their own requests at once, which no router of
this kind can: they are references. Ties are broken by chance, counter-based.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim import chance

from .arena import Given, Make, Report, Router


class _Known:
    """What a router of reports and own sends knows of one worker."""

    __slots__ = ("here", "own", "reported_us", "sent", "units")

    def __init__(self) -> None:
        self.here = 0  #: by the last report
        self.units = 0.0
        self.reported_us = 0
        self.sent: list[tuple[int, float]] = []  #: (at, units), not yet in a report
        self.own = 0  #: of ours, not completed


class Simple:
    """Sends every request at once to whomever `choose` names."""

    def __init__(self, given: Given, choose: Callable[[Simple, int, int], int]) -> None:
        self.given = given
        self.known = [_Known() for _ in given.pool.perf]
        self._choose = choose
        self._sent_by_us: set[int] = set()
        self.count = 0

    def arrive(self, request: int, units: float, now_us: int) -> None:
        worker = self._choose(self, request, now_us)
        self.count += 1
        known = self.known[worker]
        known.sent.append((now_us, units))
        known.own += 1
        self._sent_by_us.add(request)
        self.given.send(request, worker)

    def report(self, report: Report, now_us: int) -> None:  # noqa: ARG002 -- what counts is when it was sent
        known = self.known[report.worker]
        known.here, known.units, known.reported_us = report.here, report.units, report.sent_us
        known.sent = [(at, units) for at, units in known.sent if at > report.sent_us]

    def completed(self, request: int, worker: int, now_us: int) -> None:  # noqa: ARG002
        if request in self._sent_by_us:
            self._sent_by_us.discard(request)
            self.known[worker].own -= 1

    def tick(self, now_us: int) -> None:
        """Nothing waits here."""

    def told(self, message: object, now_us: int) -> None:
        """It tells and hears nothing."""

    # --- for the rules below ---

    def chance(self, request: int, worker: int) -> float:
        return chance.unit(self.given.seed, worker, request, chance.Draw.ROUTE)

    def best(self, key: Callable[[int], float | tuple[float, ...]], request: int, among: Sequence[int] | None = None) -> int:
        workers = range(len(self.known)) if among is None else among
        return min(workers, key=lambda w: (key(w), self.chance(request, w)))

    def some(self, request: int, count: int) -> list[int]:
        """So many different workers, by chance."""
        return sorted(range(len(self.known)), key=lambda w: self.chance(request, w + 1000))[:count]

    def backlog_s(self, worker: int, now_us: int) -> float:
        """Reported work, drained at full speed since, and what was sent since; in seconds of the whole worker."""
        known, perf = self.known[worker], self.given.pool.perf[worker]
        left = max(0.0, known.units - (now_us - known.reported_us) / 1e6 * perf)
        return (left + sum(units for _, units in known.sent)) / perf

    def inflight(self, worker: int) -> int:
        return self.known[worker].here + len(self.known[worker].sent)


def _uniform(r: Simple, request: int, _: int) -> int:
    return r.some(request, 1)[0]


def _in_turns(r: Simple, _request: int, _: int) -> int:
    return (r.count + r.given.number) % len(r.known)


def _least_reported(r: Simple, request: int, _: int) -> int:
    return r.best(lambda w: r.known[w].here, request)


def _least_own(r: Simple, request: int, _: int) -> int:
    return r.best(lambda w: r.known[w].own, request)


def _two_reported(r: Simple, request: int, _: int) -> int:
    return r.best(lambda w: r.known[w].here, request, r.some(request, 2))


def _two_own(r: Simple, request: int, _: int) -> int:
    return r.best(lambda w: r.known[w].own, request, r.some(request, 2))


def _least_work_reported(r: Simple, request: int, _: int) -> int:
    return r.best(lambda w: r.known[w].units / r.given.pool.perf[w], request)


def _least_work_local(r: Simple, request: int, now_us: int) -> int:
    return r.best(lambda w: (r.backlog_s(w, now_us), r.inflight(w) / r.given.pool.perf[w]), request)


def _prequal(r: Simple, request: int, now_us: int) -> int:
    """After Prequal (NSDI 2024): of five probes the hot ones (requests in flight above the 0.75 quantile) are left out, then the
    least latency; when all are hot, the fewest in flight. Probes are as old as the reports.
    """
    probed = r.some(request, 5)
    inflight = [r.inflight(w) for w in range(len(r.known))]
    hot = sorted(inflight)[int(0.75 * (len(inflight) - 1))]
    cool = [w for w in probed if inflight[w] <= hot]
    return r.best(lambda w: r.backlog_s(w, now_us), request, cool) if cool else r.best(lambda w: inflight[w], request, probed)


_RULES: dict[str, Callable[[Simple, int, int], int]] = {
    "random": _uniform,
    "round-robin": _in_turns,
    "least-request (reports)": _least_reported,
    "least-request (own in-flight)": _least_own,
    "p2c (reports)": _two_reported,
    "p2c (own in-flight)": _two_own,
    "JSEW (reports)": _least_work_reported,
    "JSEW (reports and own sends)": _least_work_local,
    "Prequal-like": _prequal,
}


def _maker(rule: Callable[[Simple, int, int], int]) -> Make:
    def make(given: Given) -> Router:
        return Simple(given, rule)

    return make


#: Name as in the tables -> how to make one router.
POLICIES: dict[str, Make] = {name: _maker(rule) for name, rule in _RULES.items()}
