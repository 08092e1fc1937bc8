"""POST /route/ over real sockets and a real nats-server: who answers, with what, and who waits."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest
from nacl.signing import VerifyKey

from schemas import ticket
from schemas.states import WorkerState

from tests.router.house import House


async def test_a_ready_worker_gets_the_request_and_the_ticket_is_good(house: House):
    endpoint = await house.endpoint()
    worker = await house.worker(endpoint)
    await house.beat(worker)
    answer = await house.route(endpoint.name, cost=250, request_idx=0, replay_timeout=60.0)
    assert answer["url"] == worker.url
    assert answer["endpoint"] == endpoint.name
    assert answer["cost"] == 250
    assert answer["request_idx"] > 0
    parsed = ticket.parse(answer["ticket"])
    async with house.http.get(house.url + "/.well-known/jwks.json") as response:
        keys = {key["kid"]: key for key in (await response.json(content_type=None))["keys"]}
    VerifyKey(ticket.un_b64u(keys[parsed.kid]["x"].encode())).verify(parsed.signed, parsed.signature)
    assert parsed.claims.aud == worker.worker_id
    assert parsed.claims.ep == endpoint.name
    assert parsed.claims.exp - parsed.claims.iat == 60
    assert abs(parsed.claims.iat - time.time()) < 5
