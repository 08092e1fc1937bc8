"""The certificate that Vast's client fetches before its first request, even if nothing it will call uses TLS: the root that workers'
certificates chain to. It must be PEM and hold a certificate, or the client goes no further.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runtime.errors import SettingsError

_LIFE = dt.timedelta(days=3650)


def root_pem(path: str, now: float) -> bytes:
    """The file of `path`; without one, a root that vouches for nobody. `now` is unix s.

    Raises SettingsError when the file is not there or holds no certificate.
    """
    if not path:
        return _root_of_nobody(now)
    file = Path(path).expanduser()
    try:
        pem = file.read_bytes()
        x509.load_pem_x509_certificates(pem)
    except OSError as error:
        raise SettingsError(
            f"ROUTER_WORKER_CA {file} cannot be read: {error.strerror}", "name a PEM file, or leave it empty"
        ) from error
    except ValueError as error:
        raise SettingsError(
            f"ROUTER_WORKER_CA {file} holds no certificate in PEM", "it begins with -----BEGIN CERTIFICATE-----"
        ) from error
    return pem


def _root_of_nobody(now: float) -> bytes:
    """Its key is forgotten as soon as it has signed itself: a client that trusts it trusts nobody more than before."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Corral: no workers' CA (see ROUTER_WORKER_CA)")])
    since = dt.datetime.fromtimestamp(now, dt.UTC) - dt.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(since + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
