"""Public recordings become traces; what is not a recording is refused in words."""

import gzip
import json

import numpy as np
import pytest

from sim import convert, traces
from sim.recordings import azure, burstgpt, mooncake, servegen
from sim.recordings.requests import RecordingMalformed

AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:04.0781000,110,27
"""
AZURE_2024 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00+00:00,2399,6
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
3600.5,ChatGPT,1360,647,2007,API log
"""
MOONCAKE = [
    {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]},
    {"timestamp": 0, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]},
    {"timestamp": 3000, "input_length": 100, "output_length": 3, "hash_ids": []},
]
LENGTHS = {
    "0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{7: 1.0}"},
    "1200": {"input_tokens": "{1000: 1}", "output_tokens": "{9: 1}"},
}
WINDOWS = "0,0.5,3.0,Gamma,0.11,18.2\n600,,,,,\n1200,1.0,1.0,Weibull,1.0,1.0\n"


def lines_of(path):
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def refused(capsys, *arguments):
    """The message with which the command ends."""
    with pytest.raises(SystemExit) as ended:
        convert.main([str(one) for one in arguments])
    assert ended.value.code not in (0, None)
    return f"{ended.value.code}{capsys.readouterr().err}"


@pytest.fixture
def model(tmp_path):
    """A folder of two ServeGen clients."""
    folder = tmp_path / "m-large"
    folder.mkdir()
    for client in (3, 12):
        (folder / f"chunk-{client}-trace.csv").write_text(WINDOWS)
        (folder / f"chunk-{client}-dataset.json").write_text(json.dumps(LENGTHS))
    return folder


def test_azure(tmp_path):
    recording, trace = tmp_path / "in.csv", tmp_path / "made" / "azure_conv_2023.csv.gz"
    recording.write_text(AZURE)
    convert.main(["azure", str(recording), str(trace)])
    assert lines_of(trace) == ["t_ms,in_tok,out_tok", "0,4808,10", "52,3180,8", "98,110,27"]


def test_azure_of_2024_is_sorted_and_has_a_zone(tmp_path):
    (tmp_path / "in.csv").write_text(AZURE_2024)
    convert.write(azure.read(tmp_path / "in.csv"), tmp_path / "t.csv.gz")
    assert lines_of(tmp_path / "t.csv.gz")[1:] == ["0,2399,6", "10,2162,5"]


