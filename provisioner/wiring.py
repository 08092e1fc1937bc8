"""Puts the provisioner together from its parts. The same parts list for the process of its own, for tests and for simulation."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from runtime.bus import Bus

from .bundles import Bundles
from .dead_letters import DeadLetters, Streams
from .enroll import Enrollment
from .facts import Herald
from .hand import Hand
from .locks import Locks
from .metrics import Metrics
from .plan import Patience
from .provider import Provider
from .reconcile import Reconciler, Rhythm
from .service import Provisioner
from .store import Store


def provisioner(
    *,
    bus: Bus,
    streams: Streams | None,
    providers: Mapping[str, Provider],
    bundles: Bundles,
    now: Callable[[], float],
    rng: random.Random,
    metrics: Metrics | None = None,
    patience: Patience | None = None,
    rhythm: Rhythm | None = None,
) -> Provisioner:
    """A provisioner that works the commands of `bus`; `streams` is who can look into its streams (a NatsBus itself); without it the
    bus must bury by itself what it stops delivering.
    """
    patience, rhythm, metrics = patience or Patience(), rhythm or Rhythm(), metrics or Metrics()
    store, herald, locks = Store(bus, owner=bus.name, now=now), Herald(bus, now), Locks()
    hand = Hand(
        store=store, herald=herald, providers=providers, locks=locks, patience=patience, metrics=metrics, now=now, rng=rng
    )
    return Provisioner(
        bus=bus,
        herald=herald,
        hand=hand,
        reconciler=Reconciler(
            store=store,
            herald=herald,
            hand=hand,
            providers=providers,
            locks=locks,
            metrics=metrics,
            owner=bus.name,
            now=now,
            rhythm=rhythm,
        ),
        enrollment=Enrollment(bus=bus, store=store, herald=herald, bundles=bundles, now=now),
        dead_letters=DeadLetters(bus=bus, streams=streams, herald=herald, hand=hand, now=now) if streams is not None else None,
        providers=providers,
    )
