"""TIFF files with samples that Pillow does not read: float and 16-bit colour, alpha and CIE Lab.

tifffile reads the samples; this module gives them their meaning. A TIFF of another kind is refused
with its number of samples, their depth and their colour space.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import tifffile
from PIL import Image

from osasis.images.sample_depth import scaled_to_8_bits, white_level

# Tags and their values, TIFF 6.0.
ORIENTATION, ICC_PROFILE = 274, 34675
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK, CIE_LAB, ICC_LAB = 0, 1, 2, 5, 8, 9
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, CMYK: 4, CIE_LAB: 3, ICC_LAB: 3}
# Width, height, bits per sample and colour space.
_REQUIRED = (256, 257, 258, 262)
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
ASSOCIATED_ALPHA, ALPHA = 1, 2
_FORMATS = {1: "", 2: " signed", 3: " float"}
_SAVE_AS = "save it as RGB or grey of 8 or 16 bit"


class UnsupportedTiffError(Exception):
    """A sound TIFF of a kind that is not read. The message is the reason."""


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
tifffile.logger().addFilter(lambda record: not _quiet.get())


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without tifffile's log of damaged files, which are refused by an error; in this context."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


@dataclass(frozen=True)
class DeepTiff:
    """The first page of a TIFF.

    image: 8 bits per sample, "L", "RGB" or "CMYK". alpha: "L", or None. profile: ICC profile.
    """

    image: Image.Image
    alpha: Image.Image | None
    profile: bytes | None
    orientation: int


class DeepTiffReader:
    """Reads the header of a TIFF at once, and its pixels by ``read``.

    Raises UnsupportedTiffError for a kind of TIFF that is not read, and errors of any type for
    damaged data.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        with _silenced():
            self._page: Any = tifffile.TiffFile(stream).pages.first
            # tifffile leaves out a tag whose value is cut off, and takes its default.
            if missing := [tag for tag in _REQUIRED if tag not in self._page.tags]:
                raise ValueError(f"the TIFF has no tag {missing[0]}")
        self.size: tuple[int, int] = (self._page.imagewidth, self._page.imagelength)

    def read(self) -> DeepTiff:
        """Decode the pixels to 8 bits.

        Samples of up to 16 bits are scaled by their depth, others by ``white_level``, and rounded.
        Floats are taken as they are, without a tone curve. CIE Lab is rounded to 8 bits a sample
        and converted to sRGB as 8-bit Lab. Samples beyond the colours and alpha are ignored.
        """
        page = self._page
        self._require_known_kind()
        samples = self._samples()
        count = _COLOURS[page.photometric]
        colours, extra = samples[..., :count], self._alpha_index(count)
        alpha = None
        if extra is not None:
            values = samples[..., extra]
            alpha = scaled_to_8_bits(values, white_level(values, self._depth))
        if page.photometric in (CIE_LAB, ICC_LAB):
            image = self._from_lab(colours)
        else:
            white = white_level(colours, self._depth)
            if extra is not None and page.extrasamples[extra - count] == ASSOCIATED_ALPHA:
                colours = _unassociated(colours, samples[..., extra], self._depth)
            pixels = scaled_to_8_bits(colours, white)
            if page.photometric == WHITE_IS_ZERO:
                pixels = 255 - pixels
            image = Image.merge(_MODES[count], [Image.fromarray(p) for p in _planes(pixels)])
        tags = page.tags
        return DeepTiff(
            image,
            None if alpha is None else Image.fromarray(alpha),
            tags.valueof(ICC_PROFILE),
            int(tags.valueof(ORIENTATION, 1)),
        )

    @property
    def _depth(self) -> int:
        return int(self._page.bitspersample)

    def _kind(self) -> str:
        """The kind of TIFF, such as "2 x 16 bit float"."""
        page = self._page
        return f"{page.samplesperpixel} x {page.bitspersample} bit{_FORMATS[page.sampleformat]}"

    def _require_known_kind(self) -> None:
        page = self._page
        if page.sampleformat not in _FORMATS:
            raise UnsupportedTiffError(f"a TIFF of complex numbers is not read; {_SAVE_AS}")
        name = getattr(page.photometric, "name", str(page.photometric))
        count = _COLOURS.get(page.photometric)
        if count is None or page.dtype is None or page.imagedepth > 1:
            raise UnsupportedTiffError(
                f"a TIFF of {self._kind()} with colours as {name} is not read; {_SAVE_AS}"
            )
        # Grey with more than one further sample: bands of a measurement, which are not colours.
        if page.samplesperpixel < count or (count == 1 and page.samplesperpixel > 2):
            raise UnsupportedTiffError(
                f"a TIFF of {self._kind()} holds no colours (its colour space is {name}); "
                f"{_SAVE_AS}"
            )

    def _samples(self) -> np.ndarray:
        """The samples, (height, width, samples). Raises UnsupportedTiffError."""
        page = self._page
        try:
            with _silenced():
                values = page.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            name = getattr(page.compression, "name", str(page.compression))
            raise UnsupportedTiffError(
                f"a TIFF of {self._kind()} compressed by {name} needs imagecodecs; run pip install "
                f'"style-factory[tiff]", or save it without compression'
            ) from None
        separate, _, height, width, contiguous = page.shaped
        values = values.reshape(separate, height, width, contiguous)
        return np.moveaxis(values, 0, -1)[..., 0, :] if separate > 1 else values[0]

    def _alpha_index(self, colours: int) -> int | None:
        kinds = [int(kind) for kind in self._page.extrasamples]
        found = next((i for i, k in enumerate(kinds) if k in (ASSOCIATED_ALPHA, ALPHA)), None)
        return None if found is None else colours + found

    def _from_lab(self, values: np.ndarray) -> Image.Image:
        """CIE Lab as an "RGB" image: L* in 0..100, a* and b* signed and in units of 1."""
        lightness, ab = values[..., :1], values[..., 1:]
        bits = self._depth
        if values.dtype.kind != "f":
            unit = 2.0 ** (bits - 8)
            if self._page.photometric == ICC_LAB:
                lightness = lightness * (100 / (255 * unit))
                ab = ab / unit - 128
            else:
                lightness = lightness * (100 / (2**bits - 1))
                ab = ab.astype(f"i{bits // 8}") / unit
        lab = np.concatenate([lightness * 2.55, ab + 128.0], -1)
        pixels = np.rint(np.clip(np.nan_to_num(lab), 0, 255)).astype(np.uint8)
        return Image.merge("LAB", [Image.fromarray(p) for p in _planes(pixels)]).convert("RGB")


def _unassociated(colours: np.ndarray, alpha: np.ndarray, depth: int) -> np.ndarray:
    """Colours that were multiplied with alpha, divided by it."""
    share = alpha[..., None].astype(np.float64) / white_level(alpha, depth)
    return np.divide(colours, share, out=np.zeros(colours.shape), where=share > 0)


def _planes(pixels: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(pixels[..., i]) for i in range(pixels.shape[-1])]
