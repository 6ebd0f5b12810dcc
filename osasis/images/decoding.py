"""Image files: decoding to 8-bit sRGB, encoding as PNG.

Files are untrusted. The size is checked in the header before any pixel is decoded, only the
formats in ``FORMATS`` and, with the extra `heif`, HEIC are opened, and a damaged file raises
ImageError.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from osasis.errors import ImageError
from osasis.images.deep_tiff import DeepTiffReader, UnsupportedTiffError
from osasis.images.kinds import HEAD_BYTES, SHORT_SIGNATURES, kind_of
from osasis.images.sample_depth import scaled_to_8_bits, white_level

MAX_PIXELS = 200_000_000
MIN_SIDE = 8

# Image.open has one pixel limit for the whole process, below MAX_PIXELS. The reader classes have
# none, so each call can set its own.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
FORMATS = tuple(_READERS)
ALLOWED = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]} files are read"
HEIF_EXTRA = "HEIC is read with the extra heif: pip install 'style-factory[heif]'"

# Transposition for each value of the EXIF orientation tag.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = tuple(_TRANSPOSE[i] for i in (5, 6, 7, 8))


def load_image(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    target: int | None = None,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
) -> Image.Image:
    """Decode one image to 8-bit sRGB ("RGB") without metadata, as image viewers show it.

    source: a path or the encoded bytes. name: replaces the path in errors.
    target: side in pixels that the caller needs. A large JPEG is decoded at 1/2, 1/4 or 1/8 of its
    size, with a short side of at least twice ``target``.

    The EXIF orientation and the ICC profile are applied, transparent pixels are composited over
    white, and the first frame of an animation is taken. Grey of more than 8 bits is scaled to
    0..255 and rounded; of 16-bit RGB and CMYK, the high byte is taken. TIFFs that Pillow does not
    read, such as 16-bit CIE Lab and float colour, are scaled by ``deep_tiff``; for white in float
    and 32-bit files see ``white_level``.

    Raises ImageError for an unreadable file, more than ``max_pixels`` pixels, or a side below
    ``min_side``.
    """
    shown = printable(name or ("image" if isinstance(source, bytes) else os.fspath(source)))
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), shown, max_pixels, min_side, target)[0]
    with _file_errors(shown):
        _require_regular_file(Path(source), shown)
        with Path(source).open("rb") as stream:
            return _decode(stream, shown, max_pixels, min_side, target)[0]


def load_sized(
    data: bytes,
    *,
    name: str = "image",
    target: int | None = None,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
    alpha: bool = False,
) -> tuple[Image.Image, tuple[int, int]]:
    """``load_image`` of encoded bytes, and the width and height of the file, oriented by EXIF.

    With ``target``, the decoded image may be smaller than this size. alpha: decode an image with
    transparent pixels to "RGBA"; one without is "RGB". Raises ImageError.
    """
    return _decode(io.BytesIO(data), printable(name), max_pixels, min_side, target, alpha)


def read_image_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read an image file. Raises ImageError for a missing, irregular or too large file."""
    shown = printable(os.fspath(path))
    with _file_errors(shown):
        size = _require_regular_file(Path(path), shown).st_size
        if size > max_bytes:
            raise ImageError(shown, f"{size:,} bytes; at most {max_bytes:,} are allowed")
        return Path(path).read_bytes()


def _require_regular_file(path: Path, shown: str) -> os.stat_result:
    """The status of a regular file. Raises ImageError for a folder, pipe or device."""
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(shown, "is a folder, not an image file")
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would block
        raise ImageError(shown, "is not a regular file")
    return found


