"""What a decision looked at, with its age, as its event tells it: what is common to all engines, and all there is where none is asked."""

from __future__ import annotations

from schemas.events import InputRead

from .scene import Scene


def router_age_s(scene: Scene) -> float | None:
    """Since the newest word of any router; None: there was none."""
    return min([scene.now - router.seen_at for router in scene.state.routers.values() if router.seen_at], default=None)


def beat_age_s(scene: Scene) -> float | None:
    """Since the oldest of the last heartbeats of the hot workers; None: there was none."""
    beats = [at for worker in scene.roster.hot if (at := worker.beat_at) is not None]
    return scene.now - min(beats) if beats else None


def here(scene: Scene) -> tuple[InputRead, ...]:
    """Requests and workers that are here, whatever anybody wants."""
    present, roster, beat_s, router_s = scene.here, scene.roster, beat_age_s(scene), router_age_s(scene)
    return (
        InputRead(name="waiting", value=None if scene.lost else float(present.waiting), age_s=router_s, unit="requests"),
        InputRead(name="inflight", value=float(present.inflight), age_s=beat_s, unit="requests"),
        InputRead(name="queued", value=float(present.queued), age_s=beat_s, unit="requests"),
        InputRead(name="oldest_wait", value=max(present.oldest_wait_s, present.oldest_queued_s), age_s=router_s, unit="s"),
        InputRead(name="ready", value=float(len(roster.serving)), age_s=beat_s, unit="workers"),
        InputRead(name="coming", value=float(len(roster.coming)), unit="workers"),
    )


def at_rest(scene: Scene) -> tuple[InputRead, ...]:
    """For an endpoint that no engine is asked about: who is here, and who is still to be ended."""
    roster = scene.roster
    return (
        *here(scene),
        InputRead(name="draining", value=float(len(roster.draining)), age_s=beat_age_s(scene), unit="workers"),
        InputRead(name="cold", value=float(len(roster.cold)), unit="workers"),
        InputRead(name="living", value=float(len(roster.living)), unit="workers"),
    )
