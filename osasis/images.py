"""Images in and out: decoded as a viewer shows them, or refused in one line."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from osasis.errors import ImageError, UserError
from osasis.settings import did_you_mean

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
FITS = ("crop", "pad", "resize")
MAX_PIXELS = 200_000_000
MIN_SIDE = 8


def load_image(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    target: int | None = None,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
) -> Image.Image:
    """Decode an image to 8-bit RGB as a viewer shows it.

    Orientation and colour profile are applied, CMYK and 16 bits converted, transparency put on
    white, the first frame of an animation taken. source: a path, or encoded bytes (give a
    ``name`` then). target: the size that is needed; large JPEGs are decoded at a reduced scale
    of at least twice that. max_pixels is checked before decoding.
    Raises ImageError naming the file and the reason.
    """
    shown = name or ("image" if isinstance(source, bytes) else os.fspath(source))
    data = source if isinstance(source, bytes) else _read(Path(source), shown)
    if not data:
        raise ImageError(shown, "the file is empty")
    try:
        with warnings.catch_warnings():
            # Our own limit applies; Pillow's other warnings say nothing that a user can mend.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image, shown, max_pixels, min_side)
                if target is not None:
                    image.draft(None, (2 * target, 2 * target))
                image.load()
                return _as_viewed(image)
    except UnidentifiedImageError:
        raise ImageError(shown, f"not an image of a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise ImageError(shown, f"more than {max_pixels:,} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError) as e:
        # Pillow's decoders raise all of these on broken data.
        raise ImageError(shown, f"broken or truncated ({_one_line(e)})") from None


def fit_square(image: Image.Image, size: int, fit: str = "crop") -> Image.Image:
    """Bring an RGB image to size x size pixels: ``crop`` the middle, ``pad`` with the border's
    mean colour, or ``resize`` without regard to shape. Raises UserError for another fit."""
    if fit not in FITS:
        raise UserError(
            f"unknown fit {fit!r}: choose one of {', '.join(FITS)}" + did_you_mean(fit, FITS)
        )
    resample = Image.Resampling.LANCZOS
    if fit == "crop":
        return ImageOps.fit(image, (size, size), resample)
    if fit == "resize":
        return image.resize((size, size), resample)
    return ImageOps.pad(image, (size, size), resample, color=_border_colour(image))


def image_to_tensor(image: Image.Image) -> Tensor:
    """RGB image to (3, H, W) float32 in [-1, 1]."""
    pixels = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(pixels.transpose(2, 0, 1) / 127.5 - 1.0)


def tensor_to_image(tensor: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1], clamped, to an RGB image."""
    scaled = (tensor.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def load_square(path: str | os.PathLike[str], size: int, fit: str = "crop") -> Tensor:
    """Load an image file and fit it to (3, size, size) in [-1, 1]. Raises ImageError."""
    return image_to_tensor(fit_square(load_image(path, target=size), size, fit))


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Image files below a folder, by suffix, sorted by relative path; hidden files are skipped.

    Raises UserError where the folder is missing or holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise UserError(f"{root}: {what}")
    found = [
        p
        for p in root.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(root).parts)
    ]
    if not found:
        raise UserError(f"{root}: no images (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(found, key=lambda p: p.relative_to(root).as_posix())


def png_bytes(image: Image.Image, text: dict[str, str] | None = None) -> bytes:
    """PNG bytes, the same for the same picture; ``text`` becomes PNG text chunks."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        chunks.add_itxt(key, value)
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=chunks)
    return out.getvalue()


def _read(path: Path, shown: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(shown, "no such file") from None
    except IsADirectoryError:
        raise ImageError(shown, "a folder, not an image") from None
    except OSError as e:
        raise ImageError(shown, f"cannot be read ({e.strerror or e})") from None


def _check_size(image: Image.Image, shown: str, max_pixels: int, min_side: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            shown, f"{width}x{height} pixels; at most {max_pixels:,} pixels are decoded"
        )
    if min(width, height) < min_side:
        raise ImageError(
            shown, f"{width}x{height} pixels; at least {min_side}x{min_side} are needed"
        )


def _as_viewed(image: Image.Image) -> Image.Image:
    # Opened before conversions, which may drop it.
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    alpha = _alpha(image)
    if alpha is not None:
        image = image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA") else image
    image = _to_srgb(image, profile)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _alpha(image: Image.Image) -> Image.Image | None:
    if "A" in image.getbands() or "transparency" in image.info:
        return image.convert("RGBA").getchannel("A")
    return None


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert by the embedded profile; a broken or missing one means sRGB."""
    base = image
    if base.mode not in ("RGB", "CMYK", "L"):
        base = base.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                base, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass
    return base.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and floating grey to 8 bits by their range, where Pillow would clip."""
    values = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(values)
    top = float(values.max(initial=0.0))
    if image.mode == "F":
        full = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else 65535.0
    else:
        full = 65535.0 if top <= 65535.0 else 4294967295.0
    grey = np.clip(np.rint(values / full * 255.0), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _border_colour(image: Image.Image) -> tuple[int, ...]:
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(v) for v in border.mean(axis=0).round())


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:120] if text else type(error).__name__
