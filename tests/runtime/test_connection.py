"""What happens to a participant when the server goes, hangs, comes back, or throws it out."""

import asyncio
import contextlib
import itertools
import signal
import time

import pytest

from runtime import connection
from runtime.errors import BusUnavailable, SettingsError
from runtime.keyring import write_secret
from runtime.nats_bus import NatsSettings, connect
from runtime.permissions import Role
from schemas import subjects
from schemas.ids import EndpointId, WorkerId

E1 = EndpointId(1)


async def restart(server) -> None:
    server.kill(signal.SIGKILL)
    await server.stop()
    await server.start()


async def beat_until(worker, heard) -> None:
    """Heartbeats as a worker sends them: some are lost while connections come back."""
    async with asyncio.timeout(10):
        while not heard():
            with contextlib.suppress(BusUnavailable):
                await worker.publish(subjects.heartbeat(E1, WorkerId("w1")), b"beat")
            await asyncio.sleep(0.05)


async def test_subscriptions_survive_a_killed_server(fresh_nats_server, bus_for):
    scaler = await bus_for("scaler", server=fresh_nats_server)
    worker = await bus_for("worker", "w1", endpoint=1, server=fresh_nats_server)
    heard: list[bytes] = []
    await scaler.subscribe(subjects.HEARTBEATS, lambda m: heard.append(m.data))
    await restart(fresh_nats_server)
    await beat_until(worker, lambda: heard)


async def test_while_disconnected_a_publish_fails_at_once_and_nothing_arrives_late(fresh_nats_server, bus_for, eventually):
    listener = await bus_for("scaler", server=fresh_nats_server)
    worker = await bus_for("worker", "w1", endpoint=1, server=fresh_nats_server)
    heard: list[bytes] = []
    await listener.subscribe(subjects.HEARTBEATS, lambda m: heard.append(m.data))
    fresh_nats_server.kill(signal.SIGKILL)
    await fresh_nats_server.stop()
    await eventually(lambda: not worker.connected)
    for _ in range(3):
        start = time.monotonic()
        with pytest.raises(BusUnavailable):
            await worker.publish(subjects.heartbeat(E1, WorkerId("w1")), b"late")
        assert time.monotonic() - start < 0.1
    await fresh_nats_server.start()
    await beat_until(worker, lambda: heard)
    assert set(heard) == {b"beat"}


async def test_what_was_not_yet_written_when_the_socket_broke_is_thrown_away(fresh_nats_server, bus_for, eventually):
    """A publish that was accepted in the very moment of the break must not come out minutes later."""
    listener = await bus_for("scaler", server=fresh_nats_server)
    sender = await bus_for("scaler", server=fresh_nats_server)
    heard: list[bytes] = []
    await listener.subscribe(subjects.LOADS, lambda m: heard.append(m.data))
    client = sender._core.client
    flusher = client._flusher_task
    flusher.cancel()  # nothing is written to the socket any more
    await asyncio.gather(flusher, return_exceptions=True)
    client._pending.append(b"PUB corral.v1.load.e1.r1 4\r\nlate\r\n")
    client._pending_data_size += 36
    await client.force_reconnect()
    await eventually(lambda: sender.connected)
    await sender.publish(subjects.load(E1, "r1"), b"in time")
    await eventually(lambda: heard)
    assert heard == [b"in time"]


async def test_requests_in_flight_fail_when_the_connection_breaks(fresh_nats_server, bus_for):
    scaler = await bus_for("scaler", server=fresh_nats_server)
    worker = await bus_for("worker", "w1", endpoint=1, server=fresh_nats_server)
    asked = asyncio.Event()

    async def never(_):
        asked.set()
        await asyncio.Event().wait()

    await worker.respond(subjects.control(WorkerId("w1")), never)
    asking = asyncio.create_task(scaler.request(subjects.control(WorkerId("w1")), b"", 60.0))
    await asked.wait()
    fresh_nats_server.kill(signal.SIGKILL)
    async with asyncio.timeout(5):
        with pytest.raises(BusUnavailable, match="connection broke"):
            await asking


