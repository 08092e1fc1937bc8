"""Workers and desks for tests of the pure parts: no clock, no socket."""

from __future__ import annotations

import itertools

from router.desk import Desk
from router.liveness import Liveness
from router.switchboard import Switchboard
from router.view import Pulse
from schemas.http import RouteRequest
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.records import EndpointRecord, ScalingSettings, Template, WorkerGroup, WorkerRecord
from schemas.states import EndpointState, WorkerState

EP = EndpointId(1)
_seq = itertools.count(1)


def endpoint(*groups: dict, state=EndpointState.ACTIVE, name="ep", endpoint_id=EP, **settings) -> EndpointRecord:
    """Groups are numbered from 1."""
    template = Template(name="t", command=("serve",))
    return EndpointRecord(
        id=endpoint_id,
        name=name,
        state=state,
        settings=ScalingSettings(**settings),
        groups=tuple(WorkerGroup(id=GroupId(n), template=template, **group) for n, group in enumerate(groups or ({},), 1)),
    )


def record(n: int, group: int = 1, state=WorkerState.READY, **fields) -> WorkerRecord:
    fields.setdefault("url", f"http://10.0.0.{n}:80")
    fields.setdefault("perf", 100.0)
    fields.setdefault("slots", 1)
    return WorkerRecord(worker_id=WorkerId(f"w{n}"), endpoint_id=EP, group_id=GroupId(group), state=state, **fields)


def pulse(n: int, state=WorkerState.READY, boot="b1", **fields) -> Pulse:
    seq = fields.pop("seq", None) or next(_seq)
    fields.setdefault("sent_at", float(seq))
    fields.setdefault("perf", 100.0)
    fields.setdefault("url", f"http://10.0.0.{n}:80")
    return Pulse(worker_id=WorkerId(f"w{n}"), endpoint_id=EP, boot=boot, seq=seq, state=state, **fields)


def desk(*groups: dict, max_held=100, **settings) -> Desk:
    return Desk(endpoint(*groups, **settings), liveness=Liveness(), router="r1", max_held=max_held)


class Board(Switchboard):
    """A switchboard with one endpoint, on a clock that is moved by hand."""

    def __init__(self, *groups: dict, max_held=100, **settings) -> None:
        counter = itertools.count(1000)
        super().__init__(router="r1", max_held=max_held, new_idx=lambda: next(counter))
        self.now = 100.0
        self.the = self.endpoint(endpoint(*groups, **settings), self.now)

    def ask(self, **fields):
        """(the request, its placement or None)."""
        body = RouteRequest(endpoint="ep", **fields)
        request = self.begin(self.the, body, self.now, 1e9 + self.now)
        return request, self.place(self.the, request, self.now)

    def held(self, **fields):
        """A request whose client listens: (the request, the list that its placement will be put into)."""
        request, placement = self.ask(**fields)
        assert placement is None
        got = []
        assert self.listen(self.the, request, got.append)
        return request, got

    def add(self, n, **fields):
        self.worker(record(n, **fields), self.now)
        return self.the.fleet.workers[WorkerId(f"w{n}")]

    def beat(self, n, **fields):
        self.pulse(pulse(n, **fields), self.now)

    def later(self, seconds):
        self.now += seconds
        self.sweep(self.now)
