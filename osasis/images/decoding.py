"""Images in and out: any picture a user may hand over becomes 8-bit sRGB, or one line says why not.

Nothing here trusts its input. The size is checked in the header before a pixel is decoded, only
the formats in ``FORMATS`` are opened, and a broken file is an ``ImageError``, never half a picture.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import (
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

from osasis.errors import ImageError, UserError

# Suffixes that `find_images` collects. What a file really is, its first bytes decide.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
MAX_PIXELS = 200_000_000
MIN_SIDE = 8

# The readers are called by class and not through Image.open: its pixel limit is one global of the
# process, below our default, and every thread shares it.
_READERS: tuple[tuple[str, bytes, type[ImageFile.ImageFile]], ...] = (
    ("PNG", rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    ("JPEG", rb"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    ("WEBP", rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    ("GIF", rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    ("TIFF", rb"II[*+]\0|MM\0[*+]", TiffImagePlugin.TiffImageFile),
    ("BMP", rb"BM", BmpImagePlugin.BmpImageFile),
    ("PPM", rb"P[1-6f][\s#]", PpmImagePlugin.PpmImageFile),
)
FORMATS = tuple(name for name, _, _ in _READERS)
# Two bytes of plain text can look like these, so a header that does not parse proves nothing.
_WEAK = ("BMP", "PPM")
_REFUSED = (("HEIC", rb"....ftyp(hei|hev|mif|msf)"), ("AVIF", rb"....ftypavi"), ("PDF", rb"%PDF"))
_ALLOWED = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]} files are read"

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = tuple(_TURNS[i] for i in (5, 6, 7, 8))
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def load_image(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    target: int | None = None,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
) -> Image.Image:
    """Read one picture as an image viewer would show it.

    ``source`` is a path or the encoded bytes; ``name`` replaces the path in errors. The result is
    "RGB", 8 bit, sRGB, without metadata: turned by its EXIF orientation, converted from its ICC
    profile, laid over white where transparent, the first frame where animated. Grey of more than
    8 bits is scaled to 0..255. For float and 32-bit grey, which carry no range, the largest value
    picks white: 1 (float), 255 or 65535, else that value itself.

    With ``target``, the side in pixels that is needed, a large JPEG is decoded at 1/2, 1/4 or 1/8,
    its short side no smaller than twice ``target``.

    Raises ImageError (one line) for whatever cannot be read, has more than ``max_pixels`` in all
    or a side below ``min_side``.
    """
    shown = _printable(name or ("image" if isinstance(source, bytes) else os.fspath(source)))
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), shown, max_pixels, min_side, target)[0]
    try:
        path = Path(source)
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise ImageError(shown, "is a folder, not an image file")
        if not stat.S_ISREG(kind):  # opening a pipe would wait for ever
            raise ImageError(shown, "is not a regular file")
        with path.open("rb") as stream:
            return _decode(stream, shown, max_pixels, min_side, target)[0]
    except FileNotFoundError:
        reason = "no such file"
    except OSError as error:
        reason = _system_reason(error)
    except ValueError:  # a null byte, or text that no file name can hold
        reason = "is not a valid file name"
    raise ImageError(shown, reason)


def load_sized(
    data: bytes,
    *,
    name: str = "image",
    target: int | None = None,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
) -> tuple[Image.Image, tuple[int, int]]:
    """``load_image`` of encoded bytes, with the width and height that the file has, turned.

    With ``target`` the picture itself may be smaller. Raises ImageError.
    """
    return _decode(io.BytesIO(data), _printable(name), max_pixels, min_side, target)


def read_image_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """A picture file's bytes. Raises ImageError for what is no regular file, or is too large."""
    shown = _printable(os.fspath(path))
    try:
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            raise ImageError(shown, "is a folder, not an image file")
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise ImageError(shown, "is not a regular file")
        if found.st_size > max_bytes:
            reason = f"{found.st_size:,} bytes; at most {max_bytes:,} are allowed"
            raise ImageError(shown, reason)
        return Path(path).read_bytes()
    except FileNotFoundError:
        reason = "no such file"
    except OSError as error:
        reason = _system_reason(error)
    except ValueError:  # a null byte, or text that no file name can hold
        reason = "is not a valid file name"
    raise ImageError(shown, reason)


