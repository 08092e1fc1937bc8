"""One worker of a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field

from .machines import State


@dataclass(slots=True, eq=False)
class Worker:
    number: int  #: over all groups; what chance is asked about
    group: int
    index: int  #: within its group
    state: State = State.ABSENT
    since_us: int = 0  #: billed up to here
    boot_us: int = 0  #: when its last start began
    starts: int = 0  #: begun so far
    life: int = 0  #: grows whenever what was planned for it no longer holds
    comes_up: bool = True  #: the present start will succeed
    loading_us: int = 0  #: how long it will load, once created
    serving: dict[int, None] = field(default_factory=dict)  #: requests in its slots, in order of start
