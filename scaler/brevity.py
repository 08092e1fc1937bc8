"""The event of a decision made smaller, where the bus does not take it whole. What matters least goes first:

    whole --> without its input: it is told, and nobody can decide it again --> the words of its acts cut short
          --> as many of its acts as have room, and how many there were

What is done does not depend on it: commands carry their own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import msgspec

from schemas import codec
from schemas.events import Action, Decided

from . import replay, words

_replace = msgspec.structs.replace

#: The bus takes messages of 1 MiB, headers included.
MOST_BYTES = 960 * 1024
#: A stream of events that nobody has brought up to date takes 64 KiB.
_LEAST_BYTES = 60 * 1024
_SHORT_CHARS = 40
_SENTENCE_CHARS = 2000
_NO_INPUT = msgspec.Raw(b"null")


def versions(event: Decided) -> Iterator[Decided]:
    """The event as it is, if that may fit, and then ever smaller. At least one."""
    smallest, version = MOST_BYTES + 1, event
    for version in _ever_smaller(event):
        size = len(codec.encode(version))
        if size < smallest:
            smallest = size
            yield version
    if smallest > MOST_BYTES:
        yield version  # nothing is left that could be cut: let the bus say no


def _ever_smaller(event: Decided) -> Iterator[Decided]:
    yield event
    event = _replace(event, record=_NO_INPUT, state_hash=replay.told_hash(_NO_INPUT))
    yield event
    event = _replace(
        event, actions=tuple([_replace(action, reason=words.cut(action.reason, _SHORT_CHARS)) for action in event.actions])
    )
    yield event
    for most_bytes in (MOST_BYTES, _LEAST_BYTES):
        yield _with_room(event, most_bytes)


def _with_room(event: Decided, most_bytes: int) -> Decided:
    """As many of its acts as fit, from the first on."""
    acts = event.actions
    bare = _replace(event, actions=(), candidates=(), reason=_sentence(event, 0, len(acts)))
    room = most_bytes - len(codec.encode(bare)) - len(str(len(acts)))
    ends = accumulate(_size(action) for action in acts)
    fit = sum(1 for end in ends if end <= room)
    return event if fit == len(acts) else _replace(bare, actions=acts[:fit], reason=_sentence(event, fit, len(acts)))


def _sentence(event: Decided, listed: int, acts: int) -> str:
    return f"{words.cut(event.reason, _SENTENCE_CHARS)}; of its {acts} acts {listed} are listed"


def _size(action: Action) -> int:
    return len(msgspec.json.encode(action)) + 1
