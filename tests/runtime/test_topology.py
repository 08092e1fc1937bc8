import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from nats.js import api

from runtime import init, js_names, migrate, server_binary, topology
from runtime.errors import BusRefused, BusUnavailable, StreamMissing
from runtime.nats_bus import NatsSettings, connect, open_client
from runtime.permissions import Role
from schemas import subjects
from schemas.ids import EndpointId
from tests.certificates import self_signed

ROOT = Path(__file__).parents[2]
E1 = EndpointId(1)


@pytest.fixture
async def admin(bare_nats_server):
    async with open_client(bare_nats_server.settings(Role.MIGRATE, "migrate")) as client:
        yield client


async def configs(client) -> dict[str, dict]:
    own = client.jetstream()
    events = client.jetstream(prefix=js_names.EVENTS_API)
    found = [*await own.streams_info(), *await events.streams_info()]
    return {info.config.name: info.config.as_dict() for info in found}


async def test_makes_every_stream_bucket_and_consumer(admin):
    await topology.ensure(admin)
    made = await configs(admin)
    assert set(made) == {
        subjects.STREAM_COMMANDS,
        subjects.STREAM_EVENTS,
        subjects.STREAM_WORKER_EVENTS,
        subjects.STREAM_ADVISORIES,
        subjects.STREAM_DEAD_LETTERS,
        *(js_names.kv_stream(bucket) for bucket in subjects.BUCKETS),
    }
    assert {config["storage"] for config in made.values()} == {"file"}
    assert made[subjects.STREAM_COMMANDS]["retention"] == "workqueue"
    for stream, consumer in topology.consumers():
        info = await admin.jetstream().consumer_info(stream, consumer.durable_name)
        assert info.config.ack_policy == api.AckPolicy.EXPLICIT


async def test_the_events_are_not_in_the_control_planes_account(admin):
    await topology.ensure(admin)
    own = {info.config.name for info in await admin.jetstream().streams_info()}
    assert subjects.STREAM_EVENTS not in own


async def test_again_changes_nothing_and_keeps_what_is_stored(admin):
    await topology.ensure(admin)
    before = await configs(admin)
    await admin.jetstream().publish(subjects.command("create", E1), b"kept")
    await topology.ensure(admin)
    assert await configs(admin) == before
    assert (await admin.jetstream().stream_info(subjects.STREAM_COMMANDS)).state.messages == 1


async def test_what_drifted_is_put_right(admin):
    await topology.ensure(admin)
    before = await configs(admin)
    js = admin.jetstream()
    drifted = api.StreamConfig(**{**topology.streams(1)[0].__dict__, "max_age": 1800.0, "description": "changed by hand"})
    await js.update_stream(drifted)
    assert await configs(admin) != before
    await topology.ensure(admin)
    assert await configs(admin) == before


async def test_a_change_that_is_not_possible_is_said(admin):
    first = topology.streams(1)[0]
    first.retention = api.RetentionPolicy.LIMITS
    await admin.jetstream().add_stream(first)
    with pytest.raises(BusRefused, match="retention"):
        await topology.ensure(admin)


async def test_every_subject_of_a_stream_is_one_of_ours():
    """Each stream hears what the functions in schemas.subjects say, and no two hear the same."""
    everything = [*topology.streams(1), topology.events_stream(1)]
    assert subjects.COMMANDS in everything[0].subjects
    heard = [subject for stream in everything for subject in stream.subjects]
    assert len(heard) == len(set(heard))
    assert all(stream.num_replicas == 3 for stream in [*topology.streams(3), topology.events_stream(3)])


async def test_the_queue_refuses_what_it_cannot_keep_instead_of_forgetting_the_oldest(admin, bare_nats_server):
    await topology.ensure(admin)
    async with connect(bare_nats_server.settings(Role.ROUTER, "r1")) as router:
        with pytest.raises(BusRefused, match="maximum"):
            await router.append(subjects.command("create", E1), b"x" * 70_000, msg_id="1")


