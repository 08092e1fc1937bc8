"""Decisions in words, groups in columns, times on a command line, and decisions held against their inputs from a file."""

import contextlib
import json
import sys
import time

import msgspec
import pytest
from typer.testing import CliRunner

from corral import replaying
from corral.cli import compare, times
from corral.cli import explain as cli_explain
from corral.cli.app import app
from corral.cli.command import Session
from corral.cli.show import Show
from corral.errors import ConfigError, StartError
from corral.explain import explain, ids_of
from corral.wire import codec
from tests.scaler.recorded import recorded

_replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def told():
    return recorded(5)


def test_what_changed_since_the_decision_before(told):
    before, event = told[1], told[2]
    event = _replace(event, epoch=2, inputs=(*event.inputs[1:], _replace(event.inputs[0], name="schedule_floor", value=2.0)))
    found = explain(event, before, endpoint="llm")
    assert found.before_id == before.decision_id
    assert found.before_s == pytest.approx(event.at - before.at)
    assert "the leader's epoch: 1 -> 2" in found.changes
    assert f"no longer looked at: {before.inputs[0].name}" in found.changes
    by_name = {seen.name: seen for seen in found.seen}
    assert (by_name["schedule_floor"].is_new, by_name["schedule_floor"].changed) == (True, True)
    same = {
        read.name for read in before.inputs if read.value == next((i.value for i in event.inputs if i.name == read.name), "-")
    }
    assert {seen.name for seen in found.seen if not seen.changed} == same
    assert found.done == event.actions
    assert found.considered == event.candidates


def test_without_the_one_before_nothing_is_said_to_have_changed(told):
    found = explain(told[2], None, endpoint="llm")
    assert (found.before_id, found.changes, any(seen.changed for seen in found.seen)) == ("", (), False)


def test_a_decision_that_looked_at_nothing_says_so_on_stdout_alone(told, capsys):
    session = Session(Show(), contextlib.AsyncExitStack(), {})
    found = explain(_replace(told[2], inputs=()), None, endpoint="llm")
    cli_explain._print(session, found)
    out, err = capsys.readouterr()
    assert "seen\n  nothing\n" in out
    assert err == ""


@pytest.mark.parametrize(
    "text, ids", [("e42.g17", (42, 17)), (" e1.g1 ", (1, 1)), ("42.17", None), ("e42.g17.s0", None), ("", None)]
)
def test_ids_of_decisions(text, ids):
    assert ids_of(text) == ids


@pytest.mark.parametrize(
    "text, at",
    [
        ("2h", 1_800_000_000 - 7200),
        ("90", 1_800_000_000 - 90),
        ("1700000000.5", 1700000000.5),
        ("2026-11-25T10:00", 1795600800),
        ("2026-11-25 10:00+01:00", 1795597200),
        ("2026-11-25", 1795564800),
    ],
)
def test_moments(text, at):
    assert times.moment(text, 1_800_000_000) == at


@pytest.mark.parametrize("text", ["yesterday", "", "2h ago", "-5", "2026-13-01"])
def test_what_is_no_moment_says_what_one_looks_like(text):
    with pytest.raises(ConfigError, match="it looks like"):
        times.moment(text, 0.0)


def test_columns_are_the_groups_and_lines_that_say_nothing_are_left_out():
    empty = dict.fromkeys(
        "perf perf_min perf_max usd_per_hour usd_per_million_units usd_per_million_units_at_best error_ratio service_mean_s queue_mean_s "
        "traffic_share wait_mean_s wait_p50_s wait_p95_s boot_new_p50_s boot_cold_p50_s boot_max_s".split()
    ) | dict.fromkeys(
        "ready coming cold failed_workers requests served failed cancelled rejected served_units cost_usd storage_usd routed rerouted "
        "starts_ok starts_failed tier".split(),
        0,
    )  # fmt: skip
    one = {**empty, "id": 1, "name": "big", "template": "t", "revision": 2, "weight": 3.0, "weight_share": 0.75, "failures": {}}
    two = {**one, "id": 2, "name": "", "perf": 100.0, "perf_min": 90.0, "perf_max": 110.0, "error_ratio": 0.25, "starts_failed": 3,
           "failures": {"no_offer": 1, "model_oom": 2}, "halted": {"cause": "model_oom"}}  # fmt: skip
    assert compare.chosen([one, two], ["2", "big"]) == [two, one]
    with pytest.raises(ConfigError, match="big, #2"):
        compare.chosen([one, two], ["other"])
    lines = {row["what"]: row for row in compare.rows([one, two])}
    assert lines["perf, measured"] == {"what": "perf, measured", "1": "-", "2": "100/s (90 to 110)"}
    assert lines["errors"]["2"] == "25.0%"
    assert lines["starts"]["2"] == "0 ok, 3 failed (2 model_oom, 1 no_offer)"
    assert lines["halted"] == {"what": "halted", "1": "-", "2": "model_oom"}
    assert "start from cold, median" not in lines


