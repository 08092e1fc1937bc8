"""What a worker process is told. Pure.

Three layers, later ones win: a short list of harmless things from our own environment, the template's own variables, and
the worker's identity and ports. Nothing else of ours is passed on: the provisioner's environment holds keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import PurePath

from schemas import ids

from .files import Saved

#: What may be inherited. A list of what is allowed, because a list of what is secret is never complete.
INHERITED = frozenset(
    {
        "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV",
        "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_DEVICE_ORDER",
        "NVIDIA_DRIVER_CAPABILITIES", "OMP_NUM_THREADS",
        "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "HF_HOME", "HF_HUB_CACHE",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    }
)  # fmt: skip
INHERITED_PREFIXES = ("LC_",)
#: Ours, whatever a person allows: these carry credentials or would make a worker take itself for a service.
NEVER_INHERITED_PREFIXES = ("CORRAL_", "ROUTER_", "SCALER_", "PROVISIONER_", "PYWORKER_", "NATS_")

_REFERENCE = re.compile(r"\{([A-Z][A-Z0-9_]*)\}")


def inherited(parent: Mapping[str, str], also: tuple[str, ...] = ()) -> dict[str, str]:
    """The part of our own environment that a worker may see. `also`: names a person allows on top."""
    return {
        name: value
        for name, value in parent.items()
        if (name in INHERITED or name in also or name.startswith(INHERITED_PREFIXES))
        and not name.startswith(NEVER_INHERITED_PREFIXES)
    }


def worker_environment(
    saved: Saved,
    *,
    parent: Mapping[str, str],
    also: tuple[str, ...] = (),
    python: str,
    directory: str,
    bundle_path: str,
    control_url: str,
    public_host: str,
    hide_gpus: bool = False,
) -> dict[str, str]:
    """The whole environment of a worker process: Vast's names and ours side by side, so that the public PyWorker runs as a
    template unchanged. `python` is the interpreter that "python" in a template means; its folder leads PATH.
    """
    identity = _identity(
        saved, directory=directory, bundle_path=bundle_path, control_url=control_url, public_host=public_host, hide_gpus=hide_gpus
    )
    environment = {"PYTHONUNBUFFERED": "1", "USE_SSL": "false", "UNSECURED": "false", **inherited(parent, also)}
    environment["PATH"] = _path_led_by(str(PurePath(python).parent), environment.get("PATH", os.defpath))
    environment |= {name: expand(value, identity) for name, value in saved.template.env.items()}
    return environment | identity


def arguments(saved: Saved, environment: Mapping[str, str], python: str) -> list[str]:
    """The template's command with {NAME} replaced. A leading "python" is the interpreter that runs us, so that what is
    installed beside Corral is there for the worker too.
    """
    argv = [expand(part, environment) for part in saved.template.command]
    if argv and argv[0] in {"python", "python3"}:
        argv[0] = python
    return argv


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Replace {NAME} by the variable of that name; what names no variable stays (JSON in arguments does)."""
    return _REFERENCE.sub(lambda found: environment.get(found[1], found[0]), text)


def _identity(
    saved: Saved, *, directory: str, bundle_path: str, control_url: str, public_host: str, hide_gpus: bool
) -> dict[str, str]:
    port = str(saved.ports.worker)
    number = str(ids.worker_number(saved.worker_id))
    named = {
        # as Vast tells it
        "CONTAINER_ID": number,
        "VAST_CONTAINERLABEL": f"C.{number}",
        "WORKER_PORT": port,
        "WORKER_HTTP_PORT": str(saved.ports.worker + 1),
        f"VAST_TCP_PORT_{port}": port,
        "PUBLIC_IPADDR": public_host,
        "REPORT_ADDR": control_url,
        "MASTER_TOKEN": saved.master_token,
        "GPU_COUNT": str(len(saved.gpus)),
        # as we tell it
        "CORRAL_WORKER_ID": saved.worker_id,
        "CORRAL_ENDPOINT_ID": str(saved.endpoint_id),
        "CORRAL_ENDPOINT": saved.endpoint_name,
        "CORRAL_GROUP_ID": str(saved.group_id),
        "CORRAL_CONTROL_URL": control_url,
        "CORRAL_WORKER_BUNDLE": bundle_path,
        "CORRAL_STATE_DIR": directory,
        "MODEL_PORT": str(saved.ports.model),
    }
    if saved.gpus or hide_gpus:
        # NVML counts by bus position, CUDA by speed unless it is told otherwise.
        named |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, saved.gpus))}
    return named


def _path_led_by(folder: str, path: str) -> str:
    return path if not folder or folder in path.split(os.pathsep) else f"{folder}{os.pathsep}{path}"
