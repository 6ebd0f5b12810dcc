"""Images of requests: checks before decoding, decoding, and ids."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from osasis.choices import ImageFormat
from osasis.errors import FitError, UserError
from osasis.images.decoding import (
    FORMATS,
    HEIF_EXTRA,
    load_sized,
    open_header,
    reads_kind,
)
from osasis.images.deep_tiff import DeepTiffReader
from osasis.images.faces import find_faces
from osasis.images.fitting import FittedPhoto, fit_photo
from osasis.images.geometry import Size, SquarePlacement
from osasis.images.kinds import HEAD_BYTES, kind_of
from osasis.images.photo_options import PhotoOptions
from osasis.images.transparency import separate_alpha
from serving.config import Limits
from serving.errors import ApiError

MEDIA: dict[ImageFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
# Formats without a count of frames, which Pillow finds by reading all of them.
SCANNED = ("GIF", "TIFF")
# Phones store a preview, a depth map or a burst beside the photo, which is the first frame.
PHOTO_CONTAINERS = ("JPEG", "HEIC")


def fitted_photo(
    data: bytes,
    field: str,
    square: int,
    options: PhotoOptions,
    keep_alpha: bool,
    limits: Limits,
    masked: bool = False,
) -> FittedPhoto:
    """A client's photo, fitted to squares of ``square`` pixels. Raises ApiError.

    field: of the photo in the request. keep_alpha: whether the answer keeps its transparency.
    masked: of ``fit_photo``.
    """
    check_header(data, field, limits)
    with refused(field):
        found = fit_photo(
            data, square, options, keep_alpha=keep_alpha, masked=masked, name=field,
            max_pixels=limits.pixels,
        )  # fmt: skip
    if len(found.squares) > limits.faces:
        raise ApiError(422, f"{field} has {len(found.squares)} faces", field="fit", value="align",
                       allowed=f"at most {limits.faces} faces, or another fit")  # fmt: skip
    return found


def photo_size(data: bytes, field: str, square: int, limits: Limits) -> Size:
    """Decode a client's photo. Returns its width and height. Raises ApiError."""
    check_header(data, field, limits)
    with refused(field):
        return load_sized(data, name=field, target=square, max_pixels=limits.pixels)[1]


def photo_faces(data: bytes, field: str, limits: Limits) -> tuple[Size, list[SquarePlacement]]:
    """Width and height of a client's photo, and the squares of its faces. Raises ApiError."""
    check_header(data, field, limits)
    with refused(field):
        image, size = load_sized(data, name=field, max_pixels=limits.pixels, alpha=True)
        # As fit ``align`` sees a photo whose transparency is kept.
        return size, find_faces(separate_alpha(image, keep=True)[0])


@contextlib.contextmanager
def refused(field: str) -> Iterator[None]:
    """Convert errors of images to ApiError 422."""
    try:
        yield
    except FitError as e:
        raise ApiError(422, str(e), field=e.option) from None
    except UserError as e:
        raise ApiError(422, str(e), field=field) from None


def check_header(data: bytes, field: str, limits: Limits) -> None:
    """Check format, pixels and frames before decoding. Raises ApiError 413, 415 or 422.

    The first bytes decide the format; file names and media types of clients are ignored.
    """
    kind = kind_of(data[:HEAD_BYTES])
    if kind is None or not reads_kind(kind):
        readable = [*FORMATS, *(["HEIC"] if reads_kind("HEIC") else [])]
        hint = f"; {HEIF_EXTRA}" if kind == "HEIC" else ""
        raise ApiError(415, f"{field} is not an image of an allowed format{hint}", field=field,
                       value=kind, allowed=readable)  # fmt: skip
    try:
        size, animated = _size_and_frames(data, kind, limits)
    except Exception:  # decoders raise errors of any type on damaged data
        raise ApiError(422, f"{field}: the {kind} data is truncated or damaged", field=field
                       ) from None  # fmt: skip
    if size[0] * size[1] > limits.pixels:
        raise ApiError(413, f"{field} has too many pixels", field=field, value=size[0] * size[1],
                       allowed=f"at most {limits.pixels:,}")  # fmt: skip
    if animated:
        raise ApiError(422, f"{field} has more than {limits.frames} frame(s) or page(s)",
                       field=field, value=limits.frames + 1,
                       allowed=f"at most {limits.frames} frame(s)")  # fmt: skip


def _size_and_frames(data: bytes, kind: str, limits: Limits) -> tuple[Size, bool]:
    """Width and height, and whether there are more frames than allowed."""
    try:
        image = open_header(data)
    except SyntaxError:  # of a TIFF that Pillow does not read
        return DeepTiffReader(io.BytesIO(data)).size, False
    assert image is not None
    with image:
        size = image.size
        if kind in PHOTO_CONTAINERS or size[0] * size[1] > limits.pixels:
            return size, False
        if kind not in SCANNED:
            return size, getattr(image, "n_frames", 1) > limits.frames
        try:
            image.seek(limits.frames)
        except EOFError:
            return size, False
        return size, True


def photo_id(data: bytes) -> str:
    """Content hash of a photo: 32 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:32]


def to_pixels(png: bytes) -> np.ndarray:
    """Decode a PNG made by this module to uint8 (H, W, 3), or (H, W) if grey."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.array(image)
