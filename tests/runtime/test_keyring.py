import stat
import time

import pytest

from runtime import jwt, permissions
from runtime.credentials import Credentials
from runtime.errors import SettingsError
from runtime.keyring import Keyring, WorkerMinter
from runtime.permissions import Role
from schemas import subjects
from schemas.ids import EndpointId, WorkerId


@pytest.fixture
def ring(tmp_path):
    return Keyring.create(tmp_path / "keys")


def test_keys_survive_and_nobody_else_may_read_them(ring):
    again = Keyring.load(ring.directory)
    assert again.operator.public == ring.operator.public
    assert {role: key.public for role, key in again.roles.items()} == {role: key.public for role, key in ring.roles.items()}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ring.directory.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(ring.directory.stat().st_mode) == 0o700


def test_keys_are_never_made_over_others(ring):
    with pytest.raises(SettingsError, match="already holds keys"):
        Keyring.create(ring.directory)
    assert Keyring.open(ring.directory).operator.public == ring.operator.public


def test_a_missing_or_broken_key_is_named(ring):
    (ring.directory / "evt.seed").write_text("nonsense\n")
    with pytest.raises(SettingsError, match=r"evt\.seed"):
        Keyring.load(ring.directory)
    (ring.directory / "evt.seed").unlink()
    with pytest.raises(SettingsError, match=r"evt\.seed"):
        Keyring.load(ring.directory)


def test_creds_are_signed_by_the_key_of_their_role(ring, tmp_path):
    at = time.time()
    path = ring.write_creds(Role.ROUTER, "r1", tmp_path / "r1.creds", expires_at=at + 60)
    credentials = Credentials(path)
    assert credentials.name == "r1"
    assert credentials.claims.exp == int(at + 60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_half_the_keys_are_enough_to_make_workers_and_only_those(ring, tmp_path):
    elsewhere = tmp_path / "provisioner"
    (elsewhere / "roles").mkdir(parents=True)
    for name in ("roles/worker.seed", "cp.public"):
        (elsewhere / name).write_text((ring.directory / name).read_text())
    token, seed = WorkerMinter.from_directory(elsewhere).mint(WorkerId("w7"), EndpointId(42), 60.0, issued_at=1000.0)
    claims = jwt.claims(token)
    assert (claims.name, claims.iat, claims.exp) == ("w7", 1000, 1060)
    assert claims.sub == jwt.Key(seed).public
    with pytest.raises(SettingsError, match="operator"):
        Keyring.load(elsewhere)


def test_no_secret_is_shown(ring):
    key = ring.roles[Role.WORKER]
    assert key.seed not in repr(key)
    assert key.seed not in ring.auth_conf()
    assert all(account.seed not in ring.auth_conf() for account in ring.accounts.values())


def test_a_name_that_is_no_token_is_refused(ring):
    with pytest.raises(ValueError, match=r"r1\.>"):
        ring.mint_creds(Role.ROUTER, "r1.>")


def test_what_is_no_creds_file_is_said(tmp_path):
    with pytest.raises(SettingsError, match="cannot read"):
        Credentials(tmp_path / "none.creds")
    (tmp_path / "empty.creds").write_text("")
    with pytest.raises(SettingsError, match=r"no \.creds file"):
        Credentials(tmp_path / "empty.creds")


def test_permissions_say_what_the_subjects_say():
    worker = permissions.cp_scopes()[Role.WORKER]
    mine = [s.replace("{{tag(ep)}}", "e42").replace("{{name()}}", "w7") for s in worker.publish]
    assert subjects.heartbeat(EndpointId(42), WorkerId("w7")) in mine
    assert subjects.worker_event(EndpointId(42), WorkerId("w7"), "*") in mine
    assert len(mine) == 2
    assert permissions.worker_tag(EndpointId(42)) == "ep:e42"


def test_only_those_who_lead_may_make_consumers_or_streams():
    """Whoever makes a consumer may have messages delivered to any subject of the account."""
    for scopes in (permissions.cp_scopes(), permissions.evt_scopes()):
        for role, scope in scopes.items():
            if role not in {Role.SCALER, Role.MIGRATE}:
                forbidden = [s for s in scope.publish if "CONSUMER.CREATE" in s or "STREAM.CREATE" in s or s in {">", "$JS.>"}]
                assert not forbidden, (role, forbidden)


def test_every_role_has_one_scope():
    assert {*permissions.cp_scopes(), *permissions.evt_scopes()} == set(Role)
