"""Groups of an endpoint side by side, over HTTP."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from . import problems
from .calls import Call, Table, reply
from .compare import compare
from .grouplog import GroupLog
from .switchboard import Switchboard

DEFAULT_S = 3600.0
MAX_S = 86400.0


class CompareAdmin:
    """`now` is unix s, `monotonic` the switchboard's clock."""

    def __init__(self, board: Switchboard, log: GroupLog, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._board = board
        self._log = log
        self._now = now
        self._monotonic = monotonic

    def add_to(self, table: Table) -> None:
        table.add("GET", "/api/v1/endpoints/{name}/compare", self.compare)

    async def compare(self, call: Call) -> web.Response:
        """`over_s`: the last so many seconds, an hour where it is not given, a day at most."""
        await call.admin("compare worker groups")
        name = call.params["name"]
        desk = next((desk for desk in self._board.desks.values() if name in (desk.name, str(desk.id))), None)
        if desk is None:
            raise problems.no_endpoint(name)
        now = self._monotonic()
        found = compare(
            desk,
            since=now - _over_s(call.request.query.get("over_s")),
            now=now,
            wall=self._now(),
            router=self._board.router,
            halts=self._board.halts,
            starts=self._log.starts,
        )
        return reply({"success": True, "result": found})


def _over_s(text: str | None) -> float:
    try:
        over_s = float(text) if text else DEFAULT_S
    except ValueError:
        over_s = float("nan")
    if not 0 < over_s <= MAX_S:
        raise problems.bad_fields({"over_s": f"must be a number of seconds above 0 and at most {MAX_S:.0f}"})
    return over_s
