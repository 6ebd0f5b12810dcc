"""Access to files by path or URI.

pyarrow opens the schemes ``s3``, ``gs``, ``abfs``, ``hdfs`` and ``file`` without further packages;
fsspec opens all others, including chained URIs (``zip://a::file://b``).
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs

from osasis.errors import UserError

URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Limit on the size of a downloaded image.
MAX_BYTES = 512 * 1024 * 1024


def is_uri(location: str) -> bool:
    """Whether a location is a URI rather than a local path."""
    return URI.match(location) is not None


def locate(location: str, folder: Path) -> str:
    """Resolve a location against ``folder``; returns a local path or a URI."""
    if location.startswith("file://"):
        return unquote(urlsplit(location).path)
    if is_uri(location):
        return location
    return str(folder / Path(location).expanduser())


def base_name(location: str) -> str:
    """The last part of a path or URI."""
    return Path(unquote(urlsplit(location).path) if is_uri(location) else location).name


def read_bytes(location: str) -> bytes:
    """Read a file by path or URI.

    Raises UserError where the file cannot be read or has more than ``MAX_BYTES``.
    """
    shown = redact(location)
    try:
        if not is_uri(location) or location.startswith("file://"):
            with Path(locate(location, Path())).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        else:
            system, path = file_system(location)
            with system.open_input_stream(path) as stream:
                data = stream.read(MAX_BYTES + 1)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{shown}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{shown}: is a folder, not a file") from None
    except Exception as e:  # each file system raises its own errors
        reason = getattr(e, "strerror", None) or f"{type(e).__name__}: {first_line(e)}"
        raise UserError(f"{shown}: cannot be read ({reason})") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{shown}: more than {MAX_BYTES >> 20} MiB; the limit of an image")
    return bytes(data)


def copy_images(uri: str, folder: Path) -> Path:
    """Copy every image below a URI into a folder, numbered in sorted order; returns the folder.

    Skips files that are in the folder already. The folder of a ``file://`` URI is returned as it
    is. Raises UserError.
    """
    if uri.startswith("file://"):
        return Path(locate(uri, Path()))
    import fsspec

    from osasis.images.decoding import IMAGE_SUFFIXES
    from osasis.storage import write_atomic

    try:
        system, path = fsspec.core.url_to_fs(uri)
        found = sorted(p for p in system.find(path) if Path(p).suffix.lower() in IMAGE_SUFFIXES)
    except Exception as e:  # each file system raises its own errors
        raise UserError(f"{uri}: cannot be listed ({type(e).__name__}: {e})") from None
    if not found:
        raise UserError(f"{uri}: contains no images")
    for number, name in enumerate(found):
        target = folder / f"{number:08}{Path(name).suffix.lower()}"
        if not target.is_file():
            write_atomic(target, read_bytes(system.unstrip_protocol(name)))
    return folder


def file_system(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system of a URI, and the path in that file system.

    Raises UserError where the scheme is unknown or the file system cannot be opened.
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
    """pyarrow's file system and path for scheme://authority/?query; None for other schemes.

    Cached, because pyarrow queries a bucket's region over the network.
    """
    try:
        fs, path = pa.fs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return fs, str(path)


def _split(uri: str) -> tuple[str, str]:
    """Split off a URI's query (``?region=...``) or chained URIs (``zip://a::file://b``)."""
    at = min((i for i in (uri.find("::"), uri.find("?")) if i >= 0), default=len(uri))
    return uri[:at], uri[at:]


def join_uri(uri: str, name: str) -> str:
    """The URI of the file ``name`` in the folder at ``uri``."""
    head, rest = _split(uri)
    native = not isinstance(file_system(uri)[0], pa.fs.PyFileSystem)
    return f"{head.rstrip('/')}/{quote(os.fsencode(name)) if native else name}{rest}"


def sibling_uri(uri: str, name: str) -> str:
    """The URI of the file ``name`` in the folder of the file at ``uri``."""
    head, rest = _split(uri)
    return join_uri(head[: head.rfind("/")] + rest, name)


def redact(location: str) -> str:
    """A location without the parts of a URI that may hold credentials: user and query."""
    if not is_uri(location):
        return location
    head = _split(location)[0]
    scheme, _, rest = head.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
