"""Bring your own machine: enrolled, drained, forgotten."""

import base64
import time

import pytest

from provisioner.bundles import TOKEN_PREFIX, Bundles
from provisioner.plan import Patience
from provisioner.providers.external import ExternalProvider
from provisioner.reconcile import Rhythm
from runtime.jwt import claims
from runtime.nats_bus import NatsBus, NatsSettings
from schemas import codec, commands, events, subjects
from schemas.ids import EndpointId, GroupId
from schemas.reasons import Cause
from schemas.records import Template
from schemas.signals import ControlOrder, ControlReply, EnrollReply, EnrollRequest, WorkerBundle
from schemas.states import WorkerState
from tests.provisioner.desk import eventually


@pytest.fixture
async def bus(bus_for, own_nats_server):
    return await bus_for("provisioner", "provisioner", server=own_nats_server)


@pytest.fixture
def enroll(desk):
    async def ask(**more) -> EnrollReply:
        request = EnrollRequest(**({"endpoint_id": desk.endpoint_id, "group_id": GroupId(1)} | more))
        return codec.decode(await desk.answer(subjects.ENROLL, codec.encode(request)), EnrollReply)

    return ask


class Machine:
    """Somebody's machine: obeys its control orders, or says why not."""

    def __init__(self, bus, worker_id) -> None:
        self.orders: list[ControlOrder] = []
        self.ok = True
        self._bus, self._worker_id = bus, worker_id

    async def begin(self):
        async def answer(message):
            self.orders.append(codec.decode(message.data, ControlOrder))
            return codec.encode(ControlReply(ok=self.ok, state=WorkerState.DRAINING, message="busy"))

        return await self._bus.respond(subjects.control(self._worker_id), answer)


async def test_an_enrolled_worker_gets_a_name_and_its_own_credentials(desk, serving, bus, enroll, own_nats_server, tmp_path):
    await desk.want()
    now = time.time()
    await serving(
        ExternalProvider(bus),
        bus=bus,
        bundles=Bundles(
            minter=own_nats_server.keyring.worker_minter(),
            nats_urls=(own_nats_server.url,),
            control_url="http://router",
            ttl_s=3600,
            now=lambda: now,
        ),
    )
    reply = await enroll(url="https://mine.example:8443/", ttl_s=7200)
    assert reply.ok
    text = reply.token.removeprefix(TOKEN_PREFIX)
    bundle = codec.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), WorkerBundle)
    assert (bundle.worker_id, bundle.endpoint_id, bundle.group_id) == (reply.worker_id, desk.endpoint_id, 1)
    assert bundle.endpoint_name == "tiny" and bundle.control_url == "http://router"
    assert claims(bundle.nats_jwt).exp == int(now + 7200) == int(bundle.expires_at)

    record = await desk.record(reply.worker_id, "running")
    assert record.provider == "external" and record.url == "https://mine.example:8443"
    await desk.event(events.WorkerCreated, worker_id=reply.worker_id)

    # With it the worker enters the bus, as itself and nobody else.
    creds = tmp_path / "mine.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{bundle.nats_jwt}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{bundle.nats_seed}\n------END USER NKEY SEED------\n"
    )
    mine = NatsBus(NatsSettings(urls=bundle.nats_urls, creds=str(creds)))
    await mine.open()
    try:
        heard = []
        await desk.bus.subscribe(subjects.HEARTBEATS, heard.append)
        await mine.publish(subjects.heartbeat(desk.endpoint_id, reply.worker_id), b"{}")
        await eventually(lambda: heard)
    finally:
        await mine.close()


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"endpoint_id": EndpointId(1)}, "no endpoint 1"),
        ({"group_id": GroupId(99)}, "no group 99"),
        ({"ttl_s": 1.0}, "ttl_s"),
        ({"ttl_s": 1e12}, "ttl_s"),
    ],
)
async def test_a_wrong_enrollment_is_refused_in_words(wrong, words, desk, serving, bus, enroll):
    await desk.want()
    await serving(ExternalProvider(bus), bus=bus)
    reply = await enroll(**wrong)
    assert not reply.ok and words in reply.message and not reply.token
    assert not await desk.bus.bucket(subjects.BUCKET_INSTANCES).all()


async def test_nonsense_is_answered_too(desk, serving, bus):
    await serving(ExternalProvider(bus), bus=bus)
    for body in (b"", b"[]", b'{"endpoint_id":"x"}'):
        assert not codec.decode(await desk.answer(subjects.ENROLL, body), EnrollReply).ok


async def test_stop_drains_start_undrains_destroy_forgets(desk, serving, bus, enroll):
    await desk.want()
    await serving(ExternalProvider(bus), bus=bus)
    worker_id = (await enroll()).worker_id
    machine = Machine(desk.bus, worker_id)
    await machine.begin()
    for kind, order, state in (
        (commands.StopWorker, "drain", "stopped"),
        (commands.StartWorker, "undrain", "running"),
        (commands.DestroyWorker, "drain", "gone"),
    ):
        await desk.do(desk.command(kind, worker_id=worker_id))
        assert machine.orders[-1].op == order
        assert (await desk.record(worker_id)).state == state
    assert not [e for e in desk.events if isinstance(e, events.WorkerFailed | events.OrphanRemoved | events.WorkerAdopted)]


async def test_a_machine_that_does_not_answer_is_asked_again_and_then_given_up(desk, serving, bus, enroll):
    await desk.want()
    await serving(ExternalProvider(bus, timeout_s=0.2), bus=bus, patience=Patience(max_deliveries=3, first_delay_s=0.02))
    worker_id = (await enroll()).worker_id
    stop = desk.command(commands.StopWorker, worker_id=worker_id)
    await desk.send(stop)
    dead = await desk.event(events.CommandDead, command_id=stop.command_id)
    assert dead.failure.cause is Cause.HEARTBEAT_LOST
    await desk.do(desk.command(commands.DestroyWorker, worker_id=worker_id))  # forgetting needs no answer


async def test_a_machine_that_refuses_is_asked_again(desk, serving, bus, enroll):
    await desk.want()
    await serving(ExternalProvider(bus), bus=bus)
    worker_id = (await enroll()).worker_id
    machine = Machine(desk.bus, worker_id)
    machine.ok = False
    await machine.begin()
    await desk.send(stop := desk.command(commands.StopWorker, worker_id=worker_id))
    await eventually(lambda: len(machine.orders) >= 2)
    machine.ok = True
    await desk.event(events.WorkerStopped, command_id=stop.command_id)


async def test_external_machines_are_not_created(desk, serving, bus):
    await serving(ExternalProvider(bus), bus=bus)
    create = desk.create(Template(name="tiny"), provider="external")
    await desk.send(create)
    dead = await desk.event(events.CommandDead, command_id=create.command_id)
    assert dead.failure.cause is Cause.NO_OFFER


async def test_reconciliation_leaves_enrolled_machines_alone(desk, serving, bus, enroll):
    await desk.want()
    external = ExternalProvider(bus)
    await serving(external, bus=bus, rhythm=Rhythm(every_s=0.05, orphan_grace_s=0))
    reply = await enroll()
    before = await desk.record(reply.worker_id)
    listed, inventory = [], external.inventory

    async def counted():
        listed.append(1)
        return await inventory()

    external.inventory = counted
    await eventually(lambda: len(listed) >= 3)
    assert await desk.record(reply.worker_id) == before
