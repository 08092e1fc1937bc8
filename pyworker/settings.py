"""What the provisioner (or the person who brings a machine) tells the worker through its environment."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from pathlib import Path

import msgspec

from .errors import SettingsError
from .wire import signals

TOKEN_PREFIX = "corral1."  # noqa: S105 -- marks a token, is none
#: All addresses of a machine -> one of them.
_OWN = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- what it may be told to listen on
_ENROLL = "`corral worker enroll ENDPOINT GROUP` on the control plane prints a token for CORRAL_WORKER_TOKEN"


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Read once at the start."""

    bundle: signals.WorkerBundle
    bundle_path: Path | None = None  #: read again when credentials run out; None: came as a token
    host: str = "127.0.0.1"  #: address to listen on
    port: int = 0  #: to listen on; 0: a free one
    public_host: str = "127.0.0.1"
    public_port: int = 0  #: what clients use; 0: the port listened on
    model_port: int | None = None
    state_dir: Path = Path()
    max_body_bytes: int = 64 * 1024 * 1024  #: of one request in envelope form; bearer form streams and has no limit
    max_buffered_bytes: int = 256 * 1024 * 1024  #: of all requests in envelope form together
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __repr__(self) -> str:
        """Without the bundle, which holds secrets."""
        return f"WorkerSettings(worker_id={self.bundle.worker_id!r}, host={self.host!r}, port={self.port})"

    def url(self, port: int) -> str:
        """Where clients reach a worker that listens on this port."""
        return self._at(self.public_host, self.public_port or port)

    def own_url(self, address: str, port: int) -> str:
        """Where this machine itself reaches a worker that listens on this address and port."""
        return self._at(_OWN.get(address, address), port)

    def _at(self, host: str, port: int) -> str:
        scheme = "https" if self.tls_cert else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def load(environ: Mapping[str, str]) -> WorkerSettings:
    """Raises SettingsError that names the variable and the next step."""
    bundle, path = _bundle(environ)
    port = _port(environ, "WORKER_PORT", 0)
    host = environ.get("PYWORKER_HOST") or "127.0.0.1"
    public_host = environ.get("PUBLIC_IPADDR", "").strip()
    if not public_host:
        if not _is_loopback(host):
            raise SettingsError(
                f"PUBLIC_IPADDR is missing, and the worker listens on {host}: clients could not be told where it is",
                "set PUBLIC_IPADDR to the address or name under which clients reach this machine",
            )
        public_host = host
    cert, key = environ.get("PYWORKER_TLS_CERT"), environ.get("PYWORKER_TLS_KEY")
    if bool(cert) != bool(key):
        raise SettingsError("PYWORKER_TLS_CERT and PYWORKER_TLS_KEY belong together", "set both to PEM files, or neither")
    return WorkerSettings(
        bundle=bundle,
        bundle_path=path,
        host=host,
        port=port,
        public_host=public_host,
        public_port=_port(environ, f"VAST_TCP_PORT_{port}", 0),
        model_port=_port(environ, "MODEL_PORT", 0) or None,
        state_dir=Path(environ.get("CORRAL_STATE_DIR") or ".corral-worker"),
        max_body_bytes=_number(environ, "PYWORKER_MAX_BODY_BYTES", 64 * 1024 * 1024),
        max_buffered_bytes=_number(environ, "PYWORKER_MAX_BUFFERED_BYTES", 256 * 1024 * 1024),
        tls_cert=Path(cert) if cert else None,
        tls_key=Path(key) if key else None,
    )


def read_bundle(path: Path) -> signals.WorkerBundle:
    """Raises SettingsError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=signals.WorkerBundle)
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"CORRAL_WORKER_BUNDLE names {path}, which cannot be read: {error}", "it is written by the provisioner; " + _ENROLL
        ) from error


def _bundle(environ: Mapping[str, str]) -> tuple[signals.WorkerBundle, Path | None]:
    if name := environ.get("CORRAL_WORKER_BUNDLE"):
        return read_bundle(Path(name)), Path(name)
    token = environ.get("CORRAL_WORKER_TOKEN", "").strip()
    if not token:
        raise SettingsError(
            "neither CORRAL_WORKER_BUNDLE nor CORRAL_WORKER_TOKEN is set: the worker does not know who it is", _ENROLL
        )
    if not token.startswith(TOKEN_PREFIX):
        raise SettingsError(f"CORRAL_WORKER_TOKEN does not start with {TOKEN_PREFIX!r}", "copy the whole token; " + _ENROLL)
    body = token.removeprefix(TOKEN_PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=signals.WorkerBundle), None
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        # The reason alone: the token is a secret, and so are the pieces that a decoder may quote.
        raise SettingsError(
            f"CORRAL_WORKER_TOKEN cannot be read ({type(error).__name__})", "copy the whole token; " + _ENROLL
        ) from None


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise SettingsError(f"{name} is {text!r}, which is not a whole number", f"correct {name} or leave it unset for {default}")
    return int(text)


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    port = _number(environ, name, default)
    if port > 65535:
        raise SettingsError(f"{name} is {port}, which is no port", f"set {name} to a number from 1 to 65535, or leave it unset")
    return port


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
