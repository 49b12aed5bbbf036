"""Ports for servers that a test starts later."""

import socket
from random import SystemRandom
from typing import Final

_PORTS: Final = range(20_000, 32_000)
"""Below those that the system gives to whoever asks for any. Another test would get one of them before its use."""


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free, and that nothing else is likely to take."""
    for port in SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no port of {_PORTS} is free")
