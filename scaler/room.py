"""Who holds the room of those that are needed, and is of no use: cold workers that may not be started. Their group lost its weight or is
halted, their host is bad, their revision is old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from schemas.ids import GroupId, WorkerId

from . import victims
from .buying import Buyer
from .groups import Standing
from .roster import Roster
from .shares import Shares
from .types import WorkerFact


def useless(
    cold: Iterable[WorkerFact], touched: set[WorkerId], buyer: Buyer, standings: Mapping[GroupId, Standing]
) -> list[WorkerFact]:
    """Cold workers that may not be started, where another could come instead; else none."""
    found = [worker for worker in cold if worker.worker_id not in touched and not buyer.is_usable(worker)]
    return found if found and any(buyer.could(here) for here in standings.values()) else []


def given_up(
    useless: list[WorkerFact], short: int, roster: Roster, standings: Mapping[GroupId, Standing], shares: Shares
) -> list[WorkerFact]:
    """One for each that is missing. Who is on the way out makes room by itself."""
    missing = short - len(roster.ending) - len(roster.stopping)
    return list(islice(victims.in_order(useless, standings, shares), max(0, missing)))