def _decode(
    stream: IO[bytes], shown: str, max_pixels: int, min_side: int, target: int | None
) -> tuple[Image.Image, tuple[int, int]]:
    head = stream.read(32)
    if not head:
        raise ImageError(shown, "the file is empty")
    found = next((r for r in _READERS if re.match(r[1], head, re.DOTALL)), None)
    if found is None:
        raise ImageError(shown, _not_an_image(head))
    kind, _, reader = found
    # One narrow filter, set once: catch_warnings would swap the filters of every thread.
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    stream.seek(0)
    size: tuple[int, int] | None = None
    try:
        image = reader(stream)
        size = image.size
        if size[0] * size[1] > max_pixels:
            reason = f"too many pixels: {_by(size)}; at most {max_pixels:,} in all are allowed"
            raise ImageError(shown, reason)
        if min(size) < min_side:
            reason = f"{_by(size)} pixels; at least {min_side}x{min_side} are needed"
            raise ImageError(shown, reason)
        if target is not None and kind == "JPEG":
            image.draft(None, (max(2 * target, 1),) * 2)
        raw = _raw_mode(image)
        image.load()
        turn = _TURNS.get(_orientation(image))
        picture = _to_rgb(image, raw)
        if turn is not None:
            picture = picture.transpose(turn)
        picture.info = {}  # a profile kept here would be applied twice
        return picture, (size[::-1] if turn in _SIDEWAYS else size)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        reason = f"too many pixels; at most {max_pixels:,} in all are allowed"
    except MemoryError:
        reason = "not enough memory" + (f" for {_by(size)} pixels" if size else "")
    except Exception as error:  # decoders fed with garbage raise anything
        if size is None and kind in _WEAK:
            reason = _not_an_image(head)
        elif isinstance(error, OSError) and error.errno is not None:
            reason = _system_reason(error)
        elif "truncated" in str(error).lower():
            reason = f"the {kind} data is truncated"
        else:
            reason = f"the {kind} data is truncated or damaged"
    raise ImageError(shown, reason)


def _to_rgb(image: Image.Image, raw: str) -> Image.Image:
    """Any mode to RGB: sample depth first, then colour space, then alpha over white."""
    profile = image.info.get("icc_profile")
    mode = image.mode
    if mode[0] in "IF":
        image = _to_grey8(image, raw)
    elif "transparency" in image.info and mode in ("L", "RGB"):
        # The file states the transparent colour at its own depth, Pillow the pixels at 8 bits.
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
    image = _to_srgb(image, profile)
    if alpha is not None:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    return image


def _to_grey8(image: Image.Image, raw: str) -> Image.Image:
    """Grey of 12, 16, 32 bits or float, scaled (not clipped) to 8; LA where it has a key value."""
    values = np.asarray(image)
    if raw == "I;32N":  # Pillow stores unsigned values in a signed mode
        values = values.view(np.uint32)
    if "16" in image.mode + raw:
        white = {"I;12": 4095.0, "I;16S": 32767.0, "I;16BS": 32767.0}.get(raw, 65535.0)
    else:
        top = float(np.max(values, where=np.isfinite(values), initial=0))
        # Resampling overshoots 1 a little, and values of 0..255 that end at 2 would all be black.
        steps = ((2.0, 1.0),) * (image.mode == "F") + ((255.0, 255.0), (65535.0, 65535.0))
        white = next((step for limit, step in steps if top <= limit), top)
    scaled = np.nan_to_num(values.astype(np.float32) * np.float32(255 / white), nan=0.0)
    grey = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(262) == 0:
        grey = 255 - grey  # WhiteIsZero, which Pillow inverts for 8 bits only
    result = Image.fromarray(grey)
    if (key := image.info.get("transparency")) is not None:
        result.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return result


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        # Viewers show a picture with a broken profile as if it had none.
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
    """How the file packs its samples; known only until the pixels are loaded."""
    args = image.tile[0][3] if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _orientation(image: Image.Image) -> int:
    # Asked after loading: a PNG may hold EXIF behind its pixels, and a TIFF is turned by Pillow.
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # broken EXIF costs the orientation, not the picture
        return 1


def _not_an_image(head: bytes) -> str:
    for kind, pattern in _REFUSED:
        if re.match(pattern, head, re.DOTALL):
            return f"{kind} is not an allowed format; {_ALLOWED}"
    return f"not an image; {_ALLOWED}"


def _system_reason(error: OSError) -> str:
    return (error.strerror or "cannot be read").lower()


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _printable(name: str) -> str:
    # A file name may hold line breaks or bytes that no terminal can encode.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files below ``folder``, ordered by their path inside it.

    Goes by suffix (``IMAGE_SUFFIXES``, any case); skips hidden files and folders and does not
    follow links to folders. Raises UserError where the folder is missing, is a file, cannot be
    listed, or holds no such file.
    """
    root = Path(folder)
    shown = _printable(os.fspath(folder))
    if not root.is_dir():
        found = "is a file, not a folder" if root.exists() else "no such folder"
        raise UserError(f"{shown}: {found}")

    def refuse(error: OSError) -> None:
        raise UserError(f"{_printable(str(error.filename))}: {_system_reason(error)}")

    paths = []
    for at, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(at, name) for name in files if not name.startswith(".")]
    paths = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{shown}: no image in this folder (looked for {suffixes})")
    return sorted(paths, key=lambda path: path.relative_to(root).as_posix())


def png_bytes(image: Image.Image, text: dict[str, str] | None = None) -> bytes:
    """``image`` as a PNG file with ``text`` as its text chunks and no other metadata.

    The same pixels and text give the same bytes. Keys are 1 to 79 Latin-1 characters (ValueError
    otherwise), values any text; what UTF-8 cannot encode is written as an escape.
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
