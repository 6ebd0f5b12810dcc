"""What decides an output's bytes, beside photo, styles and mix."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from osasis import choices
from osasis.validation import InputModel, Problem


class OutputOptions(InputModel):
    """How photos become squares, and squares become files."""

    subject: ClassVar[str] = "options"

    fit: choices.Fit = Field(
        "crop", description="how a photo meets the base's square; `align` finds faces"
    )
    size: choices.OutputSize = Field(
        "photo", description="size of an output: the photo's own, or the base's square"
    )
    detail: bool = Field(
        False, description="carry the stylization up to the photo's own resolution"
    )
    format: choices.OutputFormat = Field("png", description="format of the outputs")
    encoding: choices.ImageFormat = Field(
        "png", description="format of the images; only Parquet may hold another one than `format`"
    )
    quality: Annotated[int, Field(ge=1, le=100)] = Field(90, description="quality of JPEG and WebP")
    metadata: choices.Metadata = Field("strip", description="the photo's EXIF")
    no_face: choices.NoFace = Field(
        "error",
        description="with fit `align`: a photo without a face is an error row, is cropped, or is "
        "kept as it is",
    )
    precision: choices.Precision | None = Field(
        None, description="arithmetic of the forward passes; null: as each style's settings say"
    )

    def cross_problems(self) -> list[Problem]:
        if self.fit == "align" and self.size == "base":
            message = (
                "size base is one square a photo, and fit align may find several faces; choose "
                "size photo, or another fit"
            )
            return [Problem("size", self.size, message)]
        return []

    def fingerprint(self) -> dict[str, Any]:
        """The options that decide something here; the quality of a PNG does not."""
        kept = {"fit", "size", "detail", "format", "metadata"}
        if self.format == "parquet":
            kept.add("encoding")
        if self.encoding != "png":
            kept.add("quality")
        if self.fit == "align":
            kept.add("no_face")
        if self.precision is not None:
            kept.add("precision")
        return {name: value for name, value in self.to_dict().items() if name in kept}
