"""A server of each kind of object store, by the scheme of its URIs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.azure_server import azure_server
from tests.gcs_server import gcs_server
from tests.s3_server import BUCKET, s3_server

SERVERS = {"s3": s3_server, "gs": gcs_server, "abfs": azure_server}


@contextmanager
def store_server(scheme: str) -> Iterator[str]:
    """The URI of a bucket, which this process and its children find by environment."""
    with pytest.MonkeyPatch.context() as patch, SERVERS[scheme](patch):
        yield f"{scheme}://{BUCKET}"
