"""One endpoint at one moment, as everything that takes part in a decision sees it. Sorted and counted once."""

from __future__ import annotations

from functools import cached_property

from schemas.ids import GroupId
from schemas.records import ScalingSettings

from . import groups, hearing, traffic
from .roster import Roster
from .types import EndpointState, Policy


class Scene:
    """The arguments of decide() and what is derived from them alone. Read only."""

    def __init__(self, state: EndpointState, policy: Policy, now: float) -> None:
        self.state = state
        self.policy = policy
        self.now = now
        self.roster = Roster(state)

    @cached_property
    def here(self) -> traffic.Present:
        """Requests that are here now."""
        return traffic.present(self.state, self.now, self.policy)

    @cached_property
    def lost(self) -> list[str]:
        """Routers that fell silent in the middle of traffic."""
        return hearing.lost(self.state, self.policy, self.now)

    @cached_property
    def standings(self) -> dict[GroupId, groups.Standing]:
        """How each group stands."""
        return groups.standings(self.state, self.roster, self.policy)

    @property
    def settings(self) -> ScalingSettings:
        """What the user set. Only for an endpoint whose spec is known."""
        assert self.state.spec is not None
        return self.state.spec.settings
