"""The mask that one photo of a corpus has of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from osasis.errors import ImageError
from osasis.images.decoding import png_bytes
from osasis.images.geometry import Size
from osasis.images.masks import fit_mask, read_mask, shape_problem
from pipelines.job_spec import JobSpec


@dataclass(frozen=True)
class PhotoMask:
    """A photo's mask, as greyscale PNGs.

    png: the mask as it is given. square: at the base's square. sha256: of the file. file: its
    bytes. problem: why the photo has no mask; "" where the job has none of this kind.
    """

    png: bytes | None = None
    square: bytes | None = None
    sha256: str = ""
    file: bytes = b""
    problem: str = ""

    def to_row(self) -> dict[str, Any]:
        """Columns of SQUARES, and mask_problem."""
        return {
            "mask": self.png,
            "mask_square": self.square,
            "mask_sha256": self.sha256,
            "mask_problem": self.problem,
        }


def read_photo_mask(fetch: Callable[[], bytes] | None, photo: Size, job: JobSpec) -> PhotoMask:
    """The mask of a photo of this size. fetch: returns the bytes of its file, if it has one."""
    if fetch is None or job.photo_masks is None:
        return PhotoMask()
    try:
        data = fetch()
        mask = read_mask(data, "mask")
        if problem := shape_problem(mask.size, photo, job.options.crop is not None):
            return PhotoMask(file=data, problem=f"the mask {problem}")
        square = fit_mask(mask, job.square, job.options, photo)
    except ImageError as e:
        return PhotoMask(problem=e.reason)
    digest = hashlib.sha256(data).hexdigest()
    return PhotoMask(png_bytes(mask), png_bytes(square), digest, data)
