"""The plan so far: single acts, each with its reason, and the sums that they change, kept instead of counted anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from schemas.ids import GroupId, WorkerId
from schemas.reasons import Why

from .scene import Scene
from .types import GroupSpec, Op, Then, WorkerFact


class Draft(msgspec.Struct, frozen=True):
    """An act before it has a command id. A `create` has no worker yet."""

    op: Op
    group_id: GroupId
    why: Why
    reason: str
    worker: WorkerFact | None = None
    revision: int = 1
    then: Then | None = None


class Book:
    """Each worker gets one act at most: who is in `touched` is left in peace for the rest of the plan."""

    def __init__(self, scene: Scene) -> None:
        assert scene.state.spec is not None or scene.state.deleted
        self._most = scene.state.spec.settings.max_workers if scene.state.spec is not None else 0
        self._here = len(scene.roster.living) + len(scene.roster.ending)
        self._staying = len(scene.roster.living) - sum(1 for worker in scene.roster.draining if _goes_for_good(worker))
        self.drafts: list[Draft] = []
        self.touched: set[WorkerId] = set()
        self.created: Counter[GroupId] = Counter()  #: new ones of each group
        self.started: Counter[GroupId] = Counter()  #: new ones and cold ones

    @property
    def room(self) -> int:
        """How many more may exist. Everything that costs money counts, also what is to be destroyed and is not gone yet: a create may
        overtake a destroy.
        """
        return self._most - self._here

    @property
    def staying(self) -> int:
        """Workers that stay, hot or cold, when this plan is carried out."""
        return self._staying

    def create(self, group: GroupSpec, why: Why, reason: str) -> None:
        self.drafts.append(Draft("create", group.id, why, reason, revision=group.revision))
        self.created[group.id] += 1
        self.started[group.id] += 1
        self._here += 1
        self._staying += _stays(self.drafts[-1])

    def act(self, op: Op, worker: WorkerFact, why: Why, reason: str, then: Then | None = None) -> None:
        """Something with a worker that is there."""
        assert worker.worker_id not in self.touched, f"{worker.worker_id} would be acted on twice"
        self.touched.add(worker.worker_id)
        self.drafts.append(Draft(op, worker.group_id, why, reason, worker, worker.revision, then))
        if op == "start":
            self.started[worker.group_id] += 1
        self._staying += _stays(self.drafts[-1])


def staying(scene: Scene, drafts: Iterable[Draft]) -> int:
    """Workers that stay, hot or cold, when all of this is carried out."""
    return Book(scene).staying + sum(map(_stays, drafts))


def _stays(draft: Draft) -> int:
    """By how much it changes the number of workers that stay."""
    if draft.worker is None:
        return 1
    if draft.op == "destroy" or draft.then == "destroy":
        return 0 if _goes_for_good(draft.worker) else -1
    return 1 if draft.op == "undrain" and _goes_for_good(draft.worker) else 0


def _goes_for_good(worker: WorkerFact) -> bool:
    return worker.drain is not None and worker.drain.then == "destroy"
