"""Ports of the local stack: the usual ones when they are free, others when they are taken. Loopback only."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from schemas.errors import UnavailableError

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server can listen on this port of the loopback address now."""
    try:
        _bound(port).close()
    except OSError:
        return False
    return True


def choose(preferred: Sequence[int | None]) -> list[int]:
    """One free port per entry, all different: the preferred one if nothing listens there, else one the system picks.

    The ports are held together while choosing and released at the end, so another program can still be faster; who
    then fails to listen starts again with new ports.

    Raises: UnavailableError: the system has no free port left.
    """
    with contextlib.ExitStack() as held:
        ports = []
        for port in preferred:
            try:
                sock = _bound(port or 0)
            except OSError:
                try:
                    sock = _bound(0)
                except OSError as cause:
                    raise UnavailableError("no free port on the loopback address", fix="close some programs") from cause
            held.enter_context(contextlib.closing(sock))
            ports.append(int(sock.getsockname()[1]))
        return ports


def _bound(port: int) -> socket.socket:
    """A socket that listens on `port` (0: any); only listening finds out a server that set SO_REUSEADDR."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As the JVM does: a port whose last connections are in TIME_WAIT is free.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
        sock.listen(1)
    except OSError:
        sock.close()
        raise
    return sock
