"""Ports of this host for servers that a test starts."""

from __future__ import annotations

import os
import socket

__all__ = ["free_port"]

HOST = "127.0.0.1"
RESERVED: dict[int, socket.socket] = {}
"""Port -> what keeps other test processes from it, until this one ends: a socket of an abstract name (unix(7))."""


def free_port() -> int:
    """A loopback port below the ephemeral range, so that nobody takes it while a server is down; each but once."""
    for port in range(20000 + os.getpid() % 5000, 32000):
        if port in RESERVED:
            continue
        mine = socket.socket(socket.AF_UNIX)
        try:
            mine.bind(f"\0posthouse-test-port-{port}")
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind((HOST, port))
        except OSError:
            mine.close()
            continue
        RESERVED[port] = mine
        return port
    raise OSError("no free port")
