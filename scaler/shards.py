"""Which shard an endpoint belongs to, and which lease a shard. The only place that knows."""

from __future__ import annotations

import zlib

from schemas.ids import EndpointId, endpoint_token

SHARDS = 16


def shard_of(endpoint_id: EndpointId) -> int:
    """0..15, evenly spread and the same in every process."""
    return zlib.crc32(endpoint_token(endpoint_id).encode()) % SHARDS


def lease_of(endpoint_id: EndpointId, leases: int) -> int:
    """The lease that covers an endpoint when `leases` scalers share the shards; 1: one leads them all."""
    return shard_of(endpoint_id) % leases
