"""Where is the control plane, and with which key? Flag, then environment, then what a local `corral up` left behind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from .datadir import locate
from .errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8080"


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    api_key: str = ""
    url_from: str = ""  #: for people: which of the sources it came from
    key_from: str = ""


def find(
    url: str | None = None,
    api_key: str | None = None,
    *,
    data_dir: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Connection:
    """The local admin key is used only towards the local control plane. Raises ConfigError."""
    local = locate(data_dir, environ)
    running = local.running()
    if url:
        url_from = "given"
    elif data_dir is None and environ.get("CORRAL_URL"):
        url, url_from = environ["CORRAL_URL"], "CORRAL_URL"
    elif running is not None:
        url, url_from = running.url, str(local.run_json)
    else:
        raise ConfigError(
            f"no control plane is known: no CORRAL_URL, and none runs in {local.root}",
            "start one with `corral up`, or pass --url URL (or set CORRAL_URL) for one that runs elsewhere",
        )
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ConfigError(f"not an address of a control plane: {url!r}", f"it looks like {DEFAULT_URL}")
    if api_key:
        key_from = "given"
    elif data_dir is None and environ.get("CORRAL_API_KEY"):
        api_key, key_from = environ["CORRAL_API_KEY"], "CORRAL_API_KEY"
    elif running is not None and url.rstrip("/") == running.url:
        api_key, key_from = _read_key(local.admin_key), str(local.admin_key)
    else:
        api_key, key_from = "", "nowhere"
    return Connection(url=url.rstrip("/"), api_key=api_key, url_from=url_from, key_from=key_from)


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
