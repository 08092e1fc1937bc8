"""The command line against a real `corral up`: real NATS, router, scaler, provisioner, and the echo model as a worker."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from corral.cli.app import app

ROOT = Path(__file__).parents[2]
ECHO = ROOT / "examples" / "echo" / "corral.yaml"
CORRAL = [sys.executable, "-P", "-m", "corral.cli"]
ROOMS = {"nats_keeper", "nats", "router", "scaler", "provisioner"}

pytestmark = pytest.mark.timeout(240)


class Up:
    def __init__(self, data):
        self.data = data
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "ROUTER_", "SCALER_", "PROVISIONER_"))}
        self.env = {**kept, "CORRAL_DATA_DIR": str(data), "NO_COLOR": "1", "COLUMNS": "200"}
        self.process = None

    def start(self, *argv):
        """The run info, once it says that it is ready."""
        self.process = subprocess.Popen(
            [*CORRAL, "up", "--json", "--port", "0", *argv],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in self.process.stdout:
            if line.startswith("{"):
                said = json.loads(line)
                if said["event"] == "ready":
                    return said
        raise AssertionError(f"corral up ended with {self.process.wait()}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        rest = self.process.stdout.read()
        code = self.process.wait(90)
        self.process.stdout.close()
        return code, rest

    def run(self, *argv, ok=True, stdin=None):
        """One command, in this process: starting Python fifty times is what would take long."""
        done = CliRunner().invoke(app, [*map(str, argv)], env=self.env, input=stdin)
        if ok is not None:
            assert (done.exit_code == 0) == ok, (
                f"corral {argv}: {done.exit_code}\n{done.stdout}\n{done.stderr}\n{done.exception!r}"
            )
        return done

    def process_of(self, *argv):
        """The same as people run it."""
        return subprocess.run([*CORRAL, *map(str, argv)], env=self.env, capture_output=True, text=True, timeout=120)

    def json(self, *argv, **more):
        return json.loads(self.run(*argv, "--json", **more).stdout)

    def info(self):
        return json.loads((self.data / "run.json").read_text())

    def until(self, check, what, deadline_s=60):
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            with contextlib.suppress(OSError, json.JSONDecodeError):
                if found := check():
                    return found
            time.sleep(0.1)
        raise AssertionError(f"not within {deadline_s} s: {what}")

    def processes(self):
        """Every process that belongs to this directory."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                told = [*process.cmdline(), *process.environ().values()]
                if any(str(self.data) in word for word in told) and process.pid != os.getpid() and process.status() != "zombie":
                    found.append(process)
        return found

    def kill_all(self):
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            self.process.wait(10)
            self.process.stdout.close()


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    up = Up(tmp_path_factory.mktemp("up") / "data")
    try:
        up.ready = up.start()
        up.run("apply", "-f", ECHO, "--yes")
        yield up
    finally:
        up.kill_all()


def ask(up, *more, text="one two three", **options):
    return up.run("call", "echo", "/generate", "-d", json.dumps({"prompt": text, "max_tokens": 8}), *more, **options)


