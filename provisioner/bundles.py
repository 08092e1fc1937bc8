"""What a worker is given to find and enter its control plane."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Protocol

import msgspec

from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.signals import WorkerBundle

TOKEN_PREFIX = "corral1."  # noqa: S105 - says what kind of token follows
#: A bundle is renewed when this share of its life has passed; a worker reads it again when it reconnects.
RENEW_AFTER = 0.5


class Minter(Protocol):
    """runtime.keyring.WorkerMinter."""

    def mint(
        self, worker_id: WorkerId, endpoint_id: EndpointId, ttl_s: float, *, issued_at: float | None = None
    ) -> tuple[str, str]: ...


class Bundles:
    """Makes worker bundles. Without a minter (a bus that asks for no credentials) they carry none."""

    def __init__(
        self,
        *,
        minter: Minter | None,
        nats_urls: tuple[str, ...],
        control_url: str,
        ttl_s: float,
        now: Callable[[], float],
    ) -> None:
        self._minter = minter
        self._nats_urls = nats_urls
        self._control_url = control_url
        self._ttl_s = ttl_s
        self._now = now

    def issue(
        self,
        worker_id: WorkerId,
        endpoint_id: EndpointId,
        group_id: GroupId,
        *,
        revision: int = 1,
        endpoint_name: str = "",
        ttl_s: float | None = None,
    ) -> WorkerBundle:
        """A bundle with fresh credentials, good for `ttl_s` seconds (default: that of local workers)."""
        life_s = self._ttl_s if ttl_s is None else ttl_s
        at = self._now()
        jwt, seed = self._minter.mint(worker_id, endpoint_id, life_s, issued_at=at) if self._minter else ("", "")
        return WorkerBundle(
            worker_id=worker_id,
            endpoint_id=endpoint_id,
            group_id=group_id,
            nats_urls=self._nats_urls,
            nats_jwt=jwt,
            nats_seed=seed,
            control_url=self._control_url,
            revision=revision,
            endpoint_name=endpoint_name,
            expires_at=at + life_s,
        )

    def is_stale(self, bundle: WorkerBundle) -> bool:
        return bundle.expires_at - self._now() < self._ttl_s * (1 - RENEW_AFTER)


def token(bundle: WorkerBundle) -> str:
    """The bundle as one word, for a person to carry to another machine. A secret."""
    return TOKEN_PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(bundle)).rstrip(b"=").decode()
