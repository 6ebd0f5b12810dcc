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
from osasis.segmenting.fastsam import fastsam_mask, open_fastsam
from osasis.segmenting.grabcut import grabcut
from osasis.segmenting.onnx_model import model_mask, open_model
from osasis.segmenting.prompts import Box, Points, Prompt, Text
from osasis.segmenting.selfie import model_file, open_selfie_model, selfie_mask
from osasis.segmenting.text_match import open_clip_model
from osasis.validation import InputModel, Problem

Channel = Annotated[int, Field(ge=0, le=1000)]
# The masks that each segmenter finds.
REGIONS: dict[SegmenterName, tuple[MaskRegion, ...]] = {
    "grabcut": ("subject", "background", "face"),
    "mediapipe": ("subject", "background"),
    "fastsam": ("subject", "background"),
    "onnx": ("subject", "background", "face", "hair"),
}
PROMPTED: tuple[SegmenterName, ...] = ("grabcut", "fastsam")


class Segmenter(InputModel):
    """A way to find what a mask shows."""

    subject: ClassVar[str] = "segmenter"

    name: SegmenterName = Field(
        "grabcut",
        description="`grabcut` (no weights) separates colours, starting from the faces or the "
        "centre; `mediapipe` finds people; `fastsam` finds what is at a point, in a box or named; "
        "`onnx` is a matting or segmentation model; `fastsam` and `onnx` need the extra `segment`",
    )
    model: str | None = Field(
        None,
        description="the model's file, for `mediapipe`, `fastsam` and `onnx`; null: for "
        "`mediapipe` that of the installed package",
    )
    points: Points = Field(
        (),
        description="for `grabcut` and `fastsam`: points on the subject, as shares of the photo's "
        "width and height",
    )
    box: Box | None = Field(
        None,
        description="for `grabcut` and `fastsam`: left, top, right and bottom of a box around the "
        "subject, as shares of the photo's width and height",
    )
    text: Text | None = Field(
        None,
        description="for `fastsam`: what the subject is, such as `a hat`; the segment that CLIP "
        "finds nearest to it",
    )
    clip_model: str = Field("ViT-B-32", description="for texts: name of a CLIP model of open_clip")
    clip: str | None = Field(
        None,
        description="for texts: CLIP's weights, a tag of open_clip such as `openai`, which is "
        "downloaded, or a file; null: texts are refused",
    )
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
        found = []
        if self.name in ("onnx", "fastsam") and not self.model:
            message = f"the segmenter {self.name} needs a model"
            found.append(Problem("model", None, message, "the file of an ONNX model"))
        if self.name == "grabcut" and self.model is not None:
            message = "grabcut has no model; leave it out, or choose another segmenter"
            found.append(Problem("model", self.model, message))
        if self.name != "onnx" and self.channels is not None:
            message = "channels are for the segmenter onnx; leave them out"
            found.append(Problem("channels", self.channels, message))
        if self.name not in PROMPTED and (self.points or self.box):
            where = "points" if self.points else "box"
            message = f"points and boxes are for the segmenters {' and '.join(PROMPTED)}"
            found.append(Problem(where, getattr(self, where), message))
        if self.text and (self.points or self.box):
            message = "a text is given in place of points and a box; leave one out"
            found.append(Problem("text", self.text, message))
        if self.text and self.name != "fastsam":
            message = f"texts are for the segmenter fastsam, and the segmenter is {self.name}"
            found.append(Problem("text", self.text, message))
        elif self.text and self.clip is None:
            message = "texts need the weights of CLIP; set the segmenter's clip, which is null"
            allowed = "a tag of open_clip such as openai, which is downloaded, or a file"
            found.append(Problem("text", self.text, message, allowed))
        if self.box and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            message = "the box is empty; give left, top, right and bottom"
            found.append(Problem("box", self.box, message))
        return found

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.points, self.box, self.text)

    def check(self, region: MaskRegion) -> None:
        """Raise UserError where the segmenter cannot find a region or its model cannot be read."""
        if region not in REGIONS[self.name]:
            *others, last = REGIONS[self.name]
            raise UserError(
                f"{self.name} proposes the masks {', '.join(others)} and {last}; for {region}, "
                "choose the segmenter onnx with a face parsing model and its channels"
            )
        if self.prompt and region == "face":
            raise UserError(
                "points, boxes and texts name a subject; leave them out of the mask face"
            )
        if self.name == "mediapipe":
            open_selfie_model(model_file(self.model))
        elif self.name == "fastsam":
            open_fastsam(str(self.model))
            if self.text:
                open_clip_model(self.clip_model, str(self.clip))
        elif self.name == "onnx":
            self._check_onnx(region)

    def _check_onnx(self, region: MaskRegion) -> None:
        model = open_model(str(self.model))
        if region in ("face", "hair") and self.channels is None:
            raise UserError(
                f"segmenter.channels is not given; it must name the output channels of "
                f"{self.model} that show the {region}"
            )
        model.check(self.channels)

    def identity(self) -> dict[str, Any]:
        """The segmenter as plain data, with the hash of its model in place of the file."""
        read = ["name", *(["pixels", "channels"] if self.name == "onnx" else ["points", "box"])]
        read += ["text", "clip_model", "clip"] if self.text else []
        found = {k: v for k, v in self.to_dict().items() if k in read and v not in (None, [])}
        if self.text and Path(str(self.clip)).is_file():
            found["clip"] = _digest(Path(str(self.clip)))
        if self.name == "grabcut":
            return found
        file = model_file(self.model) if self.name == "mediapipe" else Path(str(self.model))
        return {**found, "model": _digest(file)}

    def propose(self, image: Image.Image, region: MaskRegion) -> Image.Image:
        """The mask ("L") of a region of an image ("RGB"), at its size, white where the region is.

        ``background`` is what is not the subject. Raises ImageError where the region is not found.
        """
        wanted = "subject" if region == "background" else region
        if self.name == "grabcut":
            values = grabcut(image, wanted, self.prompt)
        elif self.name == "mediapipe":
            values = selfie_mask(model_file(self.model), image)
        elif self.name == "fastsam":
            clip = open_clip_model(self.clip_model, str(self.clip)) if self.text else None
            values = fastsam_mask(str(self.model), image, self.prompt, clip)
        else:
            values = model_mask(str(self.model), image, self.pixels, self.channels)
        mask = Image.fromarray((values * 255).round().astype(np.uint8))
        return mask.point(lambda value: 255 - value) if region == "background" else mask


def _digest(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


class MaskProposal(InputModel):
    """A mask that a segmenter proposes for each photo."""

    subject: ClassVar[str] = "mask"

    region: MaskRegion = Field(description="what the mask shows")
    segmenter: Segmenter = Field(default_factory=Segmenter, description="how it is found")

    def identity(self) -> dict[str, Any]:
        """The proposal as plain data, with the hash of the segmenter's model."""
        return {"region": self.region, "segmenter": self.segmenter.identity()}
