import asyncio
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js import api

from runtime import tail
from runtime.cursor import matches
from runtime.errors import BusRefused
from runtime.jetstream import JetStream
from schemas import subjects
from schemas.ids import EndpointId

E1 = EndpointId(1)


class Listener:
    """Tails a stream and keeps what it is told."""

    def __init__(self, bus, stream: str, patterns=None, *, since_at=None) -> None:
        self.told: list[tuple[str, bytes]] = []
        self.seqs: list[int] = []
        self.task = asyncio.create_task(bus.tail(stream, patterns or [f"{stream}.>"], self._tell, since_at=since_at))

    def _tell(self, subject, data, seq) -> None:
        self.told.append((subject, data))
        self.seqs.append(seq)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def stream(bus, endpoint_id) -> str:
    """Events on a stream of the test's own."""
    name = f"TAIL_{endpoint_id}"
    await bus._stored.client.jetstream().add_stream(stream_config(name))
    return name


def stream_config(name: str) -> api.StreamConfig:
    return api.StreamConfig(name=name, subjects=[f"{name}.>"], allow_direct=True)


@pytest.fixture
async def reader(bus_for):
    return await bus_for("scaler")


async def tell(bus, stream: str, kind: str, endpoint: int, data: bytes) -> None:
    await bus.append(f"{stream}.{kind}.e{endpoint}", data, msg_id=data.decode())


async def test_a_router_reads_events_from_the_other_account_from_a_time_on(bus, bus_for, endpoint_id, eventually):
    router = await bus_for("router")

    async def say(kind, data):
        await bus.append(subjects.event(kind, endpoint_id), data, msg_id=f"{endpoint_id}{kind}")

    await say("worker_created", b"before")
    await asyncio.sleep(0.02)
    since = time.time()
    await asyncio.sleep(0.02)
    await say("worker_ready", b"after")
    async with Listener(router, subjects.STREAM_EVENTS, [subjects.events_of_endpoint(endpoint_id)], since_at=since) as listener:
        await eventually(lambda: listener.told)
        await say("worker_lost", b"live")
        await eventually(lambda: len(listener.told) == 2)
    assert listener.told == [
        (subjects.event("worker_ready", endpoint_id), b"after"),
        (subjects.event("worker_lost", endpoint_id), b"live"),
    ]
    assert listener.seqs[0] < listener.seqs[1]


async def test_a_slow_reader_is_waited_for_and_told_when_it_has_everything(bus, reader, stream, eventually, monkeypatch):
    monkeypatch.setattr("runtime.jetstream._PAGE", 10)
    monkeypatch.setattr(JetStream.read, "__kwdefaults__", {**JetStream.read.__kwdefaults__, "limit": 10})
    for number in range(25):
        await tell(bus, stream, "worker_ready", 1, b"%d" % number)
    told, rooms, caught_up = [], [], []
    go_on = asyncio.Event()

    async def room():
        rooms.append(len(told))
        await go_on.wait()

    task = asyncio.create_task(
        reader.tail(
            stream,
            [f"{stream}.>"],
            lambda _s, data, _n: told.append(data),
            since_at=0.0,
            room=room,
            caught_up=lambda: caught_up.append(len(told)),
        )  # fmt: skip
    )
    await eventually(lambda: rooms == [10])
    await asyncio.sleep(0.05)  # it stays so
    assert (len(told), caught_up) == (10, [])
    go_on.set()
    await eventually(lambda: caught_up)
    assert (rooms, caught_up[0], len(told)) == ([10, 20], 25, 25)
    task.cancel()


async def test_only_new_ones_when_no_time_is_given(bus, reader, stream, eventually):
    await tell(bus, stream, "worker_ready", 1, b"old")
    async with Listener(reader, stream) as listener:
        await asyncio.sleep(0.1)  # it must have looked where the end is
        await tell(bus, stream, "worker_ready", 1, b"new")
        await eventually(lambda: listener.told)
    assert [data for _, data in listener.told] == [b"new"]


