"""Working sizes of style images."""

from __future__ import annotations

from PIL import Image

from osasis.errors import ImageError
from osasis.images.geometry import aspect_problem, working_size


def resize(image: Image.Image, resolution: int, multiple: int, name: str = "image") -> Image.Image:
    """The image at its working size, as "RGB": bilinear with antialiasing, without a crop.

    name: of the file, in errors. Raises ImageError where the sides differ by more than
    ``MAX_ASPECT``.
    """
    if problem := aspect_problem(image.size):
        raise ImageError(name, problem)
    size = working_size(image.size, resolution, multiple)
    return image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
