"""Results of cases that were played before, kept by content: the workload, the setting, the source that decides the outcome."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import msgspec
import numpy as np

from bench.scaling import cases, source
from bench.scaling.cases import Case, Played
from sim.peers import peer
from sim.workload import Workload

#: Ignored by git.
FOLDER = source.ROOT / "out" / "scaling"


class _Line(msgspec.Struct, frozen=True):
    key: str
    played: Played


class Cache:
    """A file of JSON lines that only grows. One process writes it."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._path = folder / "results.jsonl"
        self._known: dict[str, Played] = {}
        lines = self._path.read_bytes().splitlines() if self._path.is_file() else []
        for line in lines:
            try:
                read = msgspec.json.decode(line, type=_Line)
            except msgspec.DecodeError:
                continue  # cut off by an interruption, or from before a change of its form: as good as not there
            self._known[read.key] = read.played

    def get(self, key: str) -> Played | None:
        return self._known.get(key)

    def put(self, key: str, played: Played) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._known[key] = played
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(_Line(key, played)) + b"\n")


def content(workload: Workload) -> str:
    """A hash of what a workload asks and of the pool it is played against."""
    facts = (workload.perf, workload.slots, workload.max_workers, workload.min_workers, workload.initial_workers)
    sha = hashlib.sha256(repr(facts).encode())
    sha.update(workload.arrival_us.tobytes())
    sha.update(workload.units.tobytes())
    return sha.hexdigest()


def key(case: Case, workload_content: str) -> str:
    """The same for two cases that cannot end differently."""
    versions = f"python {platform.python_version()}, numpy {np.__version__}"
    what = msgspec.json.encode(msgspec.structs.replace(case, trace="", first_h=0.0))
    how = (source.of_file("bench.scaling.play"), source.fingerprint(modules(case)))
    parts = (versions, workload_content, what.decode(), *how)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def modules(case: Case) -> tuple[str, ...]:
    """The source that decides how a case ends."""
    found = ["sim.run", "sim.corral_policy" if case.policy == cases.OURS else peer(case.policy).make.__module__]
    if case.tier == cases.TRI:
        of_pool = {cases.LEARNED: "sim.corral_policy", cases.DOCUMENTED: "sim.peers.vast"}
        found.append(of_pool.get(case.pool, "sim.cold_pools"))
    return tuple(found)
