"""Working sizes of photos and style images."""

from __future__ import annotations

from PIL import Image

from osasis.errors import ImageError

# Stable Diffusion was trained on squares; a strip would also need unbounded memory.
MAX_ASPECT = 4


def working_size(size: tuple[int, int], resolution: int, multiple: int) -> tuple[int, int]:
    """Width and height with a shorter side of ``resolution``, each a multiple of ``multiple``.

    With a multiple of 1 the longer side is rounded down.
    """
    shorter = min(size)
    if multiple == 1:
        width, height = (side * resolution // shorter for side in size)
    else:
        width, height = (
            max(1, round(side * resolution / shorter / multiple)) * multiple for side in size
        )
    return width, height


def resize(image: Image.Image, resolution: int, multiple: int, name: str = "image") -> Image.Image:
    """The image at its working size, as "RGB": bilinear with antialiasing, without a crop.

    name: of the file, in errors. Raises ImageError where the sides differ by more than
    ``MAX_ASPECT``.
    """
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(
            name,
            f"it has {image.width}x{image.height} pixels; the longer side may have at most "
            f"{MAX_ASPECT} times the shorter one's; crop it",
        )
    size = working_size(image.size, resolution, multiple)
    return image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
