"""Masks that are proposed: segmenters behind one function, each optional but ``grabcut``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from osasis.choices import MaskRegion, PixelRange, SegmenterName
from osasis.errors import UserError
from osasis.images.segmenting.grabcut import grabcut
from osasis.images.segmenting.onnx_model import model_mask, open_model
from osasis.validation import InputModel, Problem

Channel = Annotated[int, Field(ge=0, le=1000)]


class Segmenter(InputModel):
    """A way to find what a mask shows."""

    subject: ClassVar[str] = "segmenter"

    name: SegmenterName = Field(
        "grabcut",
        description="`grabcut` (no weights) separates colours, starting from the faces or the "
        "centre; `onnx` is a matting or segmentation model, with the extra `segment`",
    )
    model: str | None = Field(None, description="for `onnx`: the model's file")
    pixels: PixelRange = Field(
        "imagenet",
        description="for `onnx`: the pixels that the model reads: normalised by ImageNet's mean "
        "and deviation, in [-1, 1], or in [0, 1]",
    )
    channels: Annotated[tuple[Channel, ...], Field(strict=False, max_length=64)] | None = Field(
        None,
        description="for `onnx` with several output channels: those that show the face, the hair "
        "or the subject, from 0",
    )

    def cross_problems(self) -> list[Problem]:
        if self.name == "onnx":
            message = "the segmenter onnx needs a model"
            return (
                [] if self.model else [Problem("model", None, message, "the file of an ONNX model")]
            )
        given = [n for n in ("model", "channels") if getattr(self, n) is not None]
        return [
            Problem(n, getattr(self, n), f"{n} is for the segmenter onnx; leave it out")
            for n in given
        ]

    def check(self, region: MaskRegion) -> None:
        """Raise UserError where the segmenter cannot find a region or its model cannot be read."""
        if self.name == "grabcut":
            if region == "hair":
                raise UserError(
                    "grabcut proposes the masks subject, background and face; for hair, choose the "
                    "segmenter onnx with a face parsing model and its channels"
                )
            return
        model = open_model(str(self.model))
        if region in ("face", "hair") and self.channels is None:
            raise UserError(
                f"segmenter.channels is not given; it must name the output channels of "
                f"{self.model} that show the {region}"
            )
        model.check(self.channels)

    def identity(self) -> dict[str, Any]:
        """The segmenter as plain data, with the hash of its model in place of the file."""
        found = {k: v for k, v in self.to_dict().items() if v is not None}
        if self.model is None:
            return {"name": self.name}
        digest = hashlib.sha256(Path(self.model).read_bytes()).hexdigest()
        return {**found, "model": f"sha256:{digest}"}

    def propose(self, image: Image.Image, region: MaskRegion) -> Image.Image:
        """The mask ("L") of a region of an image ("RGB"), at its size, white where the region is.

        ``background`` is what is not the subject. Raises ImageError where the region is not found.
        """
        wanted = "subject" if region == "background" else region
        if self.name == "grabcut":
            values = grabcut(image, wanted)
        else:
            values = model_mask(str(self.model), image, self.pixels, self.channels)
        mask = Image.fromarray((values * 255).round().astype(np.uint8))
        return mask.point(lambda value: 255 - value) if region == "background" else mask


class MaskProposal(InputModel):
    """A mask that a segmenter proposes for each photo."""

    subject: ClassVar[str] = "mask"

    region: MaskRegion = Field(description="what the mask shows")
    segmenter: Segmenter = Field(default_factory=Segmenter, description="how it is found")
