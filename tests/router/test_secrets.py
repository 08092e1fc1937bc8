"""Keys on disk, tickets and their rotation, Vast's signature, API keys."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from router.api_keys import KeyRing, new_key, sha256_hex
from router.keys_dir import KeysDir
from router.tickets import PUBLISH_BEFORE_USE_S, TICKET_KEYS_FILE, TicketSigner, VastSigner
from runtime.errors import SettingsError
from schemas import ticket
from schemas.records import ApiKeyRecord
from schemas.ticket import TicketClaims
from tests.router.fleets import EP, endpoint

NOW = 1_700_000_000.0
CLAIMS = TicketClaims(
    iss="corral", aud="w1", ep="ep", rid="5", jti="j", reqnum=1, cost=1.0, iat=1700000000, nbf=1700000000, exp=1700000060
)


def verify(token: str, jwks: bytes) -> TicketClaims:
    parsed = ticket.parse(token)
    key = {key["kid"]: key["x"] for key in json.loads(jwks)["keys"]}[parsed.kid]
    VerifyKey(ticket.un_b64u(key.encode())).verify(parsed.signed, parsed.signature)
    return parsed.claims


def test_secrets_are_readable_by_their_owner_only_and_stay_the_same(tmp_path):
    directory = KeysDir(tmp_path / "deep" / "keys")
    first = TicketSigner(directory, NOW), VastSigner(directory), KeyRing(directory)
    second = TicketSigner(directory, NOW), VastSigner(directory), KeyRing(directory)
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    files = list(directory.path.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert first[0].kid == second[0].kid
    assert first[1].public_pem == second[1].public_pem
    assert first[2].endpoint_key(endpoint()) == second[2].endpoint_key(endpoint())


def test_routers_that_start_at_once_on_one_directory_agree(tmp_path):
    directory = KeysDir(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: directory.read_or_make("secret", lambda: b"%d" % n), range(32)))
    assert len(set(made)) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["secret"]


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    directory = KeysDir(tmp_path)
    TicketSigner(directory, NOW)
    (tmp_path / TICKET_KEYS_FILE).chmod(0o644)
    with pytest.raises(SettingsError, match="can be read by others") as error:
        TicketSigner(directory, NOW)
    assert "chmod 600" in str(error.value)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="ROUTER_KEYS_DIR"):
        KeysDir(tmp_path / "file" / "keys")


def test_a_ticket_verifies_and_a_changed_one_does_not(tmp_path):
    signer = TicketSigner(KeysDir(tmp_path), NOW)
    token = signer.sign(CLAIMS)
    assert verify(token, signer.jwks) == CLAIMS
    head, body, signature = token.split(".")
    forged = ticket.b64u(json.dumps({**json.loads(ticket.un_b64u(body.encode())), "aud": "w2"}).encode()).decode()
    with pytest.raises(BadSignatureError):
        verify(f"{head}.{forged}.{signature}", signer.jwks)


def test_rotation_locks_nobody_out(tmp_path):
    signer, beside = TicketSigner(KeysDir(tmp_path), NOW), TicketSigner(KeysDir(tmp_path), NOW)
    old, early_jwks = signer.sign(CLAIMS), signer.jwks
    new_kid = signer.rotate(NOW)
    # published at once, used only when every worker has had time to fetch it
    assert verify(signer.sign(CLAIMS), early_jwks)
    assert verify(old, signer.jwks)
    signer.use_due(NOW + PUBLISH_BEFORE_USE_S - 1)
    assert signer.kid != new_kid
    beside.reread(NOW + PUBLISH_BEFORE_USE_S)
    signer.use_due(NOW + PUBLISH_BEFORE_USE_S)
    assert signer.kid == beside.kid == new_kid
    assert verify(signer.sign(CLAIMS), signer.jwks)
    assert verify(old, signer.jwks)  # until the next rotation
    signer.rotate(NOW + 9999)
    assert len(json.loads(signer.jwks)["keys"]) == 2
    with pytest.raises(KeyError):
        verify(old, signer.jwks)


def test_rotation_by_age(tmp_path):
    signer = TicketSigner(KeysDir(tmp_path), NOW)
    assert not signer.rotate_if_older(86400, NOW + 86399)
    assert signer.rotate_if_older(86400, NOW + 86400)
    assert not signer.rotate_if_older(86400, NOW + 86401)


def test_vasts_signature_is_what_vasts_worker_checks_and_is_made_once(tmp_path):
    signer, url = VastSigner(KeysDir(tmp_path)), "http://1.2.3.4:41000"
    assert not signer.knows(url)
    signature = signer.signature(url)
    assert signer.knows(url)
    assert signer.signature(url) is signature
    message = json.dumps({"url": url}, indent=4, sort_keys=True).encode()
    key = serialization.load_pem_public_key(signer.public_pem)
    key.verify(base64.b64decode(signature), message, padding.PKCS1v15(), hashes.SHA256())
    assert key.key_size == 2048


def test_a_file_that_is_no_rsa_key_is_named(tmp_path):
    directory = KeysDir(tmp_path)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    directory.read_or_make("vast_rsa.pem", lambda: pem)
    with pytest.raises(SettingsError, match=r"vast_rsa\.pem"):
        VastSigner(directory)


def test_the_first_admin_key_is_given_by_its_hash(tmp_path):
    ring = KeyRing(KeysDir(tmp_path), hashlib.sha256(b"root").hexdigest())
    assert ring.who("root", NOW).is_admin
    for wrong in ("Root", "", None, "root ", "x" * 1000):
        assert ring.who(wrong, NOW) is None
    for bad in ("root", "ab", "z" * 64, "a" * 63):
        with pytest.raises(SettingsError, match="ROUTER_ADMIN_KEY_SHA256"):
            KeyRing(KeysDir(tmp_path), bad)


def test_stored_keys_come_expire_and_go(tmp_path):
    ring, key = KeyRing(KeysDir(tmp_path)), new_key()
    digest = sha256_hex(key)
    ring.stored(digest, ApiKeyRecord(id="k1", endpoints=(EP,), expires_at=NOW + 10))
    who = ring.who(key, NOW)
    assert (who.key_id, who.is_admin, who.may_route(EP), who.may_route(EP + 1)) == ("k1", False, True, False)
    assert ring.who(key, NOW + 10) is None
    ring.revoked(digest)
    assert ring.who(key, NOW) is None
    assert new_key() != new_key()


def test_an_endpoints_own_key_opens_its_endpoint_only_and_ends_with_it(tmp_path):
    ring, other = KeyRing(KeysDir(tmp_path / "a")), KeyRing(KeysDir(tmp_path / "b"))
    record = endpoint()
    ring.endpoint(record)
    key = ring.endpoint_key(record)
    who = ring.who(key, NOW)
    assert (who.is_admin, who.may_route(EP), who.may_route(EP + 1)) == (False, True, False)
    assert other.endpoint_key(record) != key  # another installation, another secret
    ring.endpoint_gone(EP)
    assert ring.who(key, NOW) is None
