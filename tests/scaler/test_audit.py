"""Recorded decisions, held against their inputs: what is found, and what is no fault."""

from __future__ import annotations

import io
import json
import re

import msgspec
import pytest

from scaler import audit, observations, replay, replay_tool
from scaler import state as fold
from scaler.audit import Auditor, Outcome
from scaler.types import Decision, Policy
from schemas import codec, events
from schemas.events import Decided
from schemas.ids import EndpointId
from schemas.reasons import Why
from tests.scaler.recorded import Recorded, recorded

_replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def told() -> tuple[Decided, ...]:
    """Eight decisions; some buy."""
    found = recorded(8)
    assert any(event.actions for event in found)
    return found


def outcomes(*decisions: Decided) -> list[str]:
    auditor = Auditor()
    return [str(auditor.take(event).outcome) for event in decisions]


def of_wire(event: Decided) -> Decided:
    read = codec.event(codec.encode(event))
    assert isinstance(read, Decided)
    return read


def test_what_was_told_is_equal_also_after_a_journey(told):
    assert outcomes(*told) == ["equal"] * 8
    assert outcomes(*map(of_wire, told)) == ["equal"] * 8
    assert audit.first_wrong(told) is None


@pytest.mark.parametrize(
    "field, value",
    [
        ("hot_wanted", 99),
        ("cold_before", 7),
        ("why", Why.IDLE),
        ("reason", "because"),
        ("actions", ()),
        ("inputs", ()),
        ("candidates", ("nothing",)),
        ("policy", "other/1"),
        ("policy_hash", "00"),
        ("at", 1.0),
        ("look_again_s", 99.0),
        ("id", "evt:of-another"),
    ],
)
def test_what_was_changed_is_named_with_both_values(told, field, value):
    index = next(n for n, event in enumerate(told) if event.actions)
    forged = _replace(told[index], **{field: value})
    finding = audit.first_wrong([*told[:index], forged, *told[index + 1 :]])
    assert finding is not None
    assert (finding.outcome, finding.decision_id, finding.field) == (Outcome.DIFFERENT, forged.decision_id, field)
    assert json.loads(finding.told) == json.loads(msgspec.json.encode(value))
    assert finding.derived != finding.told


def test_a_changed_input_is_found_by_its_hash_even_when_it_gives_the_same(told):
    recorded = replay.unpack(told[2].record)
    other = _replace(recorded.state, hosts={"elsewhere": fold_host()})
    forged = _replace(told[2], record=replay.pack(other, recorded.policy, recorded.now))
    finding = audit.first_wrong([told[1], forged])
    assert finding is not None
    assert (finding.outcome, finding.field) == (Outcome.DIFFERENT, "state_hash")
    broken = _replace(told[2], record=msgspec.Raw(b'{"zlib_base64":"AAAA"}'))
    assert audit.first_wrong([broken]).field == "state_hash"


# --- events that somebody wrote anew ----------------------------------------------------------------------------------------


def plainly(event: Decided) -> Decided:
    """As it was told before every input was packed: its input as plain JSON."""
    record = msgspec.Raw(msgspec.json.encode(json.loads(bytes(replay._plain(event.record)))))
    assert bytes(record) == replay._plain(event.record)
    return _replace(event, record=record, state_hash=replay.told_hash(record))


def by_javascript(text: bytes) -> bytes:
    """JSON.stringify writes 2.0 as 2."""
    return re.sub(rb"(\d)\.0(?=[,\]}])", rb"\1", text)


WRITERS = {
    "spaces": lambda text: json.dumps(json.loads(text)).encode(),
    "sorted": lambda text: json.dumps(json.loads(text), sort_keys=True).encode(),
    "sorted and compact": lambda text: json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode(),
    "javascript": by_javascript,
}


def anew(event: Decided, writer: str) -> Decided:
    text = codec.encode(event)
    written = WRITERS[writer](text)
    assert written != text
    read = codec.event(written)
    assert isinstance(read, Decided)
    return read


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("engine", ["ensemble", "reactive"])
def test_who_writes_the_events_anew_changes_nothing(engine, writer):
    story = recorded(30, policy=Policy(name=engine), max_workers=40)
    assert outcomes(*(anew(event, writer) for event in story)) == ["equal"] * 30
    actions = [n for n, event in enumerate(story) if event.actions]
    forged = _replace(story[actions[-1]], hot_wanted=99)
    finding = audit.first_wrong(anew(event, writer) for event in (*story[: actions[-1]], forged))
    assert finding is not None
    assert (finding.outcome, finding.field, finding.decision_id) == (Outcome.DIFFERENT, "hot_wanted", forged.decision_id)