@contextlib.contextmanager
def _file_errors(shown: str) -> Iterator[None]:
    """Convert file system errors to ImageError for the file ``shown``."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(shown, "no such file") from None
    except OSError as error:
        raise ImageError(shown, system_reason(error)) from None
    except ValueError:  # a null byte or a character that file names cannot contain
        raise ImageError(shown, "is not a valid file name") from None


def _decode(
    stream: IO[bytes],
    shown: str,
    max_pixels: int,
    min_side: int,
    target: int | None,
    keep_alpha: bool = False,
) -> tuple[Image.Image, tuple[int, int]]:
    head = stream.read(HEAD_BYTES)
    if not head:
        raise ImageError(shown, "the file is empty")
    kind = kind_of(head)
    reader = _reader(kind)
    if kind is None or reader is None:
        raise ImageError(shown, _not_an_image(kind))
    # Not catch_warnings: it swaps the filters of all threads. A repeated filter replaces itself.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    stream.seek(0)
    size: tuple[int, int] | None = None
    try:
        image = _open(stream, kind, reader)
        size = image.size
        _check_size(size, shown, max_pixels, min_side)
        if isinstance(image, DeepTiffReader):
            deep = image.read()
            orientation = deep.orientation
            picture, alpha = _to_srgb(deep.image, deep.profile), deep.alpha
        else:
            if target is not None and kind == "JPEG":
                image.draft(None, (max(2 * target, 1),) * 2)
            raw = _raw_mode(image)
            image.load()
            orientation = _orientation(image)
            picture, alpha = _to_rgb(image, raw)
        if alpha is not None and alpha.getextrema() != (255, 255):
            picture = _with_alpha(picture, alpha) if keep_alpha else _over_white(picture, alpha)
        transpose = _TRANSPOSE.get(orientation)
        if transpose is not None:
            picture = picture.transpose(transpose)
        picture.info = {}  # a profile left here would be applied again by the next reader
        return picture, (size[::-1] if transpose in _SWAPS_SIDES else size)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        reason = f"too many pixels; at most {max_pixels:,} in all are allowed"
    except UnsupportedTiffError as error:
        reason = str(error)
    except MemoryError:
        reason = "not enough memory" + (f" for {_dimensions(size)} pixels" if size else "")
    except Exception as error:  # decoders raise errors of any type for damaged data
        if size is None and kind in SHORT_SIGNATURES:
            reason = _not_an_image(None)
        elif isinstance(error, OSError) and error.errno is not None:
            reason = system_reason(error)
        elif "truncated" in str(error).lower():
            reason = f"the {kind} data is truncated"
        else:
            reason = f"the {kind} data is truncated or damaged"
    raise ImageError(shown, reason)


def _open(
    stream: IO[bytes], kind: str, reader: type[ImageFile.ImageFile]
) -> ImageFile.ImageFile | DeepTiffReader:
    try:
        return reader(stream)
    except SyntaxError:  # Pillow's error for samples that it does not read, and for damaged headers
        if kind != "TIFF":
            raise
    stream.seek(0)
    return DeepTiffReader(stream)


def _check_size(size: tuple[int, int], shown: str, max_pixels: int, min_side: int) -> None:
    if size[0] * size[1] > max_pixels:
        reason = f"too many pixels: {_dimensions(size)}; at most {max_pixels:,} in all are allowed"
        raise ImageError(shown, reason)
    if min(size) < min_side:
        reason = f"{_dimensions(size)} pixels; at least {min_side}x{min_side} are needed"
        raise ImageError(shown, reason)


def _with_alpha(picture: Image.Image, alpha: Image.Image) -> Image.Image:
    picture = picture.copy()
    picture.putalpha(alpha)
    return picture


def _over_white(picture: Image.Image, alpha: Image.Image) -> Image.Image:
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=alpha)
    return white


def _to_rgb(image: Image.Image, raw: str) -> tuple[Image.Image, Image.Image | None]:
    """Convert any mode to RGB: sample depth, then colour space; and its alpha channel, if any."""
    profile = image.info.get("icc_profile")
    mode = image.mode
    if mode[0] in "IF":
        image = _to_grey8(image, raw)
    elif "transparency" in image.info and mode in ("L", "RGB"):
        # The transparent colour has the sample depth of the file, the pixels have 8 bits.
        key = image.info["transparency"]
        if raw == "RGB;16B":
            key = tuple(value >> 8 for value in key)
        elif raw in ("L;2", "L;4"):
            key *= {"L;2": 85, "L;4": 17}[raw]
        image.info["transparency"] = key
        image = image.convert("LA" if mode == "L" else "RGBA")
    elif mode in ("P", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif mode == "La":
        image = image.convert("LA")

    alpha = None
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    return _to_srgb(image, profile), alpha


def _to_grey8(image: Image.Image, raw: str) -> Image.Image:
    """Scale grey of 12, 16, 32 bits or float to 8 bits; "LA" where a value marks transparency."""
    values = np.asarray(image)
    if raw == "I;32N":  # Pillow stores unsigned values in a signed mode
        values = values.view(np.uint32)
    if "16" in image.mode + raw:
        white = {"I;12": 4095.0, "I;16S": 32767.0, "I;16BS": 32767.0}.get(raw, 65535.0)
    else:
        white = white_level(values)
    grey = scaled_to_8_bits(values, white)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(262) == 0:
        grey = 255 - grey  # WhiteIsZero, which Pillow inverts for 8 bits only
    result = Image.fromarray(grey)
    if (key := image.info.get("transparency")) is not None:
        result.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return result


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        # Viewers ignore a broken profile; so does this function.
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space)
            if (image.mode, mode) == ("L", "RGB"):
                image = image.convert("RGB")
            if image.mode == mode:
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
                if converted is not None:
                    return converted
    return image.convert("RGB")


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's name of the file's sample layout; ``tile`` is empty after the pixels are loaded."""
    args = image.tile[0][3] if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _orientation(image: Image.Image) -> int:
    # Called after loading: a PNG may store EXIF behind its pixels, and Pillow rotates TIFFs itself.
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # an image with broken EXIF is read without orientation
        return 1


