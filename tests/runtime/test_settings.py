from enum import StrEnum
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingsError
from runtime.nats_bus import NatsSettings
from runtime.settings import Secret, load


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Room(msgspec.Struct, frozen=True, kw_only=True):
    api_key: Secret
    port: int = 8080
    ratio: float = 0.5
    fast: bool = False
    colour: Colour = Colour.RED
    limit: int | None = None
    keys_dir: Path = Path("keys")
    nats: NatsSettings = NatsSettings()


def test_reads_every_kind_of_field():
    room = load(
        Room,
        {
            "ROUTER_API_KEY": "k",
            "ROUTER_PORT": " 9000 ",
            "ROUTER_RATIO": "2",
            "ROUTER_FAST": "true",
            "ROUTER_COLOUR": "blue",
            "ROUTER_LIMIT": "7",
            "ROUTER_KEYS_DIR": "a/b",
            "ROUTER_NATS_URLS": "nats://a:1, nats://b:2",
            "HOME": "elsewhere",
        },
        "ROUTER",
    )
    assert room == Room(
        api_key=Secret("k"),
        port=9000,
        ratio=2.0,
        fast=True,
        colour=Colour.BLUE,
        limit=7,
        keys_dir=Path("a/b"),
        nats=NatsSettings(urls=("nats://a:1", "nats://b:2")),
    )
    assert isinstance(room.api_key, Secret)
    assert isinstance(room.keys_dir, Path)


def test_what_rooms_share_is_set_once_and_a_room_may_differ():
    shared = {"CORRAL_NATS_URLS": "nats://all:1", "CORRAL_API_KEY": "k"}
    assert load(Room, shared, "ROUTER_").nats.urls == ("nats://all:1",)
    assert load(Room, shared | {"ROUTER_NATS_URLS": "nats://mine:1"}, "ROUTER_").nats.urls == ("nats://mine:1",)


@pytest.mark.parametrize(
    "environ,named,said",
    [
        ({}, "ROUTER_API_KEY", "missing"),
        ({"ROUTER_API_KEY": "k", "ROUTER_PORT": "nine"}, "ROUTER_PORT", "nine"),
        ({"ROUTER_API_KEY": "k", "ROUTER_PORT": "1.5"}, "ROUTER_PORT", "whole number"),
        ({"ROUTER_API_KEY": "k", "ROUTER_COLOUR": "green"}, "ROUTER_COLOUR", "green"),
        ({"ROUTER_API_KEY": "k", "ROUTER_PROT": "1"}, "ROUTER_PROT", "did you mean ROUTER_PORT?"),
        ({"ROUTER_API_KEY": "k", "CORRAL_PORT": "x"}, "CORRAL_PORT", "x"),
        ({"ROUTER_API_KEY": "k", "ROUTER_NATS_REQUEST_TIMEOUT_S": "soon"}, "ROUTER_NATS_REQUEST_TIMEOUT_S", "number"),
    ],
)
def test_names_the_wrong_variable(environ, named, said):
    with pytest.raises(SettingsError) as error:
        load(Room, environ, "ROUTER")
    assert error.value.message.startswith(named)
    assert said in str(error.value)


def test_what_kubernetes_puts_into_a_pod_is_no_misspelling():
    injected = {"ROUTER_SERVICE_HOST": "10.0.0.1", "ROUTER_SERVICE_PORT": "80", "ROUTER_PORT_80_TCP_ADDR": "10.0.0.1"}
    assert load(Room, {"ROUTER_API_KEY": "k", **injected}, "ROUTER").port == 8080


def test_a_wrong_secret_is_not_shown():
    class Strict(msgspec.Struct, frozen=True, kw_only=True):
        pin: Secret
        pins: tuple[int, ...] = ()

    with pytest.raises(SettingsError) as error:
        load(Strict, {"ROUTER_PIN": "hunter2", "ROUTER_PINS": "1,x"}, "ROUTER")
    assert "hunter2" not in str(error.value)


@given(st.text(min_size=4))
def test_a_secret_masks_itself_wherever_it_is_shown(text):
    secret = Secret(text)
    shown = (repr(secret), str(secret), f"{secret}", f"{secret!r:>30}", f"{[secret]}", "%s" % secret, "{:>5}".format(secret))  # noqa: UP031, UP032
    assert all(text not in one or text in "Secret('***')" for one in shown)
    assert secret.reveal() == text
    assert type(secret.reveal()) is str
    assert secret == text
    assert secret.encode("utf-8", "surrogatepass") == text.encode("utf-8", "surrogatepass")
