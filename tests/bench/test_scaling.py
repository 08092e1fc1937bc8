"""The benchmark of scaling as a program: from traces to a page."""

import json
import sys

import msgspec
import pytest
from rich.console import Console

from bench.scaling import __main__ as program
from bench.scaling import bars, cache, cases, lines, page, source, table
from bench.scaling.cache import Cache
from bench.scaling.cases import COLD, DOCUMENTED, OURS, SHARING, TRI, Case
from bench.scaling.compare import Table
from bench.scaling.measured import Measured
from bench.scaling.runner import Runner
from sim import convert, synthetic
from sim.peers import PEERS
from sim.recordings.requests import Requests
from tests.bench.results import CONV, measured, played


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Traces of a few minutes: one under a usual name, one that nobody knows."""
    path = tmp_path_factory.mktemp("traces")
    made = synthetic.make("steady", hours=0.08)
    requests = Requests(made.arrival_us / 1e6, made.units.astype(int), made.units.astype(int) * 0)
    for name in (CONV, "unknown"):
        convert.write(requests, path / f"{name}.csv.gz")
    return path


@pytest.fixture
def there(folder, tmp_path, monkeypatch):
    from bench.scaling import play

    monkeypatch.setenv("TRACES", str(folder))
    monkeypatch.setattr(cache, "FOLDER", tmp_path)
    play.workload.cache_clear()
    yield
    play.workload.cache_clear()


@pytest.mark.usefixtures("there")
def test_from_traces_to_a_page(tmp_path):
    known = Cache(tmp_path)
    runner = Runner(2, known)
    program.play(runner, [CONV, "unknown"], (1, 2), (COLD, SHARING), quick=False)
    assert not runner.failed
    assert len(runner.played) >= 2 * (len(cases.of_knobs(CONV, COLD)) + 2 + 14)
    again = Runner(2, Cache(tmp_path))
    program.play(again, [CONV, "unknown"], (1, 2), (COLD, SHARING), quick=False)
    assert again.played == runner.played
    assert again.from_cache == len(again.played)
    # The same traffic under another name is the same content.
    assert runner.from_cache == 0
    found = Measured(Table(again.played.values()), {CONV: 0.5}, (1, 2), None)
    held = bars.every(found)
    text = "\n".join(page.lines(found, held))
    for heading in ("At documented defaults", "chosen per trace in hindsight", "Another model of service", "What this hides"):
        assert heading in text
    assert all(one.name in text for one in PEERS)
    console = Console(width=200, file=(tmp_path / "out.txt").open("w"))
    for one in [*table.tables(found), table.of_bars(held)]:
        console.print(one)
    console.file.close()
    told = [json.loads(line) for line in lines.every(found)]
    assert {(one["trace"], one["policy"]) for one in told} == {
        (trace, policy) for trace in (CONV, "unknown") for policy in (OURS, *(one.name for one in PEERS))
    }
    assert f"{CONV}  (bound 0.50 h)" in (tmp_path / "out.txt").read_text()


@pytest.mark.usefixtures("there")
def test_a_case_that_fails_does_not_end_the_others(monkeypatch):
    runner = Runner(1)
    good, bad = Case(trace=CONV, policy="SkyServe"), Case(trace=CONV, policy="SkyServe", service="none")
    runner.add([good, bad], "two")
    assert set(runner.played) == {good}
    assert "KeyError" in runner.failed[bad]


@pytest.mark.usefixtures("there")
def test_after_a_change_of_the_engine_only_ours_is_played(tmp_path, monkeypatch):
    wanted = [Case(trace=CONV), Case(trace=CONV, policy="SkyServe")]
    Runner(1, Cache(tmp_path)).add(wanted, "first")
    real = source.fingerprint
    monkeypatch.setattr(
        source, "fingerprint", lambda modules: real(modules) + ("changed" if "sim.corral_policy" in modules else "")
    )
    runner = Runner(1, Cache(tmp_path))
    runner.add(wanted, "second")
    assert runner.from_cache == 1
    assert len(runner.played) == 2


@pytest.mark.usefixtures("there")
def test_a_plot_is_the_same_file_each_time(tmp_path):
    plots = pytest.importorskip("bench.scaling.plots", reason="matplotlib is for benchmarks only")
    found = measured(
        played(0.96, 9),
        *(played(0.9 + knob / 12, 8 + knob, policy="SkyServe", knob=knob) for knob in (0.2, 0.5, 0.9)),
        bounds={CONV: 5.88},
    )
    paths = [tmp_path / "one.svg", tmp_path / "img" / "two.svg"]
    for path in paths:
        plots.plot(found, CONV, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(paths[0].read_bytes()) < 40_000


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    "arguments,says",
    [(["--traces", "nowhere"], "no trace nowhere; there are: azure_conv_2023, unknown"), (["--seeds", "0"], "at least 1")],
)
def test_what_it_is_asked_wrongly_is_said(monkeypatch, arguments, says):
    monkeypatch.setattr(sys, "argv", ["bench.scaling", *arguments])
    with pytest.raises(SystemExit, match=says):
        program.main()


def test_cases_travel_as_json():
    case = Case(trace="t", policy="Modal-like", knob=1, seed=3, tier=TRI, pool=DOCUMENTED)
    assert msgspec.json.decode(msgspec.json.encode(case), type=Case) == case
