"""What the benchmark of scaling plays, and what it remembers of it."""

from bench.scaling import cache, cases, source
from bench.scaling.cache import Cache
from bench.scaling.cases import COLD, DOCUMENTED, NEW, OURS, SHARING, TRI, Case
from sim import synthetic
from sim.peers import PEERS, peer
from tests.bench.results import CONV, played


def test_every_setting_of_every_peer_is_played_once():
    of_one = cases.of_knobs(CONV, COLD)
    assert len(of_one) == len(set(of_one)) == sum(len(cases.knobs(one)) for one in PEERS)
    assert cases.default_knob(peer("Ray Serve")) == 0.4
    assert cases.knobs(peer("Ray Serve")) == [None, 0.25, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert cases.default_knob(peer("Runpod request-count")) is None
    assert cases.knobs(peer("Modal-like")) == [None, 1, 2, 3, 4, 6]


def test_ours_and_defaults_are_played_under_every_seed():
    found = cases.of_policies(CONV, (1, 2))
    assert len(found) == 2 * (1 + len(PEERS))
    assert {case.policy for case in found} == {OURS, *(one.name for one in PEERS)}


# --- what is remembered --------------------------------------------------------------------------------------------------


def test_a_result_depends_on_the_source_it_came_from_and_on_no_other():
    engine, modal = (set(source.reached_from(cache.modules(Case(trace="t", policy=name)))) for name in (OURS, "Modal-like"))
    assert {"sim.simulation", "sim.fleet", "sim.chance", "sim.service", "scaler.engine.step", "scaler.engine.constants"} <= engine
    assert {"sim.simulation", "sim.peers.modal", "sim.windows"} <= modal
    assert not [name for name in modal if name.startswith("scaler")]
    assert not {"sim.peers.knative", "sim.traces", "sim.synthetic"} & modal
    assert {"sim", "sim.peers"} <= modal  # a package's own file runs too, and says which knob is played
    assert "sim.peers" not in engine
    assert "sim.peers.vast" in cache.modules(Case(trace="t", tier=TRI, pool=DOCUMENTED))
    assert source.fingerprint(("sim.windows",)) != source.fingerprint(("sim.windows", "sim.chance"))


def test_imports_are_found_in_all_their_forms(tmp_path, monkeypatch):
    for name, text in {
        "a/b/top.py": "import a.one\nfrom a import two\nfrom . import three\nfrom .four import x\nfrom ..five import y\nimport json\n",
        "a/one.py": "def f():\n    from a.six import z\n",
        "a/__init__.py": "import a.seven\n",
        "a/c/__init__.py": "from .eight import w\n",
        "a/asks.py": "from a.c import w\n",
        **{f"a/{name}.py": "" for name in ("two", "five", "six", "b/three", "b/four", "seven", "c/eight")},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(source, "ROOT", tmp_path)
    source.imported_by.cache_clear()
    try:
        around = ["a", "a.b.four", "a.b.three", "a.b.top", "a.five", "a.one", "a.six", "a.two"]
        assert source.reached_from(["a.b.top"]) == around  # a package around counts by itself, not by what it imports
        assert source.reached_from(["a.asks"]) == ["a", "a.asks", "a.c", "a.c.eight"]
    finally:
        source.imported_by.cache_clear()


def test_the_key_is_the_content():
    short, long = (cache.content(synthetic.make("steady", hours=hours)) for hours in (0.1, 0.2))
    one = Case(trace="one")
    assert cache.key(one, short) == cache.key(Case(trace="renamed"), short)
    others = [
        Case(trace="one", seed=2),
        Case(trace="one", tier=NEW),
        Case(trace="one", service=SHARING),
        Case(trace="one", policy="SkyServe"),
    ]
    keys = {cache.key(case, short) for case in [one, *others]} | {cache.key(one, long)}
    assert len(keys) == 6


def test_the_cache_survives_an_interruption(tmp_path):
    one, other = played(0.9, 1.0), played(0.8, 2.0)
    known = Cache(tmp_path)
    assert known.get("a") is None
    known.put("a", one)
    known.put("b", other)
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-20] + b"\n")
    again = Cache(tmp_path)
    assert again.get("a") == one
    assert again.get("b") is None


def test_a_result_from_before_a_count_was_kept_can_still_be_read(tmp_path):
    Cache(tmp_path).put("a", played(0.9, 1.0, overdue=3))
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes().replace(b',"overdue":3', b""))
    assert Cache(tmp_path).get("a") == played(0.9, 1.0)


# --- how it compares -------------------------------------------------------------------------------------------------------
