"""Images of requests and answers: header checks, decoding to squares, encoding."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from osasis.bundles.provenance import Provenance, encode_image
from osasis.errors import ImageError
from osasis.images.decoding import load_sized, png_bytes
from osasis.images.geometry import Size, fit_square
from osasis.images.masks import read_mask
from osasis.images.transparency import separate_alpha
from serving.config import Limits
from serving.errors import ApiError

# The first bytes decide the format; file names and media types of clients are ignored.
FORMATS = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "WEBP": b"RIFF"}
MEDIA = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def limit_pillow(limits: Limits) -> None:
    """Make Pillow raise on images above the pixel limit, as a second guard in this process."""
    Image.MAX_IMAGE_PIXELS = limits.pixels
    warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Square:
    """A client's photo at the base's size, as PNGs without metadata.

    png: RGB, or RGBA where the photo has transparency; its colours are the extended ones of
    ``separate_alpha``. over_white: of a photo with transparency. size: of the file, in pixels.
    """

    png: bytes
    size: Size
    over_white: bytes | None = None


def square_photo(data: bytes, field: str, size: int, fit: str, limits: Limits) -> Square:
    """A client's photo as squares of ``size`` pixels. Raises ApiError."""
    check_header(data, field, limits)
    with _refused(field):
        photo, found = load_sized(
            data, name=field, target=size, max_pixels=limits.pixels, alpha=True
        )
    image, alpha = separate_alpha(photo, keep=True)
    square = fit_square(image, size, fit)
    if alpha is None:
        return Square(png_bytes(square), found)
    square.putalpha(fit_square(alpha, size, fit))
    white, _ = separate_alpha(photo, keep=False)
    return Square(png_bytes(square), found, png_bytes(fit_square(white, size, fit)))


def mask_png(data: bytes, field: str, size: int, fit: str, limits: Limits) -> tuple[bytes, Size]:
    """A mask as a grey PNG of size x size pixels, white where the style shows, and the size of its
    file. Raises ApiError."""
    check_header(data, field, limits)
    with _refused(field):
        mask = read_mask(data, field, max_pixels=limits.pixels)
    return png_bytes(fit_square(mask.image, size, fit)), mask.size


@contextlib.contextmanager
def _refused(field: str) -> Iterator[None]:
    """Convert ImageError to ApiError 422."""
    try:
        yield
    except ImageError as e:
        raise ApiError(422, str(e), field=field) from None


def check_header(data: bytes, field: str, limits: Limits) -> None:
    """Check format, pixels and frames before decoding. Raises ApiError 413, 415 or 422."""
    kind = next((k for k, head in FORMATS.items() if data.startswith(head)), None)
    if kind is None or (kind == "WEBP" and data[8:12] != b"WEBP"):
        raise ApiError(415, f"{field} is not an image of an allowed format", field=field,
                       allowed=list(FORMATS))  # fmt: skip
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            width, height = image.size
            # Phones append a preview or a depth map to a JPEG; the first frame is the photo.
            frames = 1 if kind == "JPEG" else int(getattr(image, "n_frames", 1))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        count = re.search(r"\d+", str(e))
        raise _too_many(field, int(count[0]) if count else None, limits) from None
    except Exception:  # decoders raise errors of any type on damaged data
        raise ApiError(422, f"{field}: the {kind} data is truncated or damaged", field=field
                       ) from None  # fmt: skip
    if width * height > limits.pixels:
        raise _too_many(field, width * height, limits)
    if frames > limits.frames:
        raise ApiError(422, f"{field} is animated", field=field, value=frames,
                       allowed=f"at most {limits.frames} frame(s)")  # fmt: skip


def _too_many(field: str, pixels: int | None, limits: Limits) -> ApiError:
    return ApiError(413, f"{field} has too many pixels", field=field, value=pixels,
                    allowed=f"at most {limits.pixels:,}")  # fmt: skip


def photo_id(png: bytes) -> str:
    """Content hash of a photo's PNG: 32 hexadecimal digits."""
    return hashlib.sha256(png).hexdigest()[:32]


def to_pixels(png: bytes) -> np.ndarray:
    """Decode a PNG made by this module to uint8 (H, W, 3 or 4), or (H, W) if grey."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.array(image)


def encode_pixels(
    pixels: np.ndarray, photo: bytes, provenance: Provenance, embed: bool = True
) -> bytes:
    """Encode uint8 (H, W, 3), with the alpha channel of the photo's PNG, in the format of
    ``provenance``. embed: store the provenance in the file."""
    image, square = Image.fromarray(pixels), to_pixels(photo)
    if square.shape[-1] == 4:
        image.putalpha(Image.fromarray(np.ascontiguousarray(square[..., 3])))
    return encode_image(image, provenance, embed=embed)
