"""Every way in which a ticket can be wrong has a status and a code of its own, and costs the model nothing."""

import asyncio
import base64
import hashlib
import hmac
import json
import time

import pytest
from nacl.signing import SigningKey
from worker_kit import Model, Router, bearer, config_for

from pyworker import HandlerConfig
from schemas import ticket


@pytest.fixture
async def worker(start_worker, model):
    return await start_worker(config_for(model))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jws(header: dict, claims: ticket.TicketClaims, signature: bytes) -> str:
    return f"{b64(json.dumps(header).encode())}.{b64(ticket.msgspec.json.encode(claims))}.{b64(signature)}"


def alg_none(router: Router) -> str:
    return jws({"alg": "none", "kid": "k1", "typ": "corral-ticket+jwt"}, router.claims(), b"")


def hs256_with_the_public_key(router: Router) -> str:
    """The classic confusion: the public key, which everybody has, used as an HMAC secret."""
    header = {"alg": "HS256", "kid": "k1", "typ": "corral-ticket+jwt"}
    signed = jws(header, router.claims(), b"").rpartition(".")[0]
    secret = bytes(router.signers["k1"].verify_key)
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def changed_after_signing(router: Router) -> str:
    head, _, signature = router.ticket().split(".")
    body = b64(ticket.msgspec.json.encode(router.claims(cost=1e9)))
    return f"{head}.{body}.{signature}"


def ago(seconds: int) -> dict:
    now = int(time.time())
    return {"iat": now - seconds - 60, "nbf": now - seconds - 60, "exp": now - seconds}


WRONG = {
    "expired": (lambda r: r.ticket(**ago(6)), 401, "ticket_expired"),
    "not yet": (lambda r: r.ticket(nbf=int(time.time()) + 60), 401, "ticket_not_yet_valid"),
    "other worker": (lambda r: r.ticket("w2"), 421, "ticket_wrong_worker"),
    "other issuer": (lambda r: r.ticket(iss="somebody"), 401, "ticket_forged"),
    "other key": (lambda r: r.sign(r.claims(), key=SigningKey.generate()), 401, "ticket_forged"),
    "changed": (changed_after_signing, 401, "ticket_forged"),
    "unknown kid": (lambda r: r.sign(r.claims(), kid="k9", key=SigningKey.generate()), 401, "ticket_unknown_key"),
    "alg none": (alg_none, 401, "ticket_malformed"),
    "hs256": (hs256_with_the_public_key, 401, "ticket_malformed"),
    "truncated": (lambda r: r.ticket()[:-10], 401, "ticket_forged"),
    "truncated in the claims": (lambda r: r.ticket()[:120], 401, "ticket_malformed"),
    "no dots": (lambda r: r.ticket().replace(".", ""), 401, "ticket_malformed"),
    "too long": (lambda r: r.ticket(ep="x" * 5000), 401, "ticket_malformed"),
    "no jti": (lambda r: r.ticket(jti=""), 409, "ticket_replayed"),
    "older than the worker": (lambda r: r.ticket(iat=int(time.time()) - 50), 409, "ticket_replayed"),
    "lives for ever": (lambda r: r.ticket(exp=int(time.time()) + 10**6), 401, "ticket_malformed"),
}
MAY_RETRY = {"not yet"}


@pytest.mark.parametrize("form", ["bearer", "envelope"])
@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_ticket_has_its_own_code(name, form, worker, router, model: Model, http):
    make, status, code = WRONG[name]
    token = make(router)
    if form == "bearer":
        reply = await http.post(f"{worker.url}/x", headers=bearer(token), data=b"payload")
    else:
        body = router.envelope({"a": 1})
        body["auth_data"]["ticket"] = token
        reply = await http.post(f"{worker.url}/x", json=body)
    problem = await reply.json()
    assert (reply.status, problem["error"]) == (status, code), problem
    assert problem["msg"].count(" ") > 3, "says what to do"
    assert (reply.headers.get("x-should-retry") == "false") == (name not in MAY_RETRY)
    assert not model.seen
    assert worker.agent.load.unauthorized_total == 1
    assert worker.agent.load.requests_total == worker.agent.load.rejected_total == 0


async def test_no_ticket_at_all(worker, http, model):
    for send in ({}, {"json": {"prompt": "hi"}}, {"headers": {"Authorization": "Bearer corral_sk_123"}}, {"data": b"\xff\xfe{"}):
        reply = await http.post(f"{worker.url}/x", **send)
        assert (reply.status, (await reply.json())["error"]) == (401, "no_ticket"), send
        assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert not model.seen


async def test_a_ticket_opens_the_door_once(worker, router, http, model):
    token = router.ticket()
    assert (await http.post(f"{worker.url}/x", headers=bearer(token), data=b"1")).status == 200
    again = await http.post(f"{worker.url}/x", headers=bearer(token), data=b"1")
    assert (again.status, (await again.json())["error"]) == (409, "ticket_replayed")
    assert len(model.seen) == 1


async def test_two_at_the_same_moment_get_one_answer(worker, router, http):
    token = router.ticket()
    replies = await asyncio.gather(*(http.post(f"{worker.url}/x", headers=bearer(token), data=b"1") for _ in range(20)))
    assert sorted(r.status for r in replies) == [200] + [409] * 19


async def test_a_ticket_may_have_several_uses(worker, router, http):
    token = router.ticket(n=2)
    statuses = [(await http.get(f"{worker.url}/x", headers=bearer(token))).status for _ in range(3)]
    assert statuses == [200, 200, 409]


async def test_a_ticket_within_the_clock_skew_is_good(worker, router, http):
    now = int(time.time())
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket(exp=now - 3)))).status == 200
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket(nbf=now + 3)))).status == 200


async def test_a_new_key_is_fetched_when_first_seen_and_both_work(worker, router, http):
    old = router.ticket()
    router.rotate("k2")
    assert (await http.get(f"{worker.url}/x", headers=bearer(router.ticket()))).status == 200
    assert (await http.get(f"{worker.url}/x", headers=bearer(old))).status == 200
    assert sorted(worker.agent.keys.keys) == ["k1", "k2"]


async def test_unknown_kids_do_not_make_the_worker_hammer_the_router(worker, router, http):
    before = router.fetches
    stranger = SigningKey.generate()
    for _ in range(10):
        tokens = [router.sign(router.claims(), kid="k9", key=stranger) for _ in range(10)]
        replies = await asyncio.gather(*(http.get(f"{worker.url}/x", headers=bearer(token)) for token in tokens))
        assert {r.status for r in replies} == {401}
    assert router.fetches - before <= 4


async def test_user_code_never_sees_an_unauthorised_payload(start_worker, model, router, http):
    called = []
    handler = HandlerConfig(
        "/x", request_parser=lambda p: called.append(p) or p, workload_calculator=lambda p: called.append(p) or 1.0
    )
    worker = await start_worker(config_for(model, handler))
    body = router.envelope({"a": 1})
    body["auth_data"]["ticket"] = router.ticket("w2")
    assert (await http.post(f"{worker.url}/x", json=body)).status == 421
    assert called == []
