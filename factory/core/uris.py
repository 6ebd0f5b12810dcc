"""Access to files by path or URI.

pyarrow opens the schemes ``s3``, ``gs``, ``abfs``, ``hdfs`` and ``file`` without further packages.
fsspec opens all others, including chained URIs (``zip://a::file://b``), and ``gs`` and ``abfs``
where their packages are installed: a store is then read with the credentials that write to it.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa
import pyarrow.fs

from factory.core.endpoints import check_endpoint
from factory.core.fsspec_systems import StoreFiles, can_open, open_bucket
from osasis.errors import UserError
from osasis.images.kinds import HEAD_BYTES

URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_LOCAL = re.compile(r"(file|local)://", re.IGNORECASE)
# The query of a URI, or the further links of a chain; "::" without a scheme belongs to the name.
_REST = re.compile(r"\?|::(?=([a-z][a-z0-9+-]*::)*[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
# Limit on the size of a downloaded image.
MAX_BYTES = 512 * 1024 * 1024
# Schemes that the packages of their extras open rather than pyarrow.
BY_PACKAGE = ("gs", "abfs")
# Schemes of pyarrow whose URIs may have options.
NATIVE = ("s3", "gs", "abfs", "hdfs")
QUERY_HINT = "; ? begins the options of a URI: where it is part of a name, write %3F"


def is_uri(location: str) -> bool:
    """Whether a location is a URI rather than a local path."""
    return URI.match(location) is not None


def locate(location: str, folder: Path) -> str:
    """Resolve a location against ``folder``; returns a local path or a URI."""
    if is_local_uri(location) and _host(location) in ("", "localhost"):
        return local_path(location)
    if is_uri(location):
        return location
    return str(folder / Path(location).expanduser())


def is_local_uri(location: str) -> bool:
    """Whether a location is a ``file://`` URI, or fsspec's ``local://``."""
    return _LOCAL.match(location) is not None


def local_path(uri: str) -> str:
    """The path of a ``file://`` URI.

    Such a URI has no query, fragment or chain, so ``?``, ``#`` and ``::`` belong to the name.
    Percent escapes are decoded, unless only a file with the name as written exists.
    """
    host = _host(uri)
    if host not in ("", "localhost"):
        raise UserError(
            f"{uri}: {host!r} is read as a host; write an absolute path: file:///FOLDER/FILE"
        )
    written = uri.partition("://")[2][len(host) :] or "/"
    decoded = _unescaped(written)
    if decoded != written and os.path.lexists(written) and not os.path.lexists(decoded):
        return written
    return decoded


def _host(uri: str) -> str:
    return uri.partition("://")[2].partition("/")[0]


def _unescaped(path: str) -> str:
    """A path with its percent escapes decoded; file names need not be UTF-8."""
    return os.fsdecode(unquote_to_bytes(os.fsencode(path)))


def base_name(location: str) -> str:
    """The last part of a path or URI."""
    return Path(_unescaped(_split(location)[0]) if is_uri(location) else location).name


def read_bytes(location: str) -> bytes:
    """Read a file by path or URI.

    Raises UserError where the file cannot be read or has more than ``MAX_BYTES``.
    """
    shown = redact(location)
    try:
        if not is_uri(location) or is_local_uri(location):
            path = local_path(location) if is_uri(location) else location
            with Path(path).expanduser().open("rb") as file:
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
    return _checked(bytes(data), shown)


def copy_images(uri: str, folder: Path) -> Path:
    """Copy every image below a URI into a folder, numbered in sorted order; returns the folder.

    Skips hidden files, system folders, and files that are in the folder already. The folder of a
    ``file://`` URI is returned as it is. Raises UserError.
    """
    if is_local_uri(uri):
        return Path(local_path(uri))
    from osasis.images.listing import suffix_of
    from osasis.storage import write_atomic

    system, _, found = _find_images(uri)
    for number, name in enumerate(found):
        target = folder / f"{number:08}{suffix_of(name)}"
        if not target.is_file():
            try:
                data = _read(system, name, MAX_BYTES + 1)
            except OSError as e:
                raise UserError(f"{redact(uri)}: {name} cannot be read ({first_line(e)})") from None
            write_atomic(target, _checked(data, name))
    return folder


