"""What people install: two top-level names, and both work beside files that carry our rooms' names."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import msgspec
import pytest

from schemas import codec
from tests.scaler.recorded import recorded

ROOT = Path(__file__).parents[2]
HOSTILE = 'raise RuntimeError("a stranger\'s module was imported instead of ours")\n'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment: our wheel, and everything else borrowed from the one that runs the tests, minus the checkout."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (site,) = home.glob("lib/python*/site-packages")
    # A plain path in a .pth is put on sys.path, but .pth files inside it (our own editable install) are not read.
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home


@pytest.fixture
def hostile(tmp_path):
    """A user's folder with files that carry the names of our rooms."""
    for name in ("schemas", "router", "runtime", "scaler", "provisioner"):
        (tmp_path / f"{name}.py").write_text(HOSTILE)
    return tmp_path


def run(installed, cwd, *argv, timeout=60, **env):
    return subprocess.run(
        [installed / "bin" / "python", *argv],
        cwd=cwd,
        env={"PATH": f"{installed}/bin:{os.environ['PATH']}", "HOME": str(cwd), "PYTHONPATH": str(cwd), **env},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_the_wheel_shows_two_names(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"corral", "pyworker"}


def test_the_wheel_carries_every_room_and_no_test(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for room in ("schemas", "runtime", "router", "scaler", "provisioner"):
        assert f"corral/_rooms/{room}/__init__.py" in names
    assert "pyworker/_schemas/signals.py" in names
    assert {"corral/py.typed", "pyworker/py.typed"} <= set(names)
    assert not [n for n in names if "test" in n.lower() or n.startswith(("sim/", "bench/"))]


@pytest.mark.parametrize("statement", ["import pyworker; pyworker.Worker", "import corral; corral.Corral"])
def test_a_library_is_imported_beside_hostile_names(installed, hostile, statement):
    done = run(installed, hostile, "-c", statement)
    assert done.returncode == 0, done.stderr


def test_a_users_own_modules_stay_theirs(installed, tmp_path):
    (tmp_path / "schemas.py").write_text("MINE = 1\n")
    done = run(
        installed,
        tmp_path,
        "-c",
        "import corral, pyworker, schemas; assert schemas.MINE == 1; import sys; assert 'router' not in sys.modules",
    )
    assert done.returncode == 0, done.stderr


def test_the_command_line_answers_from_the_wheel(installed, hostile):
    done = subprocess.run(
        [installed / "bin" / "corral", "version"],
        cwd=hostile,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(hostile)},
    )
    assert done.returncode == 0, done.stderr
    assert "0.1.0" in done.stdout


def test_decisions_are_derived_again_by_the_rooms_in_the_wheel(installed, hostile):
    """`corral replay` starts the scaler's room by name; a stranger's scaler.py beside it is not asked."""
    told = recorded(3)
    forged = msgspec.structs.replace(told[2], hot_wanted=9)
    for name, events in (("good", told), ("forged", (*told[:2], forged))):
        (hostile / name).write_bytes(b"".join(codec.encode(event) + b"\n" for event in events))
    good = run(installed, hostile, "-P", "-m", "corral.cli", "replay", "--verify", "--json", "--file", "good")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["outcomes"] == {"equal": 3}
    bad = run(installed, hostile, "-P", "-m", "corral.cli", "replay", "--verify", "--json", "--file", "forged")
    assert (bad.returncode, json.loads(bad.stdout)["first_wrong"]["field"]) == (1, "hot_wanted")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.timeout(180)
def test_corral_up_from_the_wheel_serves_a_request_beside_hostile_names(installed, hostile):
    """Control plane, worker, client and command line, all from the wheel, in a folder that would break plain imports."""
    port, data = free_port(), hostile / "data"
    env = {
        "PATH": f"{installed}/bin:{os.environ['PATH']}",
        "HOME": str(hostile),
        "PYTHONPATH": str(hostile),
        "CORRAL_DATA_DIR": str(data),
    }
    corral = str(installed / "bin" / "corral")
    with (hostile / "up.log").open("wb") as log:
        up = subprocess.Popen([corral, "up", "--port", str(port)], cwd=hostile, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/readyz"):
            assert up.poll() is None, (hostile / "up.log").read_text()
            assert time.monotonic() < deadline, (hostile / "up.log").read_text()
            time.sleep(0.2)

        def call(*argv):
            done = subprocess.run([corral, *argv], cwd=hostile, env=env, capture_output=True, text=True, timeout=90, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        call("apply", "--yes", "-f", str(ROOT / "examples" / "echo" / "corral.yaml"))
        assert "one two" in call("call", "echo", "/generate", "-d", '{"prompt": "one two", "max_tokens": 2}')
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    finally:
        if up.poll() is None:
            up.kill()
            up.wait(10)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False
