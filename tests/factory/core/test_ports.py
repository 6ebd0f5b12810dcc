"""Free TCP ports."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from factory.core import ports


def test_the_port_can_be_bound() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", ports.free_port()))


def test_no_process_gets_the_port_unasked() -> None:
    path = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not path.exists():
        pytest.skip(f"{path} does not exist: this is not Linux")
    first = int(path.read_text().split()[0])
    assert all(ports.free_port() < first for _ in range(50))


def test_used_ports_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    used = ports.free_port()
    monkeypatch.setattr(ports, "FIRST", used)
    monkeypatch.setattr(ports, "LAST", used)
    with socket.socket() as server:
        server.bind(("127.0.0.1", used))
        server.listen()
        with pytest.raises(OSError, match=f"between {used} and {used}"):
            ports.free_port()
