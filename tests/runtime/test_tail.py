import asyncio
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cursor import matches
from runtime.errors import BusRefused
from schemas import subjects
from schemas.ids import EndpointId

E1, E2 = EndpointId(1), EndpointId(2)


class Listener:
    """Tails a stream and keeps what it is told."""

    def __init__(self, bus, patterns=(subjects.EVENTS,), *, since_at=None, stream=subjects.STREAM_EVENTS) -> None:
        self.told: list[tuple[str, bytes]] = []
        self.seqs: list[int] = []
        self.task = asyncio.create_task(bus.tail(stream, patterns, self._tell, since_at=since_at))

    def _tell(self, subject, data, seq) -> None:
        self.told.append((subject, data))
        self.seqs.append(seq)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def scaler(fresh_nats_server, bus_for):
    return await bus_for("scaler", server=fresh_nats_server)


@pytest.fixture
async def router(fresh_nats_server, bus_for):
    return await bus_for("router", server=fresh_nats_server)


async def tell(bus, kind, endpoint, data: bytes) -> None:
    await bus.append(subjects.event(kind, endpoint), data, msg_id=data.decode())


async def test_a_router_reads_events_from_the_other_account_from_a_time_on(scaler, router, eventually):
    await tell(scaler, "worker_ready", E1, b"before")
    await asyncio.sleep(0.02)
    since = time.time()
    await asyncio.sleep(0.02)
    await tell(scaler, "worker_ready", E1, b"after")
    async with Listener(router, since_at=since) as listener:
        await eventually(lambda: listener.told)
        await tell(scaler, "worker_lost", E2, b"live")
        await eventually(lambda: len(listener.told) == 2)
    assert [data for _, data in listener.told] == [b"after", b"live"]
    assert listener.told[1][0] == subjects.event("worker_lost", E2)
    assert listener.seqs == [2, 3]


async def test_only_new_ones_when_no_time_is_given(scaler, router, eventually):
    await tell(scaler, "worker_ready", E1, b"old")
    async with Listener(router) as listener:
        await asyncio.sleep(0.1)  # it must have looked where the end is
        await tell(scaler, "worker_ready", E1, b"new")
        await eventually(lambda: listener.told)
    assert [data for _, data in listener.told] == [b"new"]


async def test_a_time_with_nothing_after_it(scaler, router, eventually):
    await tell(scaler, "worker_ready", E1, b"old")
    async with Listener(router, since_at=time.time() + 3600) as listener:
        await asyncio.sleep(0.1)
        await tell(scaler, "worker_ready", E1, b"new")
        await eventually(lambda: listener.told)
    assert [data for _, data in listener.told] == [b"new"]


@pytest.mark.parametrize(
    "patterns,expected",
    [
        ((subjects.events_of_endpoint(E1),), [b"1", b"3"]),
        ((subjects.events_of_kind("worker_lost"),), [b"2", b"3"]),
        ((subjects.events_of_endpoint(E2), subjects.events_of_kind("decision")), [b"2", b"4"]),
    ],
)
async def test_only_what_was_asked_for(scaler, router, eventually, patterns, expected):
    await tell(scaler, "worker_ready", E1, b"1")
    await tell(scaler, "worker_lost", E2, b"2")
    await tell(scaler, "worker_lost", E1, b"3")
    await tell(scaler, "decision", EndpointId(3), b"4")
    async with Listener(router, patterns, since_at=0.0) as listener:
        await eventually(lambda: len(listener.told) == len(expected))
        await asyncio.sleep(0.05)
    assert [data for _, data in listener.told] == expected


async def test_each_once_and_in_order_through_crashes(scaler, router, fresh_nats_server, eventually):
    async with Listener(router, since_at=0.0) as listener:
        for n in range(300):
            await tell(scaler, "decision", E1, b"%d" % n)
            if n in {100, 200}:
                fresh_nats_server.kill(signal.SIGKILL)
                await fresh_nats_server.stop()
                await fresh_nats_server.start()
        await eventually(lambda: len(listener.told) >= 300)
        await asyncio.sleep(0.1)
    assert [int(data) for _, data in listener.told] == list(range(300))


async def test_a_long_history_comes_in_pieces(scaler, router, eventually):
    for start in range(0, 1500, 100):
        await asyncio.gather(*(tell(scaler, "decision", E1, b"%d" % n) for n in range(start, start + 100)))
    async with Listener(router, since_at=0.0) as listener:
        await eventually(lambda: len(listener.told) == 1500)
    assert sorted(int(data) for _, data in listener.told) == list(range(1500))
    assert listener.seqs == list(range(1, 1501))


async def test_a_stream_that_is_made_anew_is_told_from_its_start(scaler, fresh_nats_server, eventually, monkeypatch):
    from runtime import tail

    monkeypatch.setattr(tail, "_POLL_S", 0.1)
    stream, subject = subjects.STREAM_WORKER_EVENTS, subjects.worker_event(E1, "w1", "bench")
    await scaler.append(subject, b"old", msg_id="1")
    async with Listener(scaler, [subjects.WORKER_EVENTS], stream=stream, since_at=0.0) as listener:
        await eventually(lambda: listener.told)
        await scaler._stored.client.jetstream().delete_stream(stream)
        await fresh_nats_server.make_topology()
        await scaler.append(subject, b"new", msg_id="2")
        await eventually(lambda: len(listener.told) == 2)
    assert [data for _, data in listener.told] == [b"old", b"new"]


async def test_who_may_not_read_is_told_so(fresh_nats_server, bus_for):
    worker = await bus_for("worker", "w1", endpoint=1, server=fresh_nats_server)
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
