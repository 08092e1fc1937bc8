"""compose.yaml without a Docker engine: it parses, it holds together, and its very commands, run as processes, serve a request."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest_system import free_port, until

from corral import Corral

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
#: Files that the images hold, here in the checkout.
FOLDERS = ("data", "keys", "state", "enrolled", "nats", "jetstream", "tmp")


def named_volumes(service):
    return {v.split(":")[0] for v in service.get("volumes", []) if not v.startswith((".", "/"))}


def test_it_holds_together():
    assert set(SERVICES) >= {"nats", "router", "scaler", "provisioner", "worker"}
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        assert named_volumes(service) <= set(COMPOSE["volumes"]), name
    ours = {service["image"] for name, service in SERVICES.items() if name != "nats"}
    assert ours == {"corral:latest"}, "one Dockerfile for all of ours"


def test_nothing_is_published_beyond_this_machine():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert [p for p in published if not p.startswith("127.0.0.1:")] == []


def test_the_dockerfile_has_what_the_commands_need():
    dockerfile = (ROOT / "Dockerfile").read_text()
    for service in SERVICES.values():
        if service["image"] == "corral:latest":
            for volume in service.get("volumes", []):
                folder = volume.split(":")[1]
                assert folder in dockerfile, f"{folder} must belong to the image's user"
    assert "COPY examples /examples" in dockerfile


class Containers:
    """Each service's command as a process, with the container's folders, hosts and ports mapped to this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ports = {port: free_port() for port in ("4222", "8222", "8080", "3000", "3100")}
        self.running: list[subprocess.Popen] = []
        for folder in FOLDERS:
            (root / folder).mkdir()
        shutil.copy(ROOT / "nats.conf", root / "nats" / "nats.conf")
        conf = root / "nats" / "nats.conf"
        conf.write_text(conf.read_text().replace(":4222", f":{self.ports['4222']}").replace(":8222", f":{self.ports['8222']}"))

    def here(self, text: str) -> str:
        text = text.replace("$$", "$").replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"(?<=//)(nats|router)(?=:\d)", "127.0.0.1", text)
        text = re.sub(rf"(?<![\w/])/({'|'.join(FOLDERS)})\b", rf"{self.root}/\1", text)
        text = re.sub(r"(?<![\w/])/examples/", f"{ROOT}/examples/", text)
        for port, mapped in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(mapped), text)
        return text

    def start(self, name: str) -> subprocess.Popen:
        service = SERVICES[name]
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(self.root), "PYTHONUNBUFFERED": "1"}
        env |= {key: self.here(str(value)) for key, value in service.get("environment", {}).items()}
        if "WORKER_PORT" in env:
            env["TMPDIR"] = str(self.root)
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [self.here(word) for word in service["command"]],
                cwd=self.root,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def finish(self, name: str, tries: int = 5) -> None:
        """One that ends; started again as `restart: on-failure` would."""
        for _ in range(tries):
            if self.start(name).wait(60) == 0:
                return
        raise AssertionError(f"{name}: {(self.root / f'{name}.log').read_text()[-2000:]}")

    def stop(self) -> None:
        for process in reversed(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.mark.timeout(180)
async def test_the_commands_of_the_services_serve_a_request(tmp_path):
    containers = Containers(tmp_path)
    url = f"http://127.0.0.1:{containers.ports['8080']}"
    try:
        containers.finish("init")
        containers.start("nats")
        await until(lambda: listens(containers.ports["8222"]), 20, "nats-server listens")
        containers.finish("migrate")
        for name in ("router", "scaler", "provisioner"):
            containers.start(name)
        check = containers.here(SERVICES["router"]["healthcheck"]["test"][3])
        await until(
            lambda: subprocess.run([sys.executable, "-c", check], capture_output=True, check=False).returncode == 0,
            30,
            "router is healthy",
        )
        await asyncio.to_thread(containers.finish, "setup")
        containers.start("worker")
        async with Corral(url, (tmp_path / "data" / "admin.key").read_text().strip()) as client:
            async with asyncio.timeout(60):
                answer = await client.endpoint("echo").request("/generate", {"prompt": "one two", "max_tokens": 2}, cost=2)
        assert answer.json()["text"] == "one two"
    except BaseException:
        for log in tmp_path.glob("*.log"):
            print(f"--- {log.name}\n{log.read_text()[-1500:]}")
        raise
    finally:
        containers.stop()


def listens(port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
