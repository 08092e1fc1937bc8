"""Events as lines for people."""

import re
from pathlib import Path

import msgspec
import pytest

from corral.cli import told
from schemas import codec, events
from schemas.ids import EndpointId, GroupId

GOLDEN = Path(__file__).parent.parent / "schemas/golden"
KINDS = {kind.__struct_config__.tag: kind.__name__ for kind in events.AnyEvent.__args__}
ABOUT = {"id": "e", "at": 0.0, "endpoint_id": EndpointId(1)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_event_is_a_line_without_the_marks_of_a_programming_language(kind):
    event = codec.event((GOLDEN / f"{KINDS[kind]}.json").read_bytes())
    line = told.line(event).plain
    assert kind in line
    assert not re.search(r"""[(\[{]['"]|None|\(\)|<|, *$""", line), line


@pytest.mark.parametrize(
    "changed, by, words",
    [
        (("state",), "", "llm: changed state"),
        (("state", "max_workers"), "ada", "llm: changed state, max_workers, by ada"),
        ((), "ada", "llm: revision 2, by ada"),
    ],
)
def test_what_people_changed_is_named_in_words(changed, by, words):
    event = events.EndpointChanged(**ABOUT, name="llm", revision=2, changed=changed, by=by)
    assert told.what(event) == words
    group = events.GroupChanged(**ABOUT, group_id=GroupId(7), revision=2, changed=changed, by=by)
    assert told.what(group) == words.replace("llm", "group 7")
    assert told.what(msgspec.structs.replace(event, changed=("override",), by="ada", reason="2 workers for an hour")) == (
        "llm: changed override, by ada: 2 workers for an hour"
    )
