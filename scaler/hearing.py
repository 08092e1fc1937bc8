"""Whom we hear: a router's silence is no sign that nobody asks.

    quiet    it said what it had to say, and more than once: nobody has come lately and nobody waits, or it took its leave
    lost     it fell silent in the middle of traffic. What comes to it is not known, so for a while nobody is let go; for longer, the
             load is what workers are seen to have in hand
    back     it is heard again. What it counted meanwhile came then, and not just now

Only the clients' demand comes from routers, and routers go on without us: cut off from the bus they route by their last view. So the
same traffic may well be there, unseen.
"""

from __future__ import annotations

import msgspec

from schemas.signals import DemandReport

from .types import EndpointState, Policy, RouterFact

_replace = msgspec.structs.replace

#: A router repeats its last news for five seconds; who was heard for three of them may have had nothing more to say.
_LAST_WORDS_S = 3.0
#: A router that reported to the leader before may be gone; it is not waited for any longer.
_PATIENCE_S = 3.0
#: What a router says so soon after we listen again may be about the time before.
_FIRST_WORDS_S = 10.0


def is_quiet(report: DemandReport, known: RouterFact | None) -> bool:
    """Whether its silence after this report would be no riddle."""
    if report.leaving:
        return True
    has_news = known is not None and known.boot == report.boot and report.arrivals_total != known.arrivals_total
    return not has_news and not report.waiting and report.sent_at - report.last_arrival_at >= _LAST_WORDS_S


def is_lost(router: RouterFact, policy: Policy, now: float) -> bool:
    """Whether it fell silent in the middle of traffic. After `router_gone_s` it is taken to have ended."""
    return not router.quiet and policy.router_fresh_s < now - router.seen_at <= policy.router_gone_s


def lost(state: EndpointState, policy: Policy, now: float) -> list[str]:
    """Names of the routers that are lost, in order."""
    return sorted(name for name, router in state.routers.items() if is_lost(router, policy, now))


def resumed(state: EndpointState) -> EndpointState:
    """The state as we begin to listen again. What a quiet router did not say was heard until we last looked; of the time since then
    nothing is known of anybody.
    """
    looked_at = state.demand.fresh.since_at
    routers = {
        name: _replace(router, seen_at=looked_at) if router.quiet and 0 < router.seen_at < looked_at else router
        for name, router in state.routers.items()
    }
    return _replace(state, routers=routers)


def catches_up(state: EndpointState, router: RouterFact, at: float) -> bool:
    """Whether what this router says now is about the time before we listened, too."""
    return router.seen_at < state.telemetry_at and at - state.telemetry_at < _FIRST_WORDS_S


def unheard_s(state: EndpointState, router: RouterFact, policy: Policy, at: float) -> float:
    """Of the time since this router spoke last, as it speaks now: seconds for which decisions were made without it, though it may have had
    news. What came to it then did not come just now.
    """
    if not is_lost(router, policy, at) and not catches_up(state, router, at):
        return 0.0
    return max(state.demand.fresh.since_at - router.seen_at, 0.0)


def is_complete(state: EndpointState, policy: Policy, now: float) -> bool:
    """Whether routers tell of all that came lately: none is lost, and none was until a moment ago."""
    return not any(
        is_lost(router, policy, now) or now - router.back_at < policy.router_settle_s for router in state.routers.values()
    )


def is_unheard(state: EndpointState, policy: Policy, now: float) -> bool:
    """Whether routers that reported when demand was last looked at have not spoken since we listen again. What they say first is about
    all the time that we did not hear: a decision before would take that time as quiet, and the next one would take it as a burst.
    """
    looked_at = state.demand.fresh.since_at
    if not looked_at < state.telemetry_at or now - state.telemetry_at >= _PATIENCE_S:
        return False
    return any(looked_at - policy.router_fresh_s <= router.seen_at < state.telemetry_at for router in state.routers.values())
