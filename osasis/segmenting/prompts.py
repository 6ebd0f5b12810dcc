"""Where in a photo the subject of a mask is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
Point = Annotated[tuple[Share, Share], Field(strict=False)]
Points = Annotated[tuple[Point, ...], Field(strict=False, max_length=16)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
# Left, top, right, bottom.
Box = Annotated[tuple[Share, Share, Share, Share], Field(strict=False)]


@dataclass(frozen=True)
class Prompt:
    """Where the subject is: points on it and a box around it, as shares of a photo's width and
    height. Or what it is: a text."""

    points: Points = ()
    box: Box | None = None
    text: str | None = None

    def __bool__(self) -> bool:
        return bool(self.points) or self.box is not None or self.text is not None


NO_PROMPT = Prompt()
