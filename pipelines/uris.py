"""URIs of inputs: pyarrow's own file systems, else fsspec's."""

from __future__ import annotations

import functools
import os
import re
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs

from osasis.errors import UserError

URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_uri(place: str) -> bool:
    return URI.match(place) is not None


def file_system(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system of a URI and the path in it.

    Raises UserError where nobody knows the scheme or the place cannot be opened.
    """
    head, query = _split(uri)
    scheme, _, rest = head.partition("://")
    authority, _, path = rest.partition("/")
    try:
        native = _native(f"{scheme}://{authority}/{query}")
    except OSError as error:
        raise UserError(f"{uri}: {first_line(error)}") from None
    if native is not None:
        fs, root = native
        return fs, f"{root.rstrip('/')}/{unquote(path)}".rstrip("/") or "/"
    try:
        import fsspec

        opened, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise UserError(f"{uri}: this scheme needs another package ({error})") from None
    except ValueError as error:
        raise UserError(f"{uri}: {first_line(error)}") from None
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(opened)), str(path)


@functools.lru_cache(maxsize=64)
def _native(root: str) -> tuple[pa.fs.FileSystem, str] | None:
    """pyarrow's file system at scheme://authority/?query and the path there; None where pyarrow
    has none. Kept, for a bucket's region is asked for over the network."""
    try:
        fs, path = pa.fs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return fs, str(path)


def _split(uri: str) -> tuple[str, str]:
    """A URI without and with nothing but its query (of options such as a region) or, for fsspec,
    the links of its chain (zip://inside::file://outside)."""
    at = min((i for i in (uri.find("::"), uri.find("?")) if i >= 0), default=len(uri))
    return uri[:at], uri[at:]


def below(uri: str, name: str) -> str:
    """The URI of a file by its name below another URI."""
    head, rest = _split(uri)
    native = not isinstance(file_system(uri)[0], pa.fs.PyFileSystem)
    return f"{head.rstrip('/')}/{quote(os.fsencode(name)) if native else name}{rest}"


def beside(uri: str, name: str) -> str:
    """The URI that a relative URI means in a file that is itself at a URI."""
    head, rest = _split(uri)
    return below(head[: head.rfind("/")] + rest, name)


def relative(path: str, root: str) -> str:
    """A path of a file system as seen from a folder of it; slashes before them say nothing."""
    return os.path.relpath(path.lstrip("/"), root.strip("/") or ".")


def public(place: str) -> str:
    """A place without what may hold keys: a URI's user and query."""
    if not is_uri(place):
        return place
    head = _split(place)[0]
    scheme, _, rest = head.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