@pytest.mark.parametrize("writer", WRITERS)
def test_an_input_that_was_told_plainly_and_written_anew_is_equal_or_unchecked_never_wrong(told, writer):
    before = [plainly(event) for event in told]
    assert outcomes(*before) == ["equal"] * 8
    found = outcomes(*(anew(event, writer) for event in before))
    assert set(found) <= {"equal", "unchecked"}
    if writer == "spaces":
        assert set(found) == {"equal"}, "the bytes that were hashed can be made of it again"
    if "unchecked" in found:
        assert "written anew" in Auditor_of(anew(before[found.index("unchecked")], writer)).text
    assert outcomes(anew(_replace(before[0], hot_wanted=99), "spaces")) == ["different"]


def test_an_input_that_was_told_plainly_and_changed_is_named(told):
    before = plainly(told[2])
    changed = bytes(before.record).replace(b'"now":17', b'"now":16')
    assert changed != bytes(before.record)
    assert outcomes(_replace(before, record=msgspec.Raw(changed))) == ["different"]
    other = bytes(before.record).replace(b'"host":"host-', b'"host":"elsewhere-')
    assert other != bytes(before.record)
    finding = Auditor_of(_replace(before, record=msgspec.Raw(other)))
    assert (finding.outcome, finding.field) == (Outcome.DIFFERENT, "state_hash")


def test_a_packed_input_with_something_beside_it_is_not_the_one_that_was_told(told):
    packed = json.loads(bytes(told[2].record)) | {"beside": 1}
    finding = Auditor_of(_replace(told[2], record=msgspec.Raw(msgspec.json.encode(packed))))
    assert (finding.outcome, finding.field) == (Outcome.DIFFERENT, "state_hash")


def test_every_input_is_packed_and_stays_small():
    for event in recorded(40, max_workers=60):
        assert list(json.loads(bytes(event.record))) == ["zlib_base64"]
        assert len(codec.encode(event)) < 24 * 1024, "60 workers"


def fold_host():
    from scaler.types import HostMemory

    return HostMemory(failures=1)


def test_a_decision_that_was_rewritten_whole_breaks_the_chain_at_the_next(told):
    """Input, hash of the input and decision all fit together; only the one after it remembers."""
    others = recorded(4, max_workers=1)
    forged = _replace(others[3], previous_hash=told[3].previous_hash)
    assert outcomes(told[2], forged) == ["equal", "equal"]
    auditor = Auditor()
    findings = [auditor.take(event) for event in (told[2], forged, told[4])]
    assert (findings[2].outcome, findings[2].field) == (Outcome.BROKEN, "previous_hash")
    assert findings[2].told == json.dumps(told[4].previous_hash)


def test_what_is_missing_is_counted_and_what_the_stream_forgot_is_not(told):
    assert outcomes(*told[3:]) == ["equal"] * 5, "the beginning may be gone"
    finding = audit.first_wrong([told[0], *told[3:]])
    assert finding is not None
    assert (finding.outcome, finding.decision_id) == (Outcome.MISSING, told[3].decision_id)
    assert "generations 2 to 3" in finding.text
    later = _replace(told[3], epoch=2)
    assert "the leader of epoch 1 ended in between" in Auditor_of(told[0], later).text
    assert outcomes(told[0], *told[3:]) == ["equal", "missing", *["equal"] * 4]
    assert outcomes(told[2], told[1]) == ["equal", "broken"]


def Auditor_of(*decisions: Decided) -> audit.Finding:
    auditor = Auditor()
    return [auditor.take(event) for event in decisions][-1]


def test_told_again_by_a_new_leader_is_no_fault(told):
    null = msgspec.Raw(b"null")
    again = _replace(told[3], epoch=2, record=null, state_hash=replay.told_hash(null))
    assert outcomes(*told[:4], again, told[4]) == ["equal"] * 4 + ["unchecked", "equal"]
    # ... also when the first telling never reached the stream: the link to the next is then not known
    assert outcomes(*told[:3], again, told[4]) == ["equal"] * 3 + ["unchecked", "equal"]


def test_a_memory_that_was_lost_begins_the_chain_anew_and_is_no_fault(told):
    story = Recorded(create_s=15)
    story.state = _replace(story.state, generation=1_700_000_500)  # as Desk.restart_generation
    auditor = Auditor()
    findings = [auditor.take(event) for event in (*told, *recorded(2, story))]
    assert [f.outcome for f in findings] == [Outcome.EQUAL] * 10
    assert [f.anew for f in findings] == [False] * 8 + [True, False]
    assert "begins anew" in findings[8].text


def test_an_input_that_was_too_large_to_tell_is_unchecked(told, monkeypatch):
    monkeypatch.setattr(replay, "MAX_RECORD_BYTES", 100)
    recorded = replay.unpack(told[2].record)
    without = replay.pack(recorded.state, recorded.policy, recorded.now)
    event = _replace(told[2], record=without, state_hash=replay.told_hash(without))
    finding = Auditor_of(told[1], event)
    assert (finding.outcome, finding.text) == (Outcome.UNCHECKED, "it was told without its input")
    assert outcomes(told[1], event, told[3]) == ["equal", "unchecked", "equal"]