def test_a_trace_is_read_by_the_simulator_and_is_the_same_each_time(tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text(AZURE)
    made = [tmp_path / name for name in ("one.csv.gz", "two.csv.gz")]
    for path in made:
        convert.write(azure.read(tmp_path / "in.csv"), path)
    assert made[0].read_bytes() == made[1].read_bytes()
    monkeypatch.setenv("TRACES", str(tmp_path))
    assert traces.others() == ["one", "two"]
    loaded = traces.load("one")
    assert loaded.arrival_us.tolist() == [0, 52_000, 98_000]
    assert loaded.units.tolist() == [4818, 3188, 137]


def test_files_that_are_no_traces_are_not_taken_for_some(tmp_path, monkeypatch):
    (tmp_path / "text.csv.gz").write_text("not gzip")
    (tmp_path / "wide.csv.gz").write_bytes(gzip.compress(b"t_ms,in_tok,out_tok,prefix_blocks\n0,1,1,\n"))
    (tmp_path / "burstgpt_week.csv.gz").write_bytes(gzip.compress(b"t_ms,in_tok,out_tok\n0,1,1\n"))
    monkeypatch.setenv("TRACES", str(tmp_path))
    assert traces.others() == []
    assert traces.available() == ["burstgpt_week"]


def test_burstgpt_without_failures_in_a_window(tmp_path):
    recording = tmp_path / "in.csv"
    recording.write_text(BURSTGPT)
    trace = tmp_path / "t.csv.gz"
    convert.main(["burstgpt", str(recording), str(trace), "--hours", "1"])
    assert lines_of(trace)[1:] == ["5000,472,18", "118000,417,276"]
    convert.main(["burstgpt", str(recording), str(trace), "--from-h", "1", "--hours", "1"])
    assert lines_of(trace)[1:] == ["500,1360,647"]
    convert.main(["burstgpt", str(recording), str(trace), "--log-type", "API log", "--model", "GPT-4"])
    assert lines_of(trace)[1:] == ["118000,417,276"]
    assert len(burstgpt.read(recording, model="ChatGPT")) == 2


def test_mooncake_is_spread_over_its_batches(tmp_path):
    recording = tmp_path / "in.jsonl"
    recording.write_text("\n".join(map(json.dumps, MOONCAKE)) + "\n")
    read = mooncake.read(recording, seed=5)
    assert (read.at_s >= [0, 0, 3]).all()
    assert (read.at_s < [3, 3, 6]).all()
    assert len(set(read.at_s)) == 3
    assert (mooncake.read(recording, seed=6).at_s != read.at_s).all()
    trace = tmp_path / "t.csv.gz"
    convert.main(["mooncake", str(recording), str(trace), "--spread-ms", "0", "--prefix-blocks"])
    assert lines_of(trace) == ["t_ms,in_tok,out_tok,prefix_blocks", "0,6758,500,0 1 2", "0,7322,490,0 14", "3000,100,3,"]


def test_servegen_draws_what_its_clients_are_like(model):
    one = servegen.read(model, [3], seed=4)
    in_first, in_last = one.at_s < 600, one.at_s >= 1200
    assert (in_first.sum(), in_last.sum(), len(one)) == (300, 600, 900)  # 0.5/s, nothing, 1/s
    assert set(one.in_tokens[in_first]) == {10, 20}
    assert set(one.in_tokens[in_last]) == {1000}
    gaps = np.diff(one.at_s[in_first])
    assert 2.0 < gaps.std() / gaps.mean() < 4.5  # Gamma of shape 0.11: 3.0
    assert 0.8 < np.diff(one.at_s[in_last]).std() < 1.2
    assert (servegen.read(model, [3], seed=4).at_s == one.at_s).all()
    both = servegen.read(model, seed=4)
    assert len(both) == 1800
    assert set(one.at_s) < set(both.at_s)  # a client's own draws do not depend on the others


def test_servegen_thins_to_a_rate(model):
    thin = servegen.read(model, seed=1, rate=0.5)
    assert 780 < len(thin) < 1020  # 0.5/s of 1800 s
    with pytest.raises(ValueError, match="asked for"):
        servegen.read(model, rate=5.0)


@pytest.mark.parametrize(
    "data_set,content,says",
    [
        ("azure", "", "no column TIMESTAMP, ContextTokens, GeneratedTokens"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "not a single request"),
        ("azure", AZURE.replace("3180", "many"), "line 3: ContextTokens must be a number, found 'many'"),
        ("azure", AZURE.replace("3180", "1.5"), "line 3: ContextTokens must be a whole number"),
        ("azure", AZURE.replace("3180", "-1"), "line 3: ContextTokens must be a number from 0 on"),
        ("azure", AZURE.replace("2023-11-16 18:17:04.03", "yesterday"), "line 3: TIMESTAMP must look like"),
        ("azure", AZURE.replace(",110,27", ""), "line 4: 1 values under 3 columns; is the file cut off?"),
        ("burstgpt", "version https://git-lfs.github.com/spec/v1\noid sha256:4b\nsize 52283111\n", "git lfs pull"),
        ("burstgpt", AZURE, "no column Timestamp, Model"),
        ("burstgpt", BURSTGPT.replace("3600.5", "nan"), "line 5: Timestamp must be a number from 0 on"),
        ("mooncake", '{"timestamp": 0, "input_length": 1}\n', "line 1: must be a JSON object with timestamp"),
        ("mooncake", '{"timestamp": 0, "input_length": -1, "output_length": 1}', "negative"),
        ("mooncake", "\n", "not a single request"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, capsys, data_set, content, says):
    (tmp_path / "in").write_text(content)
    assert says in refused(capsys, data_set, tmp_path / "in", tmp_path / "t.csv.gz")
    assert not (tmp_path / "t.csv.gz").exists()


def test_filters_that_leave_nothing_say_what_there_is(tmp_path, capsys):
    (tmp_path / "in").write_text(BURSTGPT)
    said = refused(capsys, "burstgpt", tmp_path / "in", tmp_path / "t.csv.gz", "--model", "GPT-5")
    assert "models: ChatGPT, GPT-4; log types: API log, Conversation log" in said
    said = refused(capsys, "burstgpt", tmp_path / "in", tmp_path / "t.csv.gz", "--from-h", "200")
    assert "no request from 200 h on" in said
    assert "No such file" in refused(capsys, "burstgpt", tmp_path / "absent", tmp_path / "t.csv.gz")


@pytest.mark.parametrize(
    "windows,lengths,says",
    [
        ("0,1,1,Gamma,1\n", LENGTHS, "5 values, not 6"),
        ("0,1,1,Pareto,1,1\n", LENGTHS, "Gamma or Weibull"),
        ("0,1,1,Gamma,0,1\n", LENGTHS, "shape must be a number from 1e-06 on"),
        ("600,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", LENGTHS, "in order of time"),
        ("", LENGTHS, "in order of time, and at least one"),
        (WINDOWS, [], "must be JSON"),
        (WINDOWS, {"0": {"input_tokens": "{1: 1}"}}, "no output_tokens"),
        (WINDOWS, {"0": {"input_tokens": "{1: -1}", "output_tokens": "{1: 1}"}}, "must not be negative"),
        (WINDOWS, {"0": {"input_tokens": "__import__('os')", "output_tokens": "{1: 1}"}}, "must be a dictionary"),
        (WINDOWS, {"0": {"input_tokens": "{}", "output_tokens": "{}"}}, "not a single distribution"),
        ("0,,,,,\n", LENGTHS, "never asked for anything"),
    ],
)
def test_what_is_no_client_is_refused(tmp_path, windows, lengths, says):
    (tmp_path / "chunk-1-trace.csv").write_text(windows)
    (tmp_path / "chunk-1-dataset.json").write_text(json.dumps(lengths))
    with pytest.raises(RecordingMalformed, match=says):
        servegen.read(tmp_path)


def test_clients_that_are_not_there(model, tmp_path):
    with pytest.raises(RecordingMalformed, match="no client 4; there are 3, 12"):
        servegen.read(model, [3, 4])
    with pytest.raises(RecordingMalformed, match="no chunk-<client>-trace.csv"):
        servegen.clients(tmp_path)