def _not_an_image(kind: str | None) -> str:
    if kind == "HEIC":
        return HEIF_EXTRA
    return f"{kind} is not an allowed format; {ALLOWED}" if kind else f"not an image; {ALLOWED}"


def _reader(kind: str | None) -> type[ImageFile.ImageFile] | None:
    """The reader class of a kind; None where it is not read."""
    if kind != "HEIC":
        return _READERS.get(kind or "")
    try:
        from pillow_heif import HeifImageFile  # the extra `heif`
    except ImportError:
        return None
    reader: type[ImageFile.ImageFile] = HeifImageFile
    return reader


def reads_kind(kind: str) -> bool:
    """Whether files of a kind (see ``kind_of``) are read in this installation."""
    return _reader(kind) is not None


def open_header(data: bytes) -> ImageFile.ImageFile | None:
    """The reader of an image's bytes, with header and metadata; None for a kind that is not read.

    Decodes no pixel and checks no size. Raises errors of any type for damaged data.
    """
    reader = _reader(kind_of(data[:HEAD_BYTES]))
    return None if reader is None else reader(io.BytesIO(data))


def system_reason(error: OSError) -> str:
    """The system's reason of a file error, in small letters."""
    return (error.strerror or "cannot be read").lower()


def _dimensions(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def printable(name: str) -> str:
    """A name as text that a terminal can print in one line."""
    # File names may contain line breaks or bytes that a terminal cannot encode.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def read_png(data: bytes, mode: str = "RGB") -> Image.Image:
    """Decode a PNG of this program, which ``png_bytes`` has made."""
    return Image.open(io.BytesIO(data), formats=["PNG"]).convert(mode)


def png_bytes(image: Image.Image, text: dict[str, str] | None = None) -> bytes:
    """Encode an image as PNG with the given text chunks and no other metadata.

    The same pixels and text give the same bytes. Keys have 1 to 79 Latin-1 characters (ValueError
    otherwise). Characters of values that UTF-8 cannot encode are written as escapes.
    """
    chunks = PngImagePlugin.PngInfo()
    for key, value in sorted((text or {}).items()):
        if not 1 <= len(key.encode("latin-1")) <= 79:
            raise ValueError(f"PNG text key {key!r}: it must have 1 to 79 characters")
        chunks.add_text(key, value.encode("utf-8", "backslashreplace").decode("utf-8"))
    bare = image.copy()
    bare.info = {}
    buffer = io.BytesIO()
    bare.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()