@pytest.mark.parametrize(
    "policy, words",
    [
        (Policy(name="crystal-ball"), "engine crystal-ball"),
        (Policy(version=99), f"ensemble/99, this version has ensemble/{Policy().version}"),
    ],
)
def test_another_policy_or_engine_cannot_be_checked_and_is_not_called_wrong(told, policy, words):
    recorded = replay.unpack(told[2].record)
    record = replay.pack(recorded.state, policy, recorded.now)
    event = _replace(
        told[2],
        record=record,
        state_hash=replay.told_hash(record),
        policy=f"{policy.name}/{policy.version}",
        policy_hash=replay.policy_hash(policy),
        hot_wanted=77,
    )
    finding = Auditor_of(told[1], event)
    assert finding.outcome is Outcome.UNCHECKED
    assert words in finding.text
    assert outcomes(told[1], event, told[3])[2] == "equal", "what follows it is not held against it"


def test_an_input_with_fields_of_another_version_is_equal_or_unchecked_never_wrong(told):
    record = json.loads(bytes(plainly(told[0]).record))
    record["state"]["a_field_of_the_future"] = 1
    record["policy"]["a_constant_of_the_future"] = 2.0
    raw = msgspec.Raw(msgspec.json.encode(record))
    policy_hash = replay.hash_of_bytes(msgspec.json.encode(record["policy"]))
    newer = _replace(told[0], record=raw, state_hash=replay.told_hash(raw), policy_hash=policy_hash)
    assert outcomes(newer) == ["equal"]
    assert outcomes(_replace(newer, hot_wanted=5)) == ["unchecked"]


def test_a_hash_of_another_format_is_not_held_against_ours(told):
    older = [_replace(event, format=0) for event in told[:3]]
    assert outcomes(*older, told[3], told[4]) == ["unchecked"] * 3 + ["equal"] * 2
    assert "format 0" in Auditor_of(older[0]).text
    assert outcomes(_replace(older[0], hot_wanted=99)) == ["different"]
    forged = _replace(told[4], previous_hash="00")
    assert outcomes(*older, told[3], forged)[-1] == "broken"


def test_a_small_record_that_unpacks_to_an_immense_one_is_refused():
    import base64
    import zlib

    bomb = base64.b64encode(zlib.compress(b"0" * (65 * 1024 * 1024), level=9)).decode()
    with pytest.raises(ValueError, match="more than"):
        replay.unpack(msgspec.Raw(msgspec.json.encode({"zlib_base64": bomb})))


def test_the_hash_of_a_decision_is_what_it_was():
    """Chains in streams were made with it. Whoever changes it raises replay.FORMAT."""
    decision = Decision(
        endpoint_id=EndpointId(1), at=1.5, generation=2, decision_id="e1.g2", why=Why.LOAD_UP, sentence="s", hot_before=1,
        hot_wanted=2, hot_asked=2, cold_before=0, cold_wanted=0, inputs=(events.InputRead(name="load", value=1.0),),
    )  # fmt: skip
    assert replay.FORMAT == 1
    assert replay.hash_of(decision, "before") == "f151296038fef29116b80bb02b3e6a234691ab49106a9d7b8d534c1fd1b02793"


def test_several_endpoints_have_a_chain_each(told):
    other = [_replace(event, endpoint_id=EndpointId(7)) for event in told]
    mixed = [event for pair in zip(told, other, strict=True) for event in pair]
    found = outcomes(*mixed)
    assert found[::2] == ["equal"] * 8
    assert set(found[1::2]) == {"different"}, "the input names its endpoint"


def test_the_tool_answers_line_by_line(told):
    lines = [codec.encode(told[0]), b"{", b'{"kind":"of_the_future"}', codec.encode(_replace(told[1], hot_wanted=9))]
    answers = io.BytesIO()
    replay_tool.main(io.BytesIO(b"\n".join(lines) + b"\n"), answers)
    found = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert [answer["outcome"] for answer in found] == ["equal", "unreadable", "unreadable", "different"]
    assert (found[3]["field"], found[3]["told"]) == ("hot_wanted", "9")


def test_a_reset_that_is_about_what_was_before_closes_nothing():
    from scaler.types import Breaker, GroupMemory
    from schemas.ids import GroupId
    from schemas.reasons import Cause

    here = _replace(
        fold.initial(EndpointId(1), 0.0),
        groups={
            GroupId(1): GroupMemory(
                breaker=Breaker(revision=1, opened_at=100.0, cause=Cause.MODEL_OOM, failures=3), failed_in_row=3
            )
        },
    )

    def after(said_at):
        said = observations.BreakerReset(at=200.0, group_id=GroupId(1), by="ada", said_at=said_at)
        return fold.apply(here, said).groups[GroupId(1)]

    assert after(99.0).breaker is not None
    assert after(101.0).breaker is None
    assert after(None).failed_in_row == 0
