"""Reaching the MLflow server or database that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from factory.core.environment import default_environment
from factory.core.home import Home
from factory.core.proxies import used_proxy
from factory.core.uris import redact
from osasis.errors import UserError

# MLflow's own settings try a server for four minutes, and a database for longer.
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
PORT_SECONDS = 10.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


@contextlib.contextmanager
def opening(home: Home) -> Iterator[None]:
    """Open a home's registry inside; raises UserError within half a minute where none answers."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if home.tracking_uri == home.own_tracking_uri:
        yield
        return
    _check_reachable(home.tracking_uri)
    try:
        with default_environment(QUICK):
            yield
    except (MlflowException, SQLAlchemyError) as e:
        raise UserError(f"{_named(home.tracking_uri)}: {_problem(e, home.tracking_uri)}") from e


def _named(uri: str) -> str:
    return f"MLFLOW_TRACKING_URI is {redact(uri)}"


def _problem(error: Exception, uri: str) -> str:
    text = str(error)
    # MLflow asks a proxy for servers of this machine too.
    if "ProxyError" in text and (proxy := used_proxy(uri, past_loopback=False)):
        host = urlsplit(uri).hostname
        return f"{proxy}, which does not answer; correct it, or add {host} to no_proxy"
    code = getattr(error, "error_code", "")
    if "Max retries exceeded" in text or "timed out" in text:
        reason = "the certificate is not trusted" if "CERTIFICATE" in text else "no MLflow answers"
        return f"{reason} there; start it, or unset MLFLOW_TRACKING_URI"
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED") or "401" in text or "403" in text:
        return (
            "the server refuses access; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    return (
        "no MLflow registry can be opened there; give http(s)://HOST:PORT of an MLflow server, or "
        "unset MLFLOW_TRACKING_URI"
    )


def _check_reachable(uri: str) -> None:
    """Check what MLflow itself would try for minutes: a database's port, sqlite's folder."""
    parts = urlsplit(uri)
    kind = parts.scheme.partition("+")[0]
    try:
        if kind == "sqlite":
            folder = Path(parts.path.removeprefix("/") or ".").absolute().parent
            if not (folder.is_dir() and os.access(folder, os.W_OK)):
                raise OSError(f"{folder} is no folder that this user may write")
        elif kind in PORTS:
            port = parts.port or PORTS[kind]
            socket.create_connection((parts.hostname or "localhost", port), PORT_SECONDS).close()
    except (OSError, ValueError) as e:
        reason = (getattr(e, "strerror", None) or str(e)).lower()
        raise UserError(
            f"{_named(uri)}: no database answers there ({reason}); start it, or unset "
            "MLFLOW_TRACKING_URI"
        ) from None
