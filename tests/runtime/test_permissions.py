"""What each role can and cannot do, asked of a real server."""

import asyncio

import nats
import pytest
from nats.aio.client import RawCredentials

from runtime import js_names, topology
from runtime.errors import BusRefused, BusUnavailable
from runtime.nats_bus import open_client
from runtime.permissions import Role
from schemas import subjects
from schemas.commands import OPS
from schemas.ids import EndpointId, WorkerId

W1, W2 = WorkerId("w1"), WorkerId("w2")


@pytest.fixture
async def client_for(nats_server):
    """A bare client of a role, and the permission errors it got."""
    opened = []

    async def make(role, name, *, endpoint=None):
        denied: list[str] = []

        async def on_error(error):
            denied.append(str(error))

        tags = (f"ep:e{endpoint}",) if endpoint is not None else ()
        client = await nats.connect(
            nats_server.url,
            user_credentials=RawCredentials(nats_server.keyring.mint_creds(role, name, tags=tags)),
            inbox_prefix=subjects.inbox(name),
            error_cb=on_error,
            allow_reconnect=False,
        )
        opened.append(client)
        return client, denied

    yield make
    for client in opened:
        await client.close()


async def refusals(client, denied, *, publish=(), subscribe=()) -> set[str]:
    """The subjects among these that the server refuses."""

    async def ignore(_):
        pass

    asked = {}
    for subject in publish:
        asked[subject.lower()] = subject
        await client.publish(subject, b"")
    for subject in subscribe:
        asked[subject.lower()] = subject
        await client.subscribe(subject, cb=ignore)
    await client.flush()  # its PING overtakes what nats-py has not written yet
    await client.flush()
    return {asked[lower] for error in denied for lower in asked if f'"{lower}"' in error.lower()}


def kv(bucket, key="x"):
    return js_names.kv_subject(bucket, key)


CONTROL_PLANE_SECRETS = [
    js_names.message_get(js_names.kv_stream(subjects.BUCKET_KEYS)),
    js_names.direct_get(js_names.kv_stream(subjects.BUCKET_KEYS)),
]
MAKING_CONSUMERS = [
    f"{js_names.API}.CONSUMER.CREATE.{subjects.STREAM_COMMANDS}.mine",
    f"{js_names.EVENTS_API}.CONSUMER.CREATE.{subjects.STREAM_EVENTS}.mine",
    f"{js_names.API}.STREAM.CREATE.MINE",
    f"{js_names.API}.STREAM.DELETE.{subjects.STREAM_COMMANDS}",
    f"{js_names.API}.STREAM.PURGE.{subjects.STREAM_COMMANDS}",
]


async def test_a_worker_speaks_for_itself_alone(client_for, endpoint_id):
    client, denied = await client_for(Role.WORKER, W1, endpoint=endpoint_id)
    other = EndpointId(endpoint_id + 1)
    may = {subjects.heartbeat(endpoint_id, W1), subjects.worker_event(endpoint_id, W1, "bench")}
    may_not = {
        subjects.heartbeat(endpoint_id, W2),
        subjects.heartbeat(other, W1),
        subjects.worker_event(endpoint_id, W2, "bench"),
        subjects.control(W2),
        subjects.control(W1),
        subjects.command("destroy", endpoint_id),
        subjects.event("worker_ready", endpoint_id),
        subjects.load(endpoint_id, "r1"),
        subjects.ENROLL,
        kv(subjects.BUCKET_WORKERS),
        *CONTROL_PLANE_SECRETS,
        *MAKING_CONSUMERS,
    }
    assert await refusals(client, denied, publish=may | may_not) == may_not


async def test_a_worker_hears_its_own_control_alone(client_for, endpoint_id):
    client, denied = await client_for(Role.WORKER, W1, endpoint=endpoint_id)
    may_not = {
        subjects.control(W2),
        subjects.control(WorkerId("*")),
        subjects.HEARTBEATS,
        subjects.EVERYTHING,
        subjects.inbox("r1") + ".>",
        "_INBOX.>",
        ">",
    }
    assert await refusals(client, denied, subscribe=may_not | {subjects.control(W1), subjects.inbox(W1) + ".>"}) == may_not


async def test_a_worker_may_answer_what_it_was_asked(bus_for, endpoint_id, eventually):
    scaler = await bus_for("scaler")
    worker = await bus_for("worker", "w41", endpoint=endpoint_id)

    async def answer(_):
        return b"done"

    await worker.respond(subjects.control(WorkerId("w41")), answer)
    assert await scaler.request(subjects.control(WorkerId("w41")), b"", 2.0) == b"done"