async def test_a_time_with_nothing_after_it(bus, reader, stream, eventually):
    await tell(bus, stream, "worker_ready", 1, b"old")
    async with Listener(reader, stream, since_at=time.time() + 3600) as listener:
        await asyncio.sleep(0.1)
        await tell(bus, stream, "worker_ready", 1, b"new")
        await eventually(lambda: listener.told)
    assert [data for _, data in listener.told] == [b"new"]


@pytest.mark.parametrize(
    "patterns,expected",
    [
        (["{}.*.e1"], [b"1", b"3"]),
        (["{}.worker_lost.*"], [b"2", b"3"]),
        (["{}.*.e2", "{}.decision.>"], [b"2", b"4"]),
    ],
)
async def test_only_what_was_asked_for(bus, reader, stream, eventually, patterns, expected):
    await tell(bus, stream, "worker_ready", 1, b"1")
    await tell(bus, stream, "worker_lost", 2, b"2")
    await tell(bus, stream, "worker_lost", 1, b"3")
    await tell(bus, stream, "decision", 3, b"4")
    async with Listener(reader, stream, [p.format(stream) for p in patterns], since_at=0.0) as listener:
        await eventually(lambda: len(listener.told) == len(expected))
        await asyncio.sleep(0.05)
    assert [data for _, data in listener.told] == expected


async def test_each_once_and_in_order_through_crashes(fresh_nats_server, bus_for, eventually):
    scaler = await bus_for("scaler", server=fresh_nats_server)
    router = await bus_for("router", server=fresh_nats_server)
    async with Listener(router, subjects.STREAM_EVENTS, [subjects.EVENTS], since_at=0.0) as listener:
        for n in range(90):
            await scaler.append(subjects.event("decision", E1), b"%d" % n, msg_id=f"{n}")
            if n in {30, 60}:
                fresh_nats_server.kill(signal.SIGKILL)
                await fresh_nats_server.stop()
                await fresh_nats_server.start()
        await eventually(lambda: len(listener.told) >= 90)
        await asyncio.sleep(0.1)
    assert [int(data) for _, data in listener.told] == list(range(90))


async def test_a_long_history_comes_in_pieces(bus, reader, stream, eventually):
    for start in range(0, 1100, 110):
        await asyncio.gather(*(tell(bus, stream, "decision", 1, b"%d" % n) for n in range(start, start + 110)))
    async with Listener(reader, stream, since_at=0.0) as listener:
        await eventually(lambda: len(listener.told) == 1100)
    assert sorted(int(data) for _, data in listener.told) == list(range(1100))
    assert listener.seqs == list(range(1, 1101))


async def test_a_stream_that_is_made_anew_is_told_from_its_start(bus, reader, stream, eventually, monkeypatch):
    monkeypatch.setattr(tail, "_POLL_S", 0.1)
    await tell(bus, stream, "decision", 1, b"old")
    async with Listener(reader, stream, since_at=0.0) as listener:
        await eventually(lambda: listener.told)
        await bus._stored.client.jetstream().delete_stream(stream)
        await bus._stored.client.jetstream().add_stream(stream_config(stream))
        await tell(bus, stream, "decision", 1, b"new")
        await eventually(lambda: len(listener.told) == 2)
    assert [data for _, data in listener.told] == [b"old", b"new"]


async def test_who_may_not_read_is_told_so(bus_for):
    worker = await bus_for("worker", "w1", endpoint=1)
    with pytest.raises(BusRefused):
        await worker.tail(subjects.STREAM_EVENTS, [subjects.EVENTS], lambda *_: None)


TOKENS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5)


@given(TOKENS, st.data())
def test_wildcards_match_what_they_stand_for(tokens, data):
    subject = ".".join(tokens)
    assert matches(subject, subject)
    place = data.draw(st.integers(0, len(tokens) - 1))
    assert matches(".".join([*tokens[:place], "*", *tokens[place + 1 :]]), subject)
    assert matches(".".join([*tokens[:place], ">"]), subject)
    assert not matches(subject + ".*", subject)
    assert not matches(subject + ".>", subject)
    assert not matches("d." + subject, subject)