def list_images(uri: str) -> list[str]:
    """The URIs of all images below a URI, sorted. Skips and raises as ``copy_images``."""
    _, root, found = _find_images(uri)
    return [uri if name == root else join_uri(uri, relative(name, root)) for name in found]


def _find_images(uri: str) -> tuple[Any, str, list[str]]:
    """fsspec's file system of a URI, the path in it, and the paths of the images below it."""
    from osasis.images.listing import images_among, no_image, skipped_part

    check_no_password(uri)
    left_out: Counter[str] = Counter()
    try:
        system, path = _fsspec_system(uri)
        listed = sorted(system.find(path))
        root = path.rpartition("/")[0] if listed == [path] else path  # of a file, its folder
        names = {name: skipped_part(relative(name, root)) for name in listed}
        left_out.update(part for part in names.values() if part is not None)
        files = [name for name, part in names.items() if part is None]
        found = images_among(files, left_out, lambda name: _read(system, name, HEAD_BYTES))
    except UserError:
        raise
    except Exception as e:  # each file system raises its own errors
        shown = redact(uri)
        # A package may quote the options of a URI, which can hold credentials.
        reason = f": {first_line(e)}" if shown == uri else ""
        raise UserError(f"{shown}: cannot be listed ({type(e).__name__}{reason})") from None
    if not found:
        raise UserError(f"{redact(uri)}: contains no images{no_image(left_out)}")
    return system, path, found


def _read(system: Any, name: str, limit: int) -> bytes:
    """The first bytes of a file of an fsspec file system. Raises OSError."""
    try:
        with system.open(name, "rb") as file:
            return bytes(file.read(limit))
    except Exception as e:  # each file system raises its own errors
        raise OSError(first_line(e)) from None


def _checked(data: bytes, shown: str) -> bytes:
    """The bytes of a file, if they are not too many. Raises UserError."""
    if len(data) > MAX_BYTES:
        raise UserError(f"{shown}: more than {MAX_BYTES >> 20} MiB; the limit of an image")
    return data


