"""Ids, subjects, codec, settings and tickets: the pure words."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, ids, subjects, ticket
from schemas.commands import OPS, AnyCommand
from schemas.events import AnyEvent
from schemas.ids import EndpointId, WorkerId
from schemas.records import ScalingSettings
from schemas.states import COMING, HOT, WorkerState, vast_status


@given(st.integers(0, 10**12), st.integers(0, 10**6), st.integers(0, 10**4))
def test_a_command_id_is_deterministic_and_names_one_worker_by_an_integer(endpoint, generation, slot):
    command = ids.command_id(EndpointId(endpoint), generation, slot)
    wid = ids.worker_id_for(command, "here")
    assert ids.worker_id_for(command, "here") == wid
    assert ids.worker_id(wid) == wid
    assert f"w{ids.worker_number(wid)}" == wid
    assert ids.worker_number(wid) < 2**53, "JavaScript and JSON readers must hold it exactly"
    assert ids.worker_id_for(command, "elsewhere") != wid


@pytest.mark.parametrize("text", ["", "w", "e1", "w1.2", "w1 ", "W1", "w1\n", "w*", "w12345678901234567"])
def test_what_is_not_a_worker_id_is_refused(text):
    with pytest.raises(ValueError, match="not a worker id"):
        ids.worker_id(text)


@given(st.integers(0, 10**15))
def test_endpoint_tokens_read_back(number):
    endpoint = EndpointId(number)
    assert ids.endpoint_from_token(ids.endpoint_token(endpoint)) == endpoint


def test_subjects_say_their_endpoint():
    ep, wid = EndpointId(42), WorkerId("w1")
    for subject in (
        subjects.heartbeat(ep, wid),
        subjects.load(ep, "r"),
        subjects.reservation(ep, "r"),
        subjects.worker_event(ep, wid, "bench"),
        subjects.command("create", ep),
        subjects.event("decision", ep),
        subjects.dead_letter("stop", ep),
    ):
        assert subjects.endpoint_token_of(subject) == "e42"


def test_keys_hold_only_characters_that_nats_allows():
    keys = [
        subjects.worker_key(EndpointId(1), WorkerId("w2")),
        subjects.intent_key(ids.command_id(EndpointId(1), 2, 3)),
        subjects.lease_key(0),
        subjects.epoch_key(15),
        subjects.demand_key(EndpointId(1), "router-1"),
    ]
    assert all(ids.is_token(part) for key in keys for part in key.split("."))


def test_unknown_kinds_survive_and_broken_known_ones_do_not():
    assert codec.event(b'{"kind":"of_the_future","x":1}') == codec.Unknown("of_the_future", b'{"kind":"of_the_future","x":1}')
    assert codec.command(b'{"op":"levitate"}') == codec.Unknown("levitate", b'{"op":"levitate"}')
    with pytest.raises(codec.DecodeError):
        codec.event(b'{"kind":"worker_ready"}')
    with pytest.raises(codec.DecodeError):
        codec.command(b"not json")
    with pytest.raises(codec.DecodeError):
        codec.event(b'{"no":"kind"}')


def test_tags_are_written_by_hand_and_unique():
    for union in (AnyEvent, AnyCommand):
        tags = [member.__struct_config__.tag for member in union.__args__]
        assert len(set(tags)) == len(tags)
        assert all(ids.is_token(tag) for tag in tags)
    assert set(OPS) == {member.__struct_config__.tag for member in AnyCommand.__args__}


@given(st.text())
def test_vasts_url_message_is_pythons_own_json(url):
    if url.isascii():
        expected = json.dumps({"url": url}, indent=4, sort_keys=True).encode()
        assert json.loads(ticket.vast_message(url)) == json.loads(expected)


def test_vasts_url_message_byte_for_byte():
    url = "https://1.2.3.4:41000"
    assert ticket.vast_message(url) == json.dumps({"url": url}, indent=4, sort_keys=True).encode()


CLAIMS = ticket.TicketClaims(iss="corral", aud="w1", ep="x", rid="1", jti="j", reqnum=1, cost=1.0, iat=1, nbf=1, exp=2)


def test_a_ticket_comes_apart_as_it_was_put_together():
    signed = ticket.signing_input(ticket.header_segment("k1"), CLAIMS)
    parsed = ticket.parse(ticket.assemble(signed, b"s" * 64))
    assert (parsed.kid, parsed.claims, parsed.signed, parsed.signature) == ("k1", CLAIMS, signed, b"s" * 64)


@given(st.one_of(st.text(), st.binary().map(lambda b: b.decode("latin-1"))))
def test_any_text_is_a_ticket_or_malformed_and_never_another_error(text):
    try:
        ticket.parse(text)
    except ticket.TicketMalformed:
        pass


@pytest.mark.parametrize("header", [{"alg": "none", "kid": "k"}, {"alg": "HS256", "kid": "k"}, {"alg": "EdDSA"}, []])
def test_other_algorithms_are_malformed(header):
    head = ticket.b64u(json.dumps(header).encode()).decode()
    body = ticket.b64u(msgspec.json.encode(CLAIMS)).decode()
    with pytest.raises(ticket.TicketMalformed):
        ticket.parse(f"{head}.{body}.AAAA")


def test_a_ticket_of_absurd_length_is_refused_before_any_work():
    with pytest.raises(ticket.TicketMalformed, match="too long"):
        ticket.parse("a" * 5000)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"min_load": -1.0}, "min_load"),
        ({"min_load": float("nan")}, "min_load"),
        ({"min_load": float("inf")}, "min_load"),
        ({"target_util": 0.0}, "target_util"),
        ({"target_util": 1.1}, "target_util"),
        ({"cold_mult": float("nan")}, "cold_mult"),
        ({"max_workers": -1}, "max_workers"),
        ({"max_workers": 2, "cold_workers": 3}, "cold_workers"),
        ({"inactivity_timeout": float("inf")}, "inactivity_timeout"),
        ({"inactivity_timeout": float("-inf")}, "inactivity_timeout"),
        ({"target_queue_time": float("inf")}, "target_queue_time"),
        ({"max_workers": 0, "min_load": 10.0}, "max_workers (0) allows no worker, and min_load (10) keeps some hot"),
        ({"max_workers": 0, "min_cold_load": 10.0}, "max_workers (0) allows no worker, and min_cold_load (10) keeps some"),
        (
            {"max_workers": 0, "inactivity_timeout": -1.0},
            "max_workers (0) allows no worker, and inactivity_timeout (-1) says never",
        ),
        ({"target_queue_time": 40.0}, "target_queue_time (40) is more than max_queue_time (30)"),
        ({"target_queue_time": 3.0, "max_queue_time": 2.0}, "lower the first or raise the second"),
    ],
)
def test_contradictions_are_named(settings, word):
    (sentence,) = ScalingSettings(**settings).problems()
    assert word in sentence


@pytest.mark.parametrize(
    "settings",
    [
        {"max_workers": 0},
        {"max_workers": 0, "inactivity_timeout": 0.0, "min_load": 0.0},
        {"max_workers": 0, "min_cold_load": 0.0, "cold_mult": 2.5},
        {"cold_mult": 0.0},
        {"cold_mult": 0.5},
        {"cold_mult": 1.0},
        {"target_queue_time": 30.0},
        {"max_queue_time": 3.0},  # with the target that nobody has set
        {"max_queue_time": 0.0},
    ],
)
def test_what_is_at_the_edge_makes_sense(settings):
    assert ScalingSettings(**settings).problems() == ()


@pytest.mark.parametrize(
    "settings",
    [
        # its command line and its VastAI class
        {"min_load": 0.0, "min_cold_load": 0.0, "target_util": 0.9, "cold_mult": 2.5, "cold_workers": 5, "max_workers": 20},
        # its OpenAPI files: create_endpoint, create_autogroup
        {"min_load": 10.0, "target_util": 0.9, "cold_mult": 2.5, "cold_workers": 5, "max_workers": 20},
        {"min_load": 1.0, "target_util": 0.9, "cold_mult": 3.0, "cold_workers": 3, "max_workers": 20},
        # its web page, with the waits that its help names as the system's
        {"min_load": 1.0, "min_cold_load": 0.0, "target_util": 0.9, "cold_mult": 3.0, "cold_workers": 5, "max_workers": 16,
         "max_queue_time": 30.0, "target_queue_time": 10.0},
        # `run benchmarks`, its example of a deployment, and what its guides advise
        {"min_load": 1.0, "cold_workers": 1, "max_workers": 1},
        {"max_queue_time": 30.0, "target_queue_time": 5.0},
        {"max_queue_time": 60.0},
    ],
)  # fmt: skip
def test_what_vasts_clients_send_by_default_makes_sense(settings):
    for timeout in ({}, {"inactivity_timeout": 0.0}, {"inactivity_timeout": -1.0}):
        assert ScalingSettings(**settings, **timeout).problems() == ()


def test_the_defaults_make_sense():
    assert ScalingSettings().problems() == ()
    assert ScalingSettings().inactivity_timeout_s() == 60.0
    assert ScalingSettings(inactivity_timeout=0).inactivity_timeout_s() == 0
    assert ScalingSettings(inactivity_timeout=-1).inactivity_timeout_s() is None


def test_states():
    assert WorkerState.READY in HOT
    assert WorkerState.READY not in COMING
    assert vast_status(WorkerState.READY) == "idle"
    assert vast_status(WorkerState.MODEL_LOADING) == "model_loading"
