"""TCP ports of this machine."""

from __future__ import annotations

import random
import socket

# Below Linux's ephemeral ports (32768) and above those of Ray's workers (19999): no process gets
# one of these between the choice and the server's start unless it asks for that very port.
FIRST, LAST = 20_000, 32_000
ATTEMPTS = 100


def free_port() -> int:
    """A port of 127.0.0.1 that no process uses. Raises OSError if none is found."""
    for _ in range(ATTEMPTS):
        port = random.SystemRandom().randint(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"none of {ATTEMPTS} ports tried between {FIRST} and {LAST} is free")
