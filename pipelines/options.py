"""Options that determine an output's bytes, besides photo, styles and mix."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from osasis import choices
from osasis.images.photo_options import PhotoOptions
from osasis.validation import Problem


class OutputOptions(PhotoOptions):
    """How photos are fitted to the base's square, and how outputs are composited and encoded."""

    format: choices.OutputFormat = Field("png", description="format of the outputs")
    encoding: choices.ImageFormat = Field(
        "png", description="encoding of the images; differs from `format` only in Parquet"
    )
    quality: Annotated[int, Field(ge=1, le=100)] = Field(90, description="quality of JPEG and WebP")
    metadata: choices.Metadata = Field("strip", description="the photo's EXIF")
    provenance: choices.Provenance = Field(
        "style",
        description="what an output tells: how it was made and the photo's name; `full`: the "
        "photo's path too; `none`: nothing",
    )
    precision: choices.Precision | None = Field(
        None, description="arithmetic of the forward passes; null: from each style's settings"
    )

    @property
    def keeps_alpha(self) -> bool:
        return self.encoding != "jpeg" if self.alpha is None else self.alpha == "keep"

    def cross_problems(self) -> list[Problem]:
        problems = super().cross_problems()
        if self.alpha == "keep" and self.encoding == "jpeg":
            message = (
                "alpha keep needs a format with transparency, but JPEG has none; choose png or "
                "webp, or alpha drop"
            )
            problems.append(Problem("alpha", self.alpha, message))
        return problems

    def fingerprint(self) -> dict[str, Any]:
        """The options that affect the outputs; the quality of a PNG, for example, does not."""
        kept = {"fit", "size", "detail", "format", "metadata"}
        if self.format == "parquet":
            kept.add("encoding")
        if self.encoding != "png":
            kept.add("quality")
        if self.fit == "align":
            kept.add("no_face")
        # Options at their defaults are left out: jobs of earlier versions resume.
        if self.crop is not None:
            kept.add("crop")
        if self.alpha is not None and self.encoding != "jpeg":
            kept.add("alpha")
        if self.provenance != "style":
            kept.add("provenance")
        if self.precision is not None:
            kept.add("precision")
        return {name: value for name, value in self.to_dict().items() if name in kept}