def test_traffic_is_not_held_against_weights_that_were_others_until_lately():
    group = {"traffic_share": 0.883, "weight_share": 0.8}
    assert compare._traffic(group) == "88.3% of 80.0%", "an older router does not tell"
    assert compare._traffic({**group, "weights_changed_at": None}) == "88.3% of 80.0%"
    changed = compare._traffic({**group, "weights_changed_at": time.time() - 720})
    assert changed.startswith("88.3% of 80.0%, weights changed 12")


# --- corral replay --verify, from a file ------------------------------------------------------------------------------


def replay(*argv, stdin=None):
    return CliRunner().invoke(app, ["replay", *map(str, argv)], input=stdin, env={"NO_COLOR": "1", "COLUMNS": "200"})


@pytest.fixture
def file(tmp_path):
    def write(decisions, *more):
        path = tmp_path / "events.jsonl"
        path.write_bytes(b"\n".join([*(codec.encode(event) for event in decisions), *more]) + b"\n")
        return path

    return write


def test_all_are_equal(told, file):
    named = b'{"kind":"endpoint_created","id":"x","at":1.0,"endpoint_id":42,"name":"llm"}'
    path = file(told, b"", named, b'{"kind":"of_the_future","x":1}')
    done = replay("--verify", "llm", "--file", path)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].startswith("5 decisions of 1 endpoint, 2023-11-14 22:13:21 UTC to ")
    summary = json.loads(replay("--verify", "-f", path, "--json").stdout)
    assert summary["outcomes"] == {"equal": 5}
    assert (summary["ok"], summary["first_wrong"], summary["restarts"]) == (True, None, 0)


def test_the_first_that_differs_is_named(told, file):
    forged = [told[0], _replace(told[1], reason="because"), _replace(told[2], cold_wanted=4), told[3]]
    done = replay("--verify", "--file", file(forged))
    assert done.exit_code == 1
    assert f"the first: {told[1].decision_id} of 2023-" in done.stdout
    assert 'reason told:    "because"' in done.stdout
    assert "reason derived: " in done.stdout
    assert "2  different from what their inputs give" in done.stdout


def test_a_gap_and_a_line_that_is_none_are_wrong_too(told, file):
    done = replay("--verify", "--file", file([told[0], told[3]]))
    assert done.exit_code == 1
    assert "generations 2 to 3 before it are not there" in done.stdout
    done = replay("--verify", "--file", file(told, b"{"))
    assert done.exit_code == 1
    assert "the first: a line: not an event" in done.stdout


def test_what_cannot_be_checked_is_told_and_not_called_wrong(told, file):
    without = _replace(told[1], record=msgspec.Raw(b"null"), state_hash="")
    done = replay("--verify", "--file", file([told[0], without, told[2]]))
    assert done.exit_code == 0
    assert "1  not checkable by this version" in done.stdout
    assert "1 × it was told without its input" in done.stdout


@pytest.mark.parametrize(
    "argv, words",
    [
        ((), "--verify"),
        (("--verify", "--file", "/nowhere"), "cannot read /nowhere"),
        (("--verify", "--from", "soon"), "not a time"),
        (("--verify", "--from", "1h", "--to", "2h"), "--from is not before --to"),
        (("--verify", "--url", "http://127.0.0.1:1", "--api-key", "x"), "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_done_has_a_status_of_its_own(argv, words):
    done = replay(*argv)
    assert done.exit_code == 2, done.output
    assert words in done.stderr


def test_nothing_found_is_nothing_verified(told, file):
    for argv in (("other",), ("--from", "2024-01-01")):
        done = replay("--verify", *argv, "--file", file(told))
        assert done.exit_code == 2
        assert "nothing was verified" in done.stderr
    assert replay("--verify", "42", "--to", "1h", "--file", "-", stdin=file(told).read_text()).exit_code == 0


async def test_a_room_that_does_not_answer_says_its_last_words(monkeypatch, told):
    monkeypatch.setattr(replaying, "_TOOL", "scaler.no_such_tool")
    with pytest.raises(StartError, match="No module named"):
        async with replaying.replayer() as room:
            await room.check(codec.encode(told[0]))


async def test_the_room_is_a_process_of_its_own(told):
    async with replaying.replayer() as room:
        findings = [await room.check(codec.encode(event)) for event in told]
    assert [finding.outcome for finding in findings] == ["equal"] * 5
    corral_alone = [sys.executable, "-P", "-c", "import corral.cli.app, sys; assert 'scaler' not in sys.modules"]
    import subprocess

    assert subprocess.run(corral_alone, check=False, timeout=60).returncode == 0