def file_system(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system of a URI, and the path in that file system.

    Raises UserError where the scheme is unknown or the file system cannot be opened.
    """
    if is_local_uri(uri):
        return pa.fs.LocalFileSystem(), local_path(uri).rstrip("/") or "/"
    head, query = _split(uri)
    scheme, _, rest = head.partition("://")
    authority, _, path = rest.partition("/")
    if "endpoint_override=" not in query:
        check_endpoint(scheme)
    if scheme in BY_PACKAGE and can_open(scheme) and not query:
        try:
            opened, path = _fsspec_system(uri)
        except Exception as error:  # each package raises its own errors
            raise UserError(f"{redact(uri)}: {first_line(error)}") from None
        return pa.fs.PyFileSystem(StoreFiles(opened)), path
    try:
        native = _native(f"{scheme}://{authority}/{query}")
    except pa.ArrowInvalid as error:
        raise UserError(f"{redact(uri)}: {first_line(error)}{QUERY_HINT}") from None
    except OSError as error:
        raise UserError(f"{redact(uri)}: {first_line(error)}") from None
    if native is not None:
        fs, root = native
        return fs, f"{root.rstrip('/')}/{_unescaped(path)}".rstrip("/") or "/"
    try:
        import fsspec

        if "::" in head:  # part of a name, which fsspec reads as a chain
            opened, root = fsspec.core.url_to_fs(f"{scheme}://{authority}/{query}")
            path = f"{root.rstrip('/')}/{path}"
        else:
            opened, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise UserError(f"{redact(uri)}: this scheme needs another package ({error})") from None
    except ValueError as error:
        raise UserError(f"{redact(uri)}: {first_line(error)}") from None
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(opened)), str(path)


def _fsspec_system(uri: str) -> tuple[Any, str]:
    """fsspec's file system of a URI, and the path there."""
    import fsspec
    from fsspec.implementations.arrow import ArrowFSWrapper

    head, query = _split(uri)
    scheme, _, rest = head.partition("://")
    if query.startswith("?") and scheme.lower() in NATIVE:
        native, path = file_system(uri)
        return ArrowFSWrapper(native), path
    if query or not can_open(scheme):
        system, path = fsspec.core.url_to_fs(uri)
        return system, str(path)
    bucket, _, path = rest.partition("/")
    system, root = open_bucket(f"{scheme}://{bucket}")
    return system, f"{root}/{_unescaped(path)}".rstrip("/")


@functools.lru_cache(maxsize=64)
def _native(root: str) -> tuple[pa.fs.FileSystem, str] | None:
    """pyarrow's file system and path for scheme://authority/?query; None for other schemes.

    Raises ArrowInvalid for a query with an unknown option.
    Cached, because pyarrow queries a bucket's region over the network.
    """
    try:
        fs, path = pa.fs.FileSystem.from_uri(root)
    except pa.ArrowNotImplementedError:
        return None
    except pa.ArrowInvalid:
        if root.partition("://")[0].lower() in NATIVE and "?" in root:
            raise
        return None
    return fs, str(path)


def _split(uri: str) -> tuple[str, str]:
    """Split off a URI's query (``?region=...``) or chained URIs (``zip://a::file://b``)."""
    found = None if is_local_uri(uri) else _REST.search(uri)
    at = found.start() if found else len(uri)
    return uri[:at], uri[at:]


def join_uri(uri: str, name: str) -> str:
    """The URI of the file ``name`` in the folder at ``uri``."""
    if is_local_uri(uri):
        folder = local_path(uri)
        if _unescaped(uri).endswith(folder):
            return f"{uri.rstrip('/')}/{quote(os.fsencode(name))}"
        return "file://" + quote(os.fsencode(os.path.join(folder, name)))  # noqa: PTH118
    head, rest = _split(uri)
    system = file_system(uri)[0]
    escaped = not isinstance(system, pa.fs.PyFileSystem) or isinstance(system.handler, StoreFiles)
    folder = head if head.endswith("://") else head.rstrip("/") + "/"  # zip://::file://a.zip
    return f"{folder}{quote(os.fsencode(name)) if escaped else name}{rest}"


def sibling_uri(uri: str, name: str) -> str:
    """The URI of the file ``name`` in the folder of the file at ``uri``."""
    head, rest = _split(uri)
    return join_uri(head[: head.rfind("/")] + rest, name)


def relative(path: str, root: str) -> str:
    """A path of a file system relative to a folder; some file systems begin paths with a slash.

    Names of objects may have empty parts and parts ".", which are kept.
    """
    path, root = path.lstrip("/"), root.strip("/")
    if path.startswith(f"{root}/"):
        return path.removeprefix(f"{root}/")
    return path if not root else os.path.relpath(path, root)


def redact(location: str) -> str:
    """A location without the parts of a URI that may hold credentials: user and query."""
    if not is_uri(location):
        return location
    head = _split(location)[0]
    scheme, _, rest = head.partition("://")
    authority, slash, path = rest.partition("/")
    user, _, host = authority.rpartition("@")
    if scheme.lower() == "abfs" and user and ":" not in user:  # CONTAINER@ACCOUNT.HOST
        return head
    return f"{scheme}://{host}{slash}{path}"


def check_no_password(location: str) -> None:
    """Raise UserError for a URI that holds a password: corpora store the locations of photos."""
    user, at, _ = location.partition("://")[2].partition("/")[0].rpartition("@")
    if is_uri(location) and not is_local_uri(location) and at and ":" in user:
        raise UserError(
            f"{redact(location)}: the URI holds a password; set credentials in the environment "
            "(for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