async def test_a_router_routes_and_administers_and_no_more(client_for, endpoint_id):
    client, denied = await client_for(Role.ROUTER, "r1")
    may = {
        subjects.load(endpoint_id, "r1"),
        subjects.reservation(endpoint_id, "r1"),
        subjects.heartbeat(endpoint_id, W1),
        subjects.ENROLL,
        subjects.event("endpoint_created", endpoint_id),
        subjects.event("group_deleted", endpoint_id),
        *(subjects.command(op, endpoint_id) for op in OPS),
        *(kv(b) for b in (subjects.BUCKET_ENDPOINTS, subjects.BUCKET_KEYS, subjects.BUCKET_TEMPLATES, subjects.BUCKET_DEMAND)),
        *CONTROL_PLANE_SECRETS,
        js_names.direct_get(subjects.STREAM_EVENTS),
    }
    may_not = {
        subjects.load(endpoint_id, "r2"),
        subjects.reservation(endpoint_id, "r2"),
        subjects.worker_event(endpoint_id, W1, "bench"),
        subjects.control(W1),
        subjects.event("decision", endpoint_id),
        subjects.event("worker_ready", endpoint_id),
        subjects.dead_letter("create", endpoint_id),
        *(kv(b) for b in (subjects.BUCKET_WORKERS, subjects.BUCKET_INSTANCES, subjects.BUCKET_SCALER, subjects.BUCKET_LEASE)),
        kv(subjects.BUCKET_IDEM),
        js_names.next_message(subjects.STREAM_COMMANDS, subjects.CONSUMER_PROVISIONER),
        *MAKING_CONSUMERS,
    }
    assert await refusals(client, denied, publish=may | may_not) == may_not
    heard = {subjects.HEARTBEATS, subjects.RESERVATIONS, subjects.EVENTS, subjects.inbox("r1") + ".>"}
    unheard = {subjects.COMMANDS, subjects.control(WorkerId("*")), subjects.ENROLL, subjects.inbox("r2") + ".>", ">"}
    assert await refusals(client, denied, subscribe=heard | unheard) == unheard


async def test_a_provisioner_works_commands_and_no_more(client_for, endpoint_id):
    client, denied = await client_for(Role.PROVISIONER, "p1")
    may = {
        js_names.next_message(subjects.STREAM_COMMANDS, subjects.CONSUMER_PROVISIONER),
        js_names.next_message(subjects.STREAM_ADVISORIES, subjects.CONSUMER_DLQ),
        subjects.event("worker_created", endpoint_id),
        subjects.dead_letter("create", endpoint_id),
        subjects.control(W1),
        kv(subjects.BUCKET_IDEM),
        kv(subjects.BUCKET_INSTANCES),
        js_names.direct_get(js_names.kv_stream(subjects.BUCKET_ENDPOINTS)),
        js_names.message_delete(subjects.STREAM_COMMANDS),
    }
    may_not = {
        subjects.command("create", endpoint_id),
        subjects.heartbeat(endpoint_id, W1),
        subjects.ENROLL,
        *(kv(b) for b in (subjects.BUCKET_ENDPOINTS, subjects.BUCKET_KEYS, subjects.BUCKET_WORKERS, subjects.BUCKET_LEASE)),
        js_names.message_delete(subjects.STREAM_WORKER_EVENTS),
        *CONTROL_PLANE_SECRETS,
        *MAKING_CONSUMERS,
    }
    assert await refusals(client, denied, publish=may | may_not) == may_not


async def test_an_operator_looks_and_does_not_touch(client_for, endpoint_id):
    client, denied = await client_for(Role.OPERATOR, "op1")
    may = {
        f"{js_names.API}.STREAM.LIST",
        js_names.stream_info(subjects.STREAM_COMMANDS),
        js_names.direct_get(js_names.kv_stream(subjects.BUCKET_WORKERS)),
    }
    may_not = {
        subjects.command("destroy", endpoint_id),
        subjects.heartbeat(endpoint_id, W1),
        subjects.control(W1),
        *(kv(bucket) for bucket in subjects.BUCKETS),
        *CONTROL_PLANE_SECRETS,
        *MAKING_CONSUMERS,
    }
    assert await refusals(client, denied, publish=may | may_not) == may_not
    assert await refusals(client, denied, subscribe={subjects.EVERYTHING, subjects.inbox("r1") + ".>"}) == {
        subjects.inbox("r1") + ".>"
    }


