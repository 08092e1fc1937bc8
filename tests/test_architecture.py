"""The picture in ARCHITECTURE.md, kept true: which room opens which door, and which files may not touch the world."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: room -> rooms it may import. Missing here: a new top-level package must be drawn first.
DOORS = {
    "schemas": set(),
    "runtime": {"schemas"},
    "router": {"schemas", "runtime"},
    "scaler": {"schemas", "runtime"},
    "provisioner": {"schemas", "runtime"},
    "pyworker": {"schemas"},
    "corral": {"schemas"},
    "sim": {"schemas", "runtime", "router", "scaler", "provisioner", "pyworker", "corral"},
}
#: The two libraries live in strangers' environments and reach schemas through one file each.
SEAMS = {"pyworker": "pyworker/wire.py", "corral": "corral/wire.py"}

#: foreign package -> where it may be imported (rooms or files)
KEPT_TO = {
    "nats": {"runtime", "pyworker/link.py"},
    "nkeys": {"runtime", "pyworker/link.py"},
    "cryptography": {"router/tickets.py", "router/vast_root.py", "pyworker/verify.py"},
    "nacl": {"router/tickets.py", "pyworker/verify.py"},
    "cronsim": {"schemas/schedules.py"},
    "pynvml": {"provisioner", "pyworker/gpu.py"},
}
#: What a decision must not touch: clocks, chance, the network, the disk, the log.
IMPURE = {
    "asyncio",
    "aiohttp",
    "nats",
    "os",
    "random",
    "socket",
    "structlog",
    "time",
    "threading",
    "subprocess",
    "secrets",
    "logging",
}
PURE = [
    "schemas",
    *(
        f"router/{name}.py"
        for name in (
            "view liveness reservations choose pool shares hold requests complaints demand eta fleet desk waiting switchboard voices "
            "tallies halts compare"
        ).split()
    ),
    *(
        f"scaler/{name}.py"
        for name in (
            "types observations state window ageing traffic capacity learning roster scene groups shares victims reactive ensemble limits "
            "cost phases reboots tiers book buying moves trials calendar audit skew belief leap endings hearing lead readings room brevity "
            "plan decide deeds drain liveness lifecycle memory replay shards orders records news words"
        ).split()
    ),
    "scaler/engine",
    "provisioner/plan.py",
    "pyworker/lifecycle.py",
    "pyworker/admit.py",
    "pyworker/load.py",
]


def files(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [f for f in found if "_rooms" not in f.parts and "_schemas" not in f.parts]


def imports(path: Path) -> set[str]:
    """Absolute dotted names that the file imports anywhere in it, functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def top(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_every_room_is_drawn():
    not_rooms = {"tests", "bench", "examples", "docs"}
    rooms = {p.parent.name for p in ROOT.glob("*/__init__.py")} - not_rooms
    assert rooms == set(DOORS)


@pytest.mark.parametrize("room", DOORS)
def test_a_room_opens_only_its_doors(room):
    for path in files(room):
        opened = top(imports(path)) & set(DOORS) - {room}
        if room in SEAMS and path != ROOT / SEAMS[room]:
            opened_wrongly = opened
        else:
            opened_wrongly = opened - DOORS[room]
        assert not opened_wrongly, f"{path.relative_to(ROOT)} imports {opened_wrongly}"


@pytest.mark.parametrize("package", KEPT_TO)
def test_a_foreign_package_stays_where_it_is_kept(package):
    for room in DOORS:
        if room == "sim":
            continue
        for path in files(room):
            where = path.relative_to(ROOT).as_posix()
            if package in top(imports(path)):
                assert room in KEPT_TO[package] or where in KEPT_TO[package], f"{where} imports {package}"


@pytest.mark.parametrize("place", PURE)
def test_what_decides_touches_nothing(place):
    found = [f for f in files(place) if f.name != "generate.py"]
    assert found, f"{place} is gone: mend this list"
    for path in found:
        touched = top(imports(path)) & IMPURE
        assert not touched, f"{path.relative_to(ROOT)} imports {touched}"


def test_nobody_but_tests_and_benchmarks_imports_the_simulator():
    for room in DOORS:
        if room != "sim":
            for path in files(room):
                assert "sim" not in top(imports(path)), path


def test_tests_are_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py")), "tests/router/__init__.py would shadow the room of that name"


def test_no_room_has_the_name_of_a_module_of_python():
    assert not set(DOORS) & set(sys.stdlib_module_names)


@pytest.mark.parametrize("room", DOORS)
def test_files_stay_small(room):
    for path in files(room):
        lines = len(path.read_text().splitlines())
        assert lines <= 450, f"{path.relative_to(ROOT)} has {lines} lines: one concept a file"


def test_there_is_no_drawer_for_everything():
    drawers = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
    assert not [p for room in DOORS for p in files(room) if p.name in drawers]


def test_the_project_speaks_of_itself_alone():
    """No path of one machine, no registry's host, no left-over marks in what is shipped."""
    words = [
        "/wo" + "rk/",
        "pypi" + ".org",
        "files.python" + "hosted",
        "registry.npm" + "js",
        "TO" + "DO",
        "FIX" + "ME",
        "XX" + "X:",
    ]
    kinds = {".py", ".md", ".toml", ".yaml", ".yml", ".conf", ".txt", ".json", ".sh", ""}
    skip = {".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "node_modules", "dist", "build"}
    for path in ROOT.rglob("*"):
        if (
            path.is_file()
            and path.suffix in kinds
            and not skip & set(path.relative_to(ROOT).parts)
            and "egg-info" not in str(path)
        ):
            text = path.read_text(errors="replace")
            for word in words:
                assert word not in text, f"{path.relative_to(ROOT)} contains {word!r}"
