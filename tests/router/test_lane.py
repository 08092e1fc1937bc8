"""The fast lane takes the usual form and nothing that could be read in two ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import lane

HEAD = b"POST /route/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer key\r\nContent-Length: 5\r\n\r\n"


def test_the_usual_form():
    head = lane.parse_head(HEAD)
    assert (head.key, head.length, head.request_id) == ("key", 5, "")
    assert lane.parse_head(HEAD.replace(b"Host", b"X-Request-Id: abc\r\nHost")).request_id == "abc"
    assert lane.parse_head(HEAD.replace(b"Authorization: Bearer key\r\n", b"")).key is None
    assert lane.parse_head(HEAD.replace(b"/route/ ", b"/route ")).key == "key"
    assert lane.parse_head(HEAD.replace(b"/route/ ", b"/route/?api_key=other ")).key == "key"
    assert lane.parse_head(HEAD.replace(b"Host", b"Connection: keep-alive\r\nHost")).length == 5


@pytest.mark.parametrize(
    "old, new",
    [
        (b"POST", b"GET"),
        (b"POST", b"post"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"/route/ ", b"/route/x "),
        (b"/route/ ", b"/route/?a b "),
        (b"/route/ ", b"/route/?a\tb "),
        (b"/route/ ", b"//route/ "),
        (b"Host: h\r\n", b""),
        (b"Host: h\r\n", b"Host: h\r\nHost: i\r\n"),
        (b"Host: h\r\n", b"Host : h\r\n"),
        (b"Host: h\r\n", b" Host: h\r\n"),
        (b"Host: h\r\n", b"Host: h\r\n folded\r\n"),
        (b"Host: h\r\n", b"Host: h\nX: y\r\n"),
        (b"Host: h\r\n", b"Host: h\rX: y\r\n"),
        (b"Host: h\r\n", b"Host: h\0\r\n"),
        (b"Host: h\r\n", b"Host\r\n"),
        (b"Host: h\r\n", b"Host: h\r\n: y\r\n"),
        (b"Host: h\r\n", b"Host: h\r\nX\xe9: y\r\n"),
        (b"Content-Length: 5\r\n", b""),
        (b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 5"),
        (b"Content-Length: 5", b"Content-Length: 5, 5"),
        (b"Content-Length: 5", b"Content-Length: +5"),
        (b"Content-Length: 5", b"Content-Length: -5"),
        (b"Content-Length: 5", b"Content-Length: 0x5"),
        (b"Content-Length: 5", b"Content-Length: 5 5"),
        (b"Content-Length: 5", b"Content-Length: 99999"),
        (b"Content-Length: 5", b"Content-Length: 9999999999999999999999"),
        (b"Content-Length: 5", b"Content-Length: \xb2"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nTRANSFER-ENCODING: chunked"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nExpect: 100-continue"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nUpgrade: h2c"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nConnection: close"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nContent-Encoding: gzip"),
        (b"Bearer key", b"Basic key"),
        (b"Authorization: Bearer key", b"Authorization: Bearer key\r\nAuthorization: Bearer two"),
        (b"Bearer key", b"Bearer k\xc3\xa9y"),
    ],
)
def test_anything_odd_is_left_to_aiohttp(old, new):
    assert HEAD.count(old) == 1
    assert lane.parse_head(HEAD.replace(old, new)) is None


def test_a_key_in_the_query_alone_is_left_to_aiohttp():
    head = HEAD.replace(b"Authorization: Bearer key\r\n", b"").replace(b"/route/ ", b"/route/?api_key=k ")
    assert lane.parse_head(head) is None


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail(data):
    lane.parse_head(data + b"\r\n\r\n")
    lane.may_become_usual(data)


@given(st.integers(0, len(HEAD)), st.binary(min_size=1, max_size=4))
def test_no_insertion_makes_it_take_another_length_or_key(at, noise):
    head = lane.parse_head((HEAD[:at] + noise + HEAD[at:]).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    if head is not None and at < HEAD.index(b"Authorization"):
        assert head.length == 5


def test_it_waits_only_for_what_may_become_usual():
    assert all(lane.may_become_usual(HEAD[:n]) for n in range(1, len(HEAD)))
    assert not lane.may_become_usual(b"GET / HTTP/1.1\r\n")
    assert not lane.may_become_usual(HEAD[:40] + b"x" * 10_000)