async def test_an_integrator_reads_its_durable_and_forges_nothing(nats_server, client_for, bus, endpoint_id):
    async with open_client(nats_server.settings(Role.SCALER, "sc")) as admin:
        await topology.ensure_integrator(admin, "acme", pattern=subjects.events_of_endpoint(endpoint_id))
        await topology.ensure_integrator(admin, "acme", pattern=subjects.events_of_endpoint(endpoint_id))
    await bus.append(subjects.event("worker_ready", endpoint_id), b"ready", msg_id=f"i:{endpoint_id}")

    client, denied = await client_for(Role.INTEGRATOR, "acme")
    js = client.jetstream()
    pull = await js.pull_subscribe_bind("acme", subjects.STREAM_EVENTS)
    [message] = await pull.fetch(1, timeout=5)
    assert message.data == b"ready"
    await message.ack_sync()

    stranger, stranger_denied = await client_for(Role.INTEGRATOR, "other")
    may_not = {
        subjects.event("worker_ready", endpoint_id),
        js_names.next_message(subjects.STREAM_EVENTS, "acme").replace(js_names.EVENTS_API, js_names.API),
        f"{js_names.API}.CONSUMER.CREATE.{subjects.STREAM_EVENTS}.other",
        f"{js_names.API}.STREAM.MSG.GET.{subjects.STREAM_EVENTS}",
        f"{js_names.API}.DIRECT.GET.{subjects.STREAM_EVENTS}",
    }
    assert await refusals(stranger, stranger_denied, publish=may_not) == may_not
    assert not denied


async def test_an_integrator_does_not_see_the_control_plane(client_for, bus, endpoint_id):
    """Even what it may subscribe to is of its own account."""
    client, denied = await client_for(Role.INTEGRATOR, "nosy")
    may_not = {subjects.HEARTBEATS, subjects.COMMANDS, subjects.EVERYTHING, ">"}
    assert await refusals(client, denied, subscribe=may_not) == may_not


async def test_a_refusal_is_an_error_at_once_and_not_a_timeout(bus_for, endpoint_id):
    router = await bus_for("router")
    async with asyncio.timeout(1.0):
        with pytest.raises(BusRefused, match="not permitted"):
            await router.bucket(subjects.BUCKET_WORKERS).put("e1.w1", b"forged")
    with pytest.raises(BusRefused):
        await router.subscribe(subjects.COMMANDS, lambda _: None)
    with pytest.raises(BusRefused):
        await router.work(subjects.STREAM_COMMANDS, subjects.CONSUMER_PROVISIONER, _never)


async def test_strangers_do_not_get_in(nats_server, tmp_path):
    from runtime.keyring import Keyring
    from runtime.nats_bus import NatsSettings, connect

    forged = Keyring.create(tmp_path / "other").write_creds(Role.SCALER, "s1", tmp_path / "s1.creds")
    async with asyncio.timeout(5):
        with pytest.raises(BusRefused, match="refused us as s1"):
            async with connect(NatsSettings(urls=(nats_server.url,), creds=str(forged))):
                pass
        with pytest.raises(BusRefused, match="refused"):
            async with connect(NatsSettings(urls=(nats_server.url,), name="nobody")):
                pass


async def test_a_key_makes_users_of_its_own_role_only(nats_server, tmp_path):
    """A provisioner with the workers' signing key cannot make itself a scaler by asking for more in the JWT."""
    import time

    from runtime import jwt
    from runtime.nats_bus import NatsSettings, connect

    ring = nats_server.keyring
    user = jwt.Key.new("user")
    body = {"type": "user", "version": 2, "issuer_account": ring.accounts["cp"].public}
    body |= {"subs": 0, "data": 0, "payload": 0, "pub": {"allow": [">"]}, "sub": {"allow": [">"]}}
    token = jwt._sign(ring.roles[Role.WORKER], user.public, "w66", body, time.time())
    path = tmp_path / "w66.creds"
    path.write_text(jwt.creds_file(token, user.seed))
    with pytest.raises(BusRefused):
        async with connect(NatsSettings(urls=(nats_server.url,), creds=str(path))) as bus:
            await bus.subscribe(subjects.COMMANDS, lambda _: None)


async def test_nobody_answers_where_nobody_is(bus):
    with pytest.raises(BusUnavailable):
        await bus.request(subjects.ENROLL, b"", 1.0)


async def _never(_):
    raise AssertionError("nothing may arrive")