async def test_migrate_is_a_command(bare_nats_server, monkeypatch, tmp_path):
    settings = bare_nats_server.settings(Role.MIGRATE, "migrate")
    environ = {"CORRAL_NATS_URLS": bare_nats_server.url, "CORRAL_NATS_CREDS": settings.creds, "PATH": "/usr/bin"}
    for _ in range(2):
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "runtime.migrate"), env=environ, cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )
        _, log = await done.communicate()
        assert done.returncode == 0, log
        assert b"topology_ready" in log


async def test_without_the_right_it_says_so(bare_nats_server, monkeypatch):
    monkeypatch.setattr(topology, "_API_TIMEOUT_S", 0.3)
    with pytest.raises(Exception, match="role"):
        await migrate.migrate(migrate.MigrateSettings(nats=bare_nats_server.settings(Role.ROUTER, "r1")))


async def test_before_migrate_a_stream_is_missing_and_the_hint_says_what_to_do(bare_nats_server, bus_for):
    bus = await bus_for("scaler", server=bare_nats_server)
    with pytest.raises(StreamMissing) as error:
        await bus.bucket(subjects.BUCKET_WORKERS).get("e1.w1")
    assert "runtime.migrate" in error.value.hint


# --- the production configuration -----------------------------------------------------------------------------------


def switch_on(conf: str, *blocks: str) -> str:
    for block in blocks:
        assert f"#{block}:" in conf
        conf = re.sub(rf"^#{block}: ", "", conf, flags=re.MULTILINE)
    return conf


@pytest.fixture
def production(tmp_path):
    """nats.conf with what runtime.init makes, in a folder of its own."""
    init.init(tmp_path / "secrets")
    conf = (ROOT / "nats.conf").read_text()
    (tmp_path / "auth.conf").write_text((tmp_path / "secrets" / "nats" / "auth.conf").read_text())
    (tmp_path / "nats.conf").write_text(conf)
    return tmp_path


def make_certificate(folder: Path) -> None:
    folder.mkdir()
    certificate, _, _ = self_signed(folder, x509.DNSName("localhost"))
    (folder / "ca.pem").write_bytes(certificate.read_bytes())


@pytest.mark.parametrize("blocks", [(), ("tls",), ("cluster",), ("tls", "cluster", "leafnodes", "websocket")])
def test_nats_conf_is_good(production, blocks):
    make_certificate(production / "tls")
    path = production / "nats.conf"
    path.write_text(switch_on(path.read_text(), *blocks))
    done = subprocess.run(
        [server_binary.find_server(), "-t", "-c", path], capture_output=True, text=True, timeout=20, check=False, cwd=production
    )
    assert done.returncode == 0, done.stderr
    assert "is valid" in done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_nats_conf_serves_with_tls_and_our_credentials(production):
    make_certificate(production / "tls")
    path = production / "nats.conf"
    path.write_text(switch_on(path.read_text(), "tls"))
    port, http = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        *(server_binary.find_server(), "-c", path, "--port", str(port), "-m", str(http)),
        cwd=production,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        creds = production / "secrets" / "creds"
        nats = NatsSettings(
            urls=(f"tls://localhost:{port}",), creds=str(creds / "migrate.creds"), tls_ca=str(production / "tls" / "ca.pem")
        )
        await migrate.migrate(migrate.MigrateSettings(nats=nats))
        async with connect(msgspec.structs.replace(nats, creds=str(creds / "scaler.creds"))) as scaler:
            await scaler.bucket(subjects.BUCKET_WORKERS).put("e1.w1", b"x")
            await scaler.append(subjects.event("decision", E1), b"", msg_id="1")
        assert (production / "jetstream").is_dir()
        with pytest.raises(BusUnavailable):  # a server that our authority did not sign
            async with connect(msgspec.structs.replace(nats, tls_ca="", connect_timeout_s=0.5)):
                pass
    finally:
        process.terminate()
        await process.wait()
