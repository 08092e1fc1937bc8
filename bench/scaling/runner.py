"""Play many cases on all cores, with what is known already taken from the cache."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.scaling import cache, cases
from bench.scaling.cases import Case, Played
from bench.scaling.play import NEW_INTERVAL_S, play, workload
from sim.corral_policy import CorralEngine
from sim.peers import peer
from sim.workload import SECOND_US

#: Rough seconds of a core per request, per tick of a peer and per tick of ours: only the order of play depends on them.
REQUEST_S, PEER_TICK_S, OUR_TICK_S = 2e-5, 1e-5, 3e-4
#: Where there is no terminal, a line this often.
REPORT_EVERY_S = 60.0


class Runner:
    def __init__(self, jobs: int = 0, known: cache.Cache | None = None) -> None:
        """`jobs`: processes; 0: one for each core. `known`: None forgets everything."""
        self.jobs = jobs or _cores()
        self.played: dict[Case, Played] = {}
        self.failed: dict[Case, str] = {}
        self.from_cache = 0
        self.core_s = 0.0  #: of the cases that were not in the cache, in the last runs
        self._known = known
        self._contents: dict[tuple[str, float], str] = {}

    def add(self, wanted: Iterable[Case], what: str) -> None:
        """Play what has not been played. A case that raises ends up in `failed`, the others go on."""
        new = [case for case in cases.distinct(wanted) if case not in self.played and case not in self.failed]
        keys = {case: self._key(case) for case in new} if self._known else {}
        for case in new:
            found = self._known.get(keys[case]) if self._known else None
            if found is not None:
                self.played[case] = Played(case, found.result, found.hours)
        left = [case for case in new if case not in self.played]
        self.from_cache += len(new) - len(left)
        if left:
            self._play(sorted(left, key=weight, reverse=True), keys, what)

    def _play(self, left: list[Case], keys: dict[Case, str], what: str) -> None:
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(min(self.jobs, len(left)), mp_context=context, initializer=_obey_parent)
        try:
            running = {executor.submit(_timed, case): case for case in left}
            for done in _watched(running, what):
                case = running[done]
                error = done.exception()
                if error is not None:
                    self.failed[case] = f"{type(error).__name__}: {error}"
                    continue
                self.played[case], took_s = done.result()
                self.core_s += took_s
                if self._known:
                    self._known.put(keys[case], self.played[case])
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        executor.shutdown()

    def _key(self, case: Case) -> str:
        of_workload = (case.trace, case.first_h)
        if of_workload not in self._contents:
            self._contents[of_workload] = cache.content(workload(*of_workload))
        return cache.key(case, self._contents[of_workload])


def weight(case: Case) -> float:
    """About how many seconds of a core it takes."""
    load = workload(case.trace, case.first_h)
    seconds = load.end_us / SECOND_US
    if case.policy != cases.OURS:
        ticks_s = seconds / peer(case.policy).make.interval_s * PEER_TICK_S
    else:
        ticks_s = seconds / (NEW_INTERVAL_S if case.tier == cases.NEW else CorralEngine(load).interval_s) * OUR_TICK_S
    return ticks_s + REQUEST_S * len(load.units)


def _timed(case: Case) -> tuple[Played, float]:
    started_s = time.process_time()
    return play(case), time.process_time() - started_s


def _obey_parent() -> None:
    """An interrupt of the terminal reaches all processes; the parent decides what becomes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watched(running: dict[Future[tuple[Played, float]], Case], what: str) -> Iterator[Future[tuple[Played, float]]]:
    """The same futures as they are done, and how far it is told on stderr."""
    total = sum(weight(case) for case in running.values())
    with _progress(what, total, len(running)) as tell:
        for done in as_completed(running):
            tell(weight(running[done]))
            yield done


@contextmanager
def _progress(what: str, total: float, count: int):
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(what, total=round(total))
            yield lambda done: progress.advance(task, done)
        return
    begun_s = told_s = time.monotonic()
    cases_done, work_done = 0, 0.0

    def tell(done: float) -> None:
        nonlocal told_s, cases_done, work_done
        cases_done, work_done = cases_done + 1, work_done + done
        if time.monotonic() - told_s >= REPORT_EVERY_S:
            told_s = time.monotonic()
            minutes = (told_s - begun_s) / 60
            print(
                f"{what}: {cases_done} of {count}, {work_done / total:.0%} of the work, {minutes:.0f} min",
                file=sys.stderr,
                flush=True,
            )

    yield tell
