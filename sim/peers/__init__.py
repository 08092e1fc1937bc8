"""The autoscalers of the field, re-implemented from their sources and documents, each with one knob.

The knob is the planned utilisation of a worker's slots, or the product's nearest equivalent; the default is the product's own where
it has one. Where a product's code is closed this is our model of its documented policy, and its file says what was assumed.
All are told exact metrics without delay and may take back draining workers and cancel starts, which some of them cannot: that flatters
them, and where a reading holds one back instead it is by about a hundredth of its hours (Ray Serve acts after 31 s of ticks, the product
after 30.1 s; who goes on from the hot workers that it sees forgets one that crashed, which a real controller replaces).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sim.policy import Policy, PoolFacts

from .aibrix import AIBrix
from .baseten import Baseten
from .dynamo import DynamoThroughput, DynamoThroughputAndLoad
from .knative import KnativeAutoscaler
from .kubernetes import HorizontalPodAutoscaler
from .modal import Modal
from .ray_serve import RayServe
from .runpod import RunpodQueueDelay, RunpodRequestCount
from .sagemaker import SageMaker
from .skyserve import SkyServe
from .vast import VastLike


class Peer(NamedTuple):
    name: str
    make: Callable[..., Policy]  #: (pool) for the default, (pool, knob) for a setting
    knobs: tuple[float, ...]  #: settings tried by the oracle that tunes every peer on every workload

    def at_default(self, pool: PoolFacts) -> Policy:
        return self.make(pool)

    def at(self, pool: PoolFacts, knob: float | None) -> Policy:
        """None: the default."""
        return self.make(pool) if knob is None else self.make(pool, knob)


_TO_FULL = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

PEERS = tuple(
    Peer(policy.name, policy, knobs)
    for policy, knobs in (
        (AIBrix, _TO_FULL),
        (Baseten, _TO_FULL),
        (DynamoThroughput, (0.3, *_TO_FULL)),
        (DynamoThroughputAndLoad, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        (HorizontalPodAutoscaler, _TO_FULL),
        (KnativeAutoscaler, _TO_FULL),
        (Modal, (0, 1, 2, 3, 4, 6)),
        (RayServe, (0.25, 0.3, *_TO_FULL)),
        (RunpodQueueDelay, (1, 2, 4)),
        (RunpodRequestCount, (0.25, *_TO_FULL)),
        (SageMaker, (0.3, *_TO_FULL)),
        (SkyServe, (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        (VastLike, (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    )
)


def peer(name: str) -> Peer:
    """Raises KeyError, naming those there are."""
    for one in PEERS:
        if one.name == name:
            return one
    raise KeyError(f"no peer {name!r}; there are: {', '.join(one.name for one in PEERS)}")
