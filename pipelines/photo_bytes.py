"""Reads the bytes of a corpus' photos; decodes no image."""

from __future__ import annotations

import pyarrow as pa

from factory.core.fsspec_systems import PACKAGES
from factory.core.object_store import StoreError
from factory.core.stores import object_at
from factory.core.uris import URI, file_system, first_line, is_local_uri, local_path, redact
from osasis.errors import ImageError, UserError
from osasis.images.decoding import read_image_file

MAX_BYTES = 512 * 1024 * 1024


def is_refusal(error: Exception, location: str) -> bool:
    """Whether an error may be that of a store which refuses all files."""
    other = isinstance(error, FileNotFoundError) or not isinstance(error, OSError)
    return is_in_store(location) and not other


def is_in_store(location: str) -> bool:
    """Whether a location is in an object store, which one account opens or refuses as a whole."""
    return location.partition("://")[0].lower() in PACKAGES and "://" in location


def read_photo(location: str, limit: int = MAX_BYTES + 1) -> bytes:
    """The bytes of an image file at a path or URI.

    limit: read no more bytes. Raises ImageError, and StoreError where an object store refuses or
    does not answer.
    """
    if is_local_uri(location):
        try:
            return read_image_file(local_path(location), MAX_BYTES)
        except ImageError as error:
            raise ImageError(location, error.reason) from None
        except UserError as error:
            raise ImageError(location, str(error)) from None
    if not URI.match(location):
        return read_image_file(location, MAX_BYTES)
    try:
        if (found := object_at(location)) is not None:
            store, name = found
            data = store.read(name, limit)
        else:
            fs, path = file_system(location)
            with fs.open_input_file(path) as file:
                data = file.read(limit)
    except FileNotFoundError:
        raise ImageError(location, "no such file") from None
    except StoreError:
        raise
    except UserError as error:
        raise ImageError(location, getattr(error, "reason", str(error))) from None
    except (OSError, pa.ArrowException, UnicodeError) as error:
        if is_refusal(error, location):
            raise StoreError(f"{redact(location)}: cannot read ({first_line(error)})") from None
        raise ImageError(location, first_line(error)) from None
    if len(data) > MAX_BYTES:
        raise ImageError(location, f"more than the {MAX_BYTES:,} bytes that are allowed")
    return bytes(data)


def row_photo(found: bytes | str | None, reason: str = "the row holds no image (null)") -> bytes:
    """The bytes of a row that ``read_group`` has found. Raises as ``read_photo``."""
    if found is None:
        raise ImageError("image", reason)
    if isinstance(found, bytes):
        return found
    try:
        return read_photo(found)
    except ImageError as e:
        raise ImageError(
            "image", f"the row has no bytes, only the path {found}: {e.reason}"
        ) from None
