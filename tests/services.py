"""Servers of other programs for tests: PostgreSQL, MLflow on a database, and any that listens."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from factory.core.ports import free_port

START_SECONDS = 180


def start_server(command: list[str], port: int) -> None:
    """Start a program that listens on a port, until this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="server-")
    atexit.register(folder.cleanup)
    with (Path(folder.name) / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder.name, stdout=log, stderr=log)
    atexit.register(process.kill)
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, (Path(folder.name) / "log.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def mlflow_server(folder: Path, database: str | None = None) -> Iterator[str]:
    """The address of a server that keeps artifacts below ``folder``. database: default: sqlite."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--backend-store-uri", database or f"sqlite:///{folder / 'server.db'}"),
                *("--artifacts-destination", str(folder / "artifacts")),
            ],
            cwd=folder,
            env=clean,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.3)
        yield address
    finally:
        # The process group includes its workers; a busy worker takes minutes to stop by itself.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URI of a database of a PostgreSQL server whose files are in ``folder``."""
    pytest.importorskip("psycopg2", reason="needs the extra postgres")
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (initdb and postgres)")
    folder.mkdir(parents=True)
    user = _database_user(folder)
    run = {"user": user, "cwd": folder, "check": True, "capture_output": True}
    data, port = folder / "data", free_port()
    subprocess.run([programs / "initdb", "-D", data, "-U", "factory", "-A", "trust"], **run)
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"],
            user=user, cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        uri = f"postgresql+psycopg2://factory@127.0.0.1:{port}/postgres"
        _await_database(uri, server, folder / "log.txt")
        yield uri
    finally:
        server.send_signal(signal.SIGINT)  # ends the connections
        server.wait(60)


def _await_database(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg2

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg2.connect(uri.replace("+psycopg2", "")).close()
            return
        except psycopg2.OperationalError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def _postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs; Debian does not put them on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(on_path).parent if on_path else None


def _database_user(folder: Path) -> str | None:
    """PostgreSQL refuses to run as root; it then runs as the user whom its package makes."""
    if os.getuid() != 0:
        return None
    try:
        name = pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    shutil.chown(folder, name)
    for parent in folder.parents:  # the user reaches its folder
        if parent.stat().st_uid == os.getuid() and str(parent) != "/":
            parent.chmod(parent.stat().st_mode | 0o011)
    return name