async def test_append_is_tried_again_through_a_crash_and_stored_once(fresh_nats_server, bus_for):
    scaler = await bus_for("scaler", server=fresh_nats_server)
    sent = 0
    stop = asyncio.Event()

    async def append_all():
        nonlocal sent
        for n in itertools.count():
            await scaler.append(subjects.event("decision", E1), b"%d" % n, msg_id=f"n{n}")
            sent = n + 1
            if stop.is_set():
                return

    appending = asyncio.create_task(append_all())
    for _ in range(2):
        await asyncio.sleep(0.1)
        await restart(fresh_nats_server)
    stop.set()
    async with asyncio.timeout(10):
        await appending
    facts = await scaler._js.facts(subjects.STREAM_EVENTS)
    batch = await scaler._js.read(subjects.STREAM_EVENTS, limit=100_000)
    numbers = [int(m.data) for m in batch.messages]
    while batch.pending:
        batch = await scaler._js.read(subjects.STREAM_EVENTS, seq=batch.messages[-1].seq + 1)
        numbers += [int(m.data) for m in batch.messages]
    assert numbers == list(range(sent))
    assert facts.last_seq == sent


async def test_append_gives_up_after_its_time(fresh_nats_server):
    import msgspec

    settings = msgspec.structs.replace(fresh_nats_server.settings(Role.SCALER, "s1"), append_timeout_s=0.3)
    async with connect(settings) as scaler:
        await fresh_nats_server.stop()
        start = time.monotonic()
        with pytest.raises(BusUnavailable):
            await scaler.append(subjects.event("decision", E1), b"", msg_id="x")
        assert 0.1 < time.monotonic() - start < 2.0


async def test_a_dead_read_loop_is_noticed(fresh_nats_server, bus_for, eventually):
    """nats-py can lose its read loop and go on calling itself connected."""
    scaler = await bus_for("scaler", server=fresh_nats_server)
    worker = await bus_for("worker", "w1", endpoint=1, server=fresh_nats_server)
    heard: list[bytes] = []
    await scaler.subscribe(subjects.HEARTBEATS, lambda m: heard.append(m.data))
    client = scaler._core.client
    client._reading_task.cancel()
    await asyncio.gather(client._reading_task, return_exceptions=True)
    assert scaler.connected
    await beat_until(worker, lambda: heard)


async def test_a_late_pong_does_not_end_the_read_loop(fresh_nats_server, bus_for):
    """What nats-py's flush() does to itself when it times out; round_trip() must not."""
    scaler = await bus_for("scaler", server=fresh_nats_server)
    fresh_nats_server.kill(signal.SIGSTOP)
    assert not await scaler._core.round_trip(0.05)
    fresh_nats_server.kill(signal.SIGCONT)
    assert await scaler._core.round_trip(5.0)
    assert not scaler._core.client._reading_task.done()


async def test_a_client_that_closed_for_good_is_replaced(fresh_nats_server, bus_for, eventually):
    scaler = await bus_for("scaler", server=fresh_nats_server)
    worker = await bus_for("worker", "w1", endpoint=1, server=fresh_nats_server)
    heard: list[bytes] = []
    await scaler.subscribe(subjects.HEARTBEATS, lambda m: heard.append(m.data))
    before = scaler._core.client
    await before._process_err("'maximum connections exceeded'")
    await eventually(lambda: scaler._core.client is not before and scaler.connected)
    await beat_until(worker, lambda: heard)


async def test_a_hung_server_is_left_and_the_reconnect_is_not_held_up(fresh_nats_server, bus_for, eventually, monkeypatch):
    """Its socket is full and never drains, so closing it politely would wait for ever."""
    monkeypatch.setattr(connection, "_PING_INTERVAL_S", 0.1)
    scaler = await bus_for("scaler", server=fresh_nats_server)
    downs: list[None] = []
    scaler._core.on_down.append(lambda: downs.append(None))
    fresh_nats_server.kill(signal.SIGSTOP)
    try:
        with pytest.raises(BusUnavailable):
            async with asyncio.timeout(10):
                while True:
                    await scaler.publish(subjects.load(E1, "r1"), b"x" * 100_000)
                    await asyncio.sleep(0)
        assert not scaler.connected
        await eventually(lambda: downs, 3.0)
    finally:
        fresh_nats_server.kill(signal.SIGCONT)
    await eventually(lambda: scaler.connected)
    await scaler.publish(subjects.load(E1, "r1"), b"x")


