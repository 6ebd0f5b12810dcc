"""How photos are placed in the base's square, and what comes back: corpora and the server."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from osasis import choices
from osasis.errors import FitError
from osasis.images.decoding import MIN_SIDE
from osasis.images.geometry import Box, Size
from osasis.validation import InputModel, Problem

_BOX_TEXT = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*")


class CropBox(InputModel):
    """A square of a photo, in the photo's pixels after its EXIF orientation."""

    subject: ClassVar[str] = "crop"

    x: Annotated[int, Field(ge=0, le=10**6)] = Field(description="left border in pixels")
    y: Annotated[int, Field(ge=0, le=10**6)] = Field(description="upper border in pixels")
    side: Annotated[int, Field(ge=MIN_SIDE, le=10**6)] = Field(description="side in pixels")

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.side}"

    def within(self, photo: Size, name: str) -> Box:
        """Left, top and side on a photo of this size. Raises FitError where it reaches beyond.

        name: of the photo, in the error.
        """
        if self.x + self.side > photo[0] or self.y + self.side > photo[1]:
            raise FitError(
                name,
                f"crop {self} reaches beyond the photo's {photo[0]}x{photo[1]} pixels; it must lie "
                "inside",
                "crop",
            )
        return self.x, self.y, self.side


def _box(value: Any) -> Any:
    """Accept the text X,Y,SIDE in place of an object."""
    if not isinstance(value, str):
        return value
    found = _BOX_TEXT.fullmatch(value)
    if found is None:
        problem = Problem("", value, f"the box is {value[:100]!r}", "X,Y,SIDE in pixels")
        facts = {"text": str(problem), "problems": [problem]}
        raise PydanticCustomError("problems", "{text}", facts)
    return dict(zip(("x", "y", "side"), map(int, found.groups()), strict=True))


Crop = Annotated[CropBox, BeforeValidator(_box, json_schema_input_type=CropBox | str)]


class PhotoOptions(InputModel):
    """How photos are fitted to the base's square, and how the results are composited."""

    subject: ClassVar[str] = "options"

    fit: choices.Fit = Field(
        "crop",
        description="how a photo is fitted to the base's square; `align` finds faces, `whole` "
        "keeps the photo's shape (bases of DiffStyler)",
    )
    crop: Crop | None = Field(
        None,
        description="with fit `crop`: the square of a photo that is stylized, as X,Y,SIDE or an "
        "object of x, y and side, in pixels; null: the central square",
    )
    size: choices.OutputSize = Field(
        "photo", description="size of an output: the photo's own, or the base's square"
    )
    detail: bool = Field(
        False, description="carry the stylization up to the photo's own resolution"
    )
    alpha: choices.Alpha | None = Field(
        None,
        description="the photo's transparency: kept in the output, or laid over white; null: kept "
        "in PNG and WebP",
    )
    no_face: choices.NoFace = Field(
        "error",
        description="with fit `align`: a photo without a face is refused, is cropped, or is kept "
        "as it is",
    )

    def cross_problems(self) -> list[Problem]:
        problems = []
        if self.crop is not None and self.fit != "crop":
            message = f"crop needs fit crop, but fit is {self.fit}; leave one of them out"
            problems.append(Problem("crop", str(self.crop), message))
        if self.fit == "align" and self.size == "base":
            message = (
                "size base gives one square per photo, but fit align may find several faces; "
                "choose size photo, or another fit"
            )
            problems.append(Problem("size", self.size, message))
        return problems
