"""Ports: is this one free, and who has it?"""

from __future__ import annotations

import errno
import ipaddress
import socket

import psutil

from corral.errors import StartError


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_free(host: str, port: int) -> bool:
    """Raises StartError when the host is no address of this machine."""
    with socket.socket(family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise StartError(
                f"cannot listen on {host}: {error.strerror}", "give an address of this machine with --host"
            ) from error
    return True


def free(host: str) -> int:
    """A port that was free a moment ago. Raises StartError as is_free."""
    with socket.socket(family(host), socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise StartError(
                f"cannot listen on {host}: {error.strerror}", "give an address of this machine with --host"
            ) from error
        port: int = probe.getsockname()[1]
        return port


def holder(port: int) -> str:
    """Who listens there, as far as this user may see."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        pass  # another user's process: nothing to tell, and nothing depends on it
    return "another process"


def require(host: str, port: int, flag: str) -> None:
    """Raises StartError that names the holder and the flag."""
    if not is_free(host, port):
        raise StartError(
            f"port {port} on {host} is taken by {holder(port)}", f"stop it, or choose another port with {flag} (0: any free one)"
        )
