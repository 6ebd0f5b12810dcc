"""Files by path or URI: anything that pyarrow or fsspec can open."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from osasis.errors import UserError

SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
# File systems that pyarrow has built in, so that they need no package of their own.
ARROW_SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
# A picture larger than this is no picture; what a server sends has no other limit.
MAX_BYTES = 512 * 1024 * 1024


def is_uri(location: str) -> bool:
    """Whether a location names a file system rather than a path of this machine."""
    return SCHEME.match(location) is not None


def locate(location: str, folder: Path) -> str:
    """A location as written in a file of ``folder``: relative paths count from that folder."""
    if location.startswith("file://"):
        return unquote(urlsplit(location).path)
    if is_uri(location):
        return location
    return str(folder / Path(location).expanduser())


def base_name(location: str) -> str:
    """The last part of a path or URI."""
    return Path(unquote(urlsplit(location).path) if is_uri(location) else location).name


def read_bytes(location: str) -> bytes:
    """The bytes of a file named by path or URI.

    Raises UserError with one line where it cannot be read, or has more than ``MAX_BYTES``.
    """
    try:
        if not is_uri(location) or location.startswith("file://"):
            return _limited(Path(locate(location, Path())).open("rb"), location)
        if location.split("://")[0].lower() in ARROW_SCHEMES:
            from pyarrow.fs import FileSystem

            system, path = FileSystem.from_uri(location)
            return _limited(system.open_input_stream(path), location)
        import fsspec

        return _limited(fsspec.open(location, "rb").open(), location)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{location}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{location}: is a folder, not a file") from None
    except ImportError as e:
        raise UserError(f"{location}: this kind of URI needs another package ({e})") from None
    except Exception as e:  # every file system has errors of its own
        reason = getattr(e, "strerror", None) or f"{type(e).__name__}: {e}".splitlines()[0]
        raise UserError(f"{location}: cannot be read ({reason[:200]})") from None


def _limited(stream: Any, location: str) -> bytes:
    with stream:
        data: bytes = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{location}: more than {MAX_BYTES >> 20} MiB; that is no style image")
    return data


def copy_pictures(uri: str, folder: Path) -> Path:
    """Copy every picture below a URI into a folder, in its order; returns the folder.

    What was copied before is not read again. Raises UserError.
    """
    if uri.startswith("file://"):
        return Path(locate(uri, Path()))
    import fsspec

    from osasis.images.decoding import IMAGE_SUFFIXES
    from osasis.storage import write_atomic

    try:
        system, path = fsspec.core.url_to_fs(uri)
        found = sorted(p for p in system.find(path) if Path(p).suffix.lower() in IMAGE_SUFFIXES)
    except Exception as e:  # every file system has errors of its own
        raise UserError(f"{uri}: cannot be listed ({type(e).__name__}: {e})") from None
    if not found:
        raise UserError(f"{uri}: no pictures there")
    for number, name in enumerate(found):
        target = folder / f"{number:08}{Path(name).suffix.lower()}"
        if not target.is_file():
            write_atomic(target, read_bytes(system.unstrip_protocol(name)))
    return folder
