"""The address of a Ray cluster: its form, and whether anything that speaks Ray's protocol answers there."""

import os
import re
import socket

from trbert.errors import InputError

PATIENCE_S = 5.0
"""Seconds within which an address must answer."""
_FORM = re.compile(r"(?:ray://)?(?P<host>\[[^\]/]+\]|[^:/\s\[\]]+):(?P<port>\d{1,5})/?")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of HTTP/2 sends first: a fixed text, and an empty frame of settings. Ray speaks HTTP/2."""
_SETTINGS = 4
"""The kind of the first frame that a server of HTTP/2 sends."""


def source_of(address: str) -> str:
    """Returns where the user gave this address: "--address", or "RAY_ADDRESS" in the environment."""
    return "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") == address else "--address"


def remedy(address: str) -> str:
    """Returns what to do about an address at which there is no cluster."""
    own = "unset it" if source_of(address) == "RAY_ADDRESS" else "leave it out"
    return f"give the address of a running cluster, such as 10.0.0.1:6379, or {own} to search on this machine"


def check_form(address: str) -> None:
    """Checks that an address is "auto" or has a host and a port.

    Raises:
        InputError: It has another form, such as that of the server for `ray job submit`.
    """
    name = source_of(address)
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"{name} {address} must be of a running Ray cluster, and is that of a job server, for `ray job submit`: "
            f"{remedy(address)}"
        )
    if address == "auto":
        environment = os.environ.get("RAY_ADDRESS")
        if environment and environment != "auto":
            check_form(environment)  # Ray then takes the environment's
        return
    match = _FORM.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        raise InputError(
            f"{name} must be 'auto', or a host with a port from 1 to 65535, and is {address!r}: {remedy(address)}"
        )


def check_answer(address: str) -> None:
    """Checks that a server of Ray's protocol answers at an address, within `PATIENCE_S` seconds for each of two steps.

    Ray itself would try for minutes. Nothing is checked if Ray is to find the address by itself, or uses TLS.

    Raises:
        InputError: Nothing answers, or something else does.
    """
    check_form(address)
    match = _FORM.fullmatch(address)
    if match is None:
        return
    host, port = match["host"].strip("[]"), int(match["port"])
    try:
        with socket.create_connection((host, port), timeout=PATIENCE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0") and not _speaks_http2(connection):
                raise InputError(
                    f"{source_of(address)} {address} must be of a running Ray cluster, and what answers there is "
                    f"something else: {remedy(address)}"
                )
    except (OSError, UnicodeError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{source_of(address)} {address} must be of a running Ray cluster, and nothing answers there ({reason}): "
            f"{remedy(address)}"
        ) from error


def _speaks_http2(connection: socket.socket) -> bool:
    """Returns whether the first frame from the other side is one of settings."""
    found = b""
    try:
        connection.sendall(_PREFACE)
        while len(found) < 4 and (more := connection.recv(4 - len(found))):
            found += more
    except OSError:
        return False
    return len(found) == 4 and found[3] == _SETTINGS