def test_it_is_private_and_listens_on_loopback_alone(up):
    info = up.info()
    assert info["url"] == up.ready["url"]
    assert set(info["pids"]) == {"up", *ROOMS}
    for path in (up.data / "run.json", up.data / "admin.key", *up.data.glob("creds/*")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(up.data.stat().st_mode) == 0o700
    listening = {
        connection.laddr.ip
        for process in up.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_the_admin_key_is_told_to_no_process(up):
    key = (up.data / "admin.key").read_text().strip()
    for process in up.processes():
        assert key not in " ".join([*process.cmdline(), *process.environ().values()])
    for log in up.data.rglob("*.log"):
        assert key not in log.read_text(errors="replace")


def test_a_second_one_in_the_same_directory_is_refused(up):
    done = up.run("up", "--port", "0", ok=False)
    assert f"already runs in {up.data} at {up.ready['url']}" in done.stderr


def test_a_taken_port_is_named(up, tmp_path):
    port = up.info()["ports"]["router"]
    done = up.run("up", "--data-dir", tmp_path / "other", "--port", port, ok=False)
    assert f"port {port} on 127.0.0.1 is taken by" in done.stderr
    assert "--port" in done.stderr


def test_apply_is_idempotent_and_plan_tells_by_its_status(up, tmp_path):
    assert up.run("plan", "-f", ECHO).exit_code == 0
    assert up.json("apply", "-f", ECHO)["changed"] is False
    other = tmp_path / "other.yaml"
    other.write_text(ECHO.read_text().replace("max_workers: 3", "max_workers: 2").replace("cwd: .", f"cwd: {ECHO.parent}"))
    done = up.run("plan", "-f", other, ok=None)
    assert done.exit_code == 2
    assert "max_workers: 3 -> 2" in done.stdout
    up.run("apply", "-f", other, "--yes")
    assert up.json("endpoint", "get", "echo")["max_workers"] == 2
    up.run("apply", "-f", ECHO, "--yes")
    assert up.json("endpoint", "get", "echo")["max_workers"] == 3


def test_as_a_program_it_says_results_on_stdout_and_fails_with_a_status(up):
    good = up.process_of("endpoint", "list", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert [endpoint["name"] for endpoint in json.loads(good.stdout)] == ["echo"]
    bad = up.process_of("endpoint", "get", "none")
    assert (bad.returncode, bad.stdout) == (1, "")


def test_apply_from_stdin_and_what_is_wrong_with_it(up):
    done = up.run("apply", "-f", "-", ok=False, stdin="kind: Endpoint\nname: x\nmax_wokers: 1\n")
    assert "stdin:3: unknown field 'max_wokers'" in done.stderr
    assert "did you mean 'max_workers'?" in done.stderr


def test_a_parameter_can_be_unset_again(up, tmp_path):
    with_mult = tmp_path / "a.yaml"
    with_mult.write_text("kind: Endpoint\nname: other\ncold_mult: 2\n")
    up.run("apply", "-f", with_mult, "--yes")
    assert up.json("endpoint", "get", "other")["cold_mult"] == 2
    with_mult.write_text("kind: Endpoint\nname: other\n")
    up.run("apply", "-f", with_mult, "--yes")
    assert "cold_mult" not in up.json("endpoint", "get", "other")
    assert up.run("plan", "-f", with_mult).exit_code == 0
    up.run("endpoint", "delete", "other", "--yes")


def test_settings_in_vasts_spelling(up):
    up.run("endpoint", "update", "echo", "--target_queue_time", "7", "--min_cold_load", "0")
    shown = up.json("endpoint", "get", "echo")
    assert (shown["target_queue_time"], shown["min_cold_load"]) == (7, 0)
    done = up.run("endpoint", "update", "echo", "--target-util", "2", ok=False)
    assert "target_util" in done.stderr
    assert up.json("endpoint", "get", "echo")["target_util"] == 0.9
    up.run("apply", "-f", ECHO, "--yes")


def test_a_cold_endpoint_answers_and_says_why_it_took_so_long(up):
    done = ask(up)
    assert done.stdout.strip()
    assert "worker w" in done.stderr
    again = ask(up)
    assert "cold start" not in again.stderr


def test_what_happened_can_be_read(up):
    ask(up)
    lines = [json.loads(line) for line in up.run("events", "tail", "--no-follow", "--since", "1h", "--json").stdout.splitlines()]
    kinds = {line["kind"] for line in lines}
    assert {"endpoint_created", "group_created", "decision", "worker_created", "worker_ready"} <= kinds
    decision = next(line for line in lines if line["kind"] == "decision" and line["actions"])
    assert decision["reason"]
    text = up.run("events", "tail", "--no-follow", "--kind", "decision").stdout
    assert decision["reason"] in text
    assert "'nope' is no kind of event" in up.run("events", "tail", "--no-follow", "--kind", "nope", ok=False).stderr


def test_an_override_of_a_stopped_endpoint_is_refused_with_the_way_out(up):
    up.run("endpoint", "create", "rests")
    up.run("endpoint", "stop", "rests")
    done = up.run("endpoint", "override", "rests", "--min", "3", "--reason", "launch", ok=False)
    assert "hot_min (3) would do nothing, because the endpoint is stopped" in done.stderr
    assert "corral endpoint resume" in done.stderr
    up.run("endpoint", "delete", "rests", "--yes")


def test_workers(up):
    ask(up)
    [worker, *_] = [w for w in up.json("worker", "list", "-e", "echo") if w["state"] == "ready"]
    assert worker["id"] in up.run("worker", "list").stdout
    assert up.json("worker", "get", worker["id"])["url"] == worker["url"]
    assert up.run("worker", "logs", worker["id"]).stdout.strip()
    done = up.run("worker", "get", "w1", ok=False)
    assert "There is no worker 'w1'" in done.stderr


def test_drained_by_hand_it_stops_and_the_endpoint_goes_on(up):
    ask(up)
    [worker, *_] = [w["id"] for w in up.json("worker", "list") if w["state"] == "ready"]
    up.run("worker", "drain", worker)

    def stopped():
        told = up.run("events", "tail", "--no-follow", "--since", "1h", "--kind", "worker_stopped", "--json").stdout
        return worker in told

    up.until(stopped, "the drained worker has stopped")
    assert ask(up).exit_code == 0


def test_a_client_key_may_ask_and_nothing_else(up):
    made = up.json("key", "create", "app", "-e", "echo")
    assert made["role"] == "client"
    assert ask(up, "--api-key", made["key"]).exit_code == 0
    refused = up.run("endpoint", "list", "--api-key", made["key"], ok=False)
    assert "may not list endpoints" in refused.stderr
    assert made["key"] not in up.run("key", "list").stdout
    up.run("key", "revoke", made["id"])
    up.until(lambda: "not known" in ask(up, "--api-key", made["key"], ok=None).stderr, "a revoked key is refused", 20)


def test_a_machine_that_somebody_brings(up):
    enrolled = up.json("worker", "enroll", "echo", "local", ok=None)
    if "token" in enrolled:  # only groups of the provider `external` take such machines
        assert enrolled["token"].startswith("corral1.")


def test_errors_say_what_why_and_what_next(up):
    done = up.run("endpoint", "get", "ehco", ok=False)
    assert "There is no endpoint 'ehco'" in done.stderr
    assert "next:" in done.stderr
    assert not done.stdout
    told = json.loads(up.run("endpoint", "get", "ehco", "--json", ok=False).stderr)
    assert (told["code"], told["status"]) == ("no_endpoint", 404)
    done = up.run("call", "echo", "/generate", "-d", "{nope", ok=False)
    assert "not JSON" in done.stderr
    done = up.run("endpoint", "list", "--url", "http://127.0.0.1:1", ok=False)
    assert "no answer from the control plane" in done.stderr


def test_the_doctor_finds_nothing_and_then_something(up):
    findings = {f["check"]: f["level"] for f in up.json("doctor")["findings"]}
    assert {findings[check] for check in ("nats-server", "data dir", "port", "router", "NATS", "clock")} == {"ok"}
    (up.data / "admin.key").chmod(0o644)
    done = up.run("doctor", ok=False)
    (up.data / "admin.key").chmod(0o600)
    assert "chmod 600" in done.stdout


@pytest.mark.parametrize("room", ["router", "scaler", "provisioner", "nats"])
def test_whoever_is_killed_comes_back_and_nothing_is_forgotten(room, up):
    before = up.info()["pids"][room]
    os.kill(before, signal.SIGKILL)
    up.until(lambda: up.info()["pids"][room] != before, f"{room} runs again")
    assert up.info()["url"] == up.ready["url"]
    assert ask(up).exit_code == 0
    assert [e["name"] for e in up.json("endpoint", "list")] == ["echo"]


def test_stopped_in_order_it_leaves_nothing_running_and_starts_where_it_was(up):
    ask(up)
    known = {worker["id"] for worker in up.json("worker", "list")}
    code, rest = up.stop()
    assert code == 0, rest
    assert not up.processes()
    assert not (up.data / "run.json").exists()

    again = up.start()
    assert again["nats_url"] == up.ready["nats_url"]
    up.ready = again
    assert [e["name"] for e in up.json("endpoint", "list")] == ["echo"]
    up.until(lambda: known <= {worker["id"] for worker in up.json("worker", "list")}, "the workers are known again", 20)
    assert ask(up).exit_code == 0
    assert {worker["id"] for worker in up.json("worker", "list")} == known  # cold ones came back; no new one was made


def test_killed_it_takes_its_processes_along_and_starts_where_it_was(up):
    ask(up)
    rooms = [psutil.Process(pid) for name, pid in up.info()["pids"].items() if name != "up"]
    up.process.kill()
    _, alive = psutil.wait_procs(rooms, timeout=30)
    assert not alive
    up.process.wait()
    up.process.stdout.close()
    up.ready = up.start()
    assert [e["name"] for e in up.json("endpoint", "list")] == ["echo"]
    assert ask(up).exit_code == 0


def test_on_a_nats_server_of_ones_own(tmp_path):
    """`runtime.init` makes the credentials, somebody else runs the server, `corral up --nats --creds` uses both."""
    from runtime.server_binary import find_server

    made = subprocess.run([*CORRAL, "service", "runtime.init", tmp_path / "set"], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = tmp_path / "set" / "nats" / "server.conf"
    conf.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path}/js" }}\ninclude "auth.conf"\n')
    server = subprocess.Popen([find_server(), "-c", conf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    up = Up(tmp_path / "data")
    try:
        up.until(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None, "nats-server listens", 20)
        up.start("--nats", f"nats://127.0.0.1:{port}", "--creds", str(tmp_path / "set" / "creds"))
        assert set(up.info()["pids"]) == {"up", "router", "scaler", "provisioner"}
        up.run("apply", "-f", ECHO, "--yes")
        assert ask(up).exit_code == 0
        code, rest = up.stop()
        assert code == 0, rest
        assert server.poll() is None  # it is not ours to stop
    finally:
        up.kill_all()
        server.kill()
        server.wait(10)