async def test_a_jwt_is_renewed_before_it_ends(nats_server, monkeypatch, eventually):
    settings = nats_server.settings(Role.ROUTER, "r9", expires_at=time.time() + 4.0)
    from pathlib import Path

    path = Path(settings.creds)
    async with connect(settings) as router:
        write_secret(path, nats_server.keyring.mint_creds(Role.ROUTER, "r9", expires_at=time.time() + 3600))
        reconnects = lambda: router._core.client.stats["reconnects"]  # noqa: E731
        await eventually(lambda: reconnects() == 1 and router.connected)
        await asyncio.sleep(max(0.0, router._core._credentials.claims.iat + 4.6 - time.time()))
        assert router.connected
        await router.publish(subjects.load(E1, "r9"), b"")


async def test_after_its_jwt_expired_it_comes_back_with_a_new_one(nats_server, eventually):
    from pathlib import Path

    settings = nats_server.settings(Role.ROUTER, "r10", expires_at=time.time() + 1.0)
    async with connect(settings) as router:
        await eventually(lambda: not router.connected)
        write_secret(Path(settings.creds), nats_server.keyring.mint_creds(Role.ROUTER, "r10"))
        await eventually(lambda: router.connected)
        await router.publish(subjects.load(E1, "r10"), b"")


async def test_no_server_is_an_error_that_says_where(tmp_path):
    async with asyncio.timeout(5):
        with pytest.raises(BusUnavailable, match="127.0.0.1:1 "):
            async with connect(NatsSettings(urls=("nats://127.0.0.1:1",), name="r1", connect_timeout_s=0.3)):
                pass


async def test_credentials_of_another_name_are_refused_before_they_fail_silently(nats_server):
    import msgspec

    settings = msgspec.structs.replace(nats_server.settings(Role.ROUTER, "r1"), name="r2")
    with pytest.raises(SettingsError, match="'r1', not for 'r2'"):
        async with connect(settings):
            pass
    with pytest.raises(SettingsError, match="not a name"):
        async with connect(NatsSettings(name="r.>")):
            pass


async def test_a_handler_that_fails_does_not_stop_the_others(bus_for, endpoint_id, eventually):
    scaler = await bus_for("scaler")
    heard: list[bytes] = []

    def fails(message):
        heard.append(message.data)
        raise RuntimeError("mine")

    await scaler.subscribe(subjects.load(endpoint_id, "*"), fails)
    for n in range(3):
        await scaler.publish(subjects.load(endpoint_id, "r1"), b"%d" % n)
    await eventually(lambda: heard == [b"0", b"1", b"2"])


async def test_a_stopped_subscription_hears_no_more(bus_for, endpoint_id, eventually):
    scaler = await bus_for("scaler")
    one: list[bytes] = []
    two: list[bytes] = []
    subscription = await scaler.subscribe(subjects.load(endpoint_id, "*"), lambda m: one.append(m.data))
    await scaler.subscribe(subjects.load(endpoint_id, "*"), lambda m: two.append(m.data))
    await subscription.stop()
    await scaler.publish(subjects.load(endpoint_id, "r1"), b"x")
    await eventually(lambda: two)
    assert one == []


async def test_one_of_several_answers(bus_for, eventually):
    scaler = await bus_for("scaler")
    answered: list[int] = []
    for number in range(3):
        provisioner = await bus_for("provisioner")

        async def answer(_, number=number):
            answered.append(number)
            return b"%d" % number

        await provisioner.respond(subjects.ENROLL, answer)
    for _ in range(5):
        await scaler.request(subjects.ENROLL, b"", 2.0)
    assert len(answered) == 5
