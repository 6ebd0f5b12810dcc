"""The mix: the parameters of one stylization, in Python, the CLI, HTTP and the web page."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import PydanticKnownError

from osasis.choices import DecodeSolver, EncodeSolver, Spacing
from osasis.networks.sizes import DiffAEConfig
from osasis.settings import T0, Cutoff, PaletteShare, Steps, Strength
from osasis.validation import InputModel, InvalidInputError, Problem

Level = Annotated[float, Field(ge=0, le=1)]
Guidance = Annotated[float, Field(ge=0, le=100)]
Window = Annotated[float, Field(ge=0, le=1000)]
# Fields of the mix, and of its styles, that OSASIS does not have.
DIFFSTYLER_FIELDS = ("guidance", "negative_prompt", "attention_window", "feature_window")
DIFFSTYLER_SHARE_FIELDS = ("guidance", "start", "end")
# Name of the mask that each photo of a corpus has of its own.
PHOTO_MASK = "photo"


class StyleShare(InputModel):
    """One style of a mix. The photo is unchanged where no mask applies."""

    style: str = Field(min_length=1, max_length=200, description="a style: `a`, `a@alias` or `a:3`")
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="weight relative to the other styles"
    )
    mask: Annotated[str, Field(max_length=100)] | None = Field(
        None,
        description="name of the mask (a grey image) that limits the style; null: the whole image",
    )
    guidance: Guidance | None = Field(
        None, description="DiffStyler: guidance of this style; null: that of the mix"
    )
    start: Level | None = Field(
        None, description="DiffStyler: share of the denoising after which the style acts; null: 0"
    )
    end: Level | None = Field(
        None, description="DiffStyler: share of the denoising up to which the style acts; null: 1"
    )

    @property
    def span(self) -> tuple[float, float]:
        """Shares of the denoising between which the style acts."""
        return (0.0 if self.start is None else self.start, 1.0 if self.end is None else self.end)

    def cross_problems(self) -> list[Problem]:
        start, end = self.span
        if start < end:
            return []
        return [Problem("end", end, f"end is {end:g}", f"a number above start, {start:g}")]

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out DiffStyler's fields where they are not set, as the mix does."""
        unset = [n for n in DIFFSTYLER_SHARE_FIELDS if getattr(self, n) is None]
        return {name: value for name, value in serialize(self).items() if name not in unset}


def _expand_style_id(value: Any) -> Any:
    """Accept a style's id in place of an object; a number or date is an id of the wrong type."""
    if isinstance(value, (int, float, datetime.date)):
        raise PydanticKnownError("string_type")
    return {"style": value} if isinstance(value, str) else value


Share = Annotated[
    StyleShare, BeforeValidator(_expand_style_id, json_schema_input_type=StyleShare | str)
]


class Mix(InputModel):
    """Parameters of one stylization. None takes the value from the first style's settings."""

    subject: ClassVar[str] = "mix"

    styles: Annotated[tuple[Share, ...], Field(strict=False, min_length=1, max_length=64)] = Field(
        description="one or more styles: ids, or objects with style, weight and mask"
    )
    blend: Literal["weights", "noise"] = Field(
        "weights",
        description="blend several styles in weight space (`weights`, one forward pass) or blend "
        "their noise predictions (`noise`); masks always blend noise predictions",
    )
    content_cutoff: Cutoff | None = Field(
        None,
        description="resolution levels of this size and above follow the style (z_style), lower "
        "levels and the middle block the photo (z_in); f_ch of the paper",
    )
    level_weights: Annotated[tuple[Level, ...], Field(strict=False, max_length=16)] | None = Field(
        None,
        description="share of z_style at each resolution level, finest first, in place of "
        "content_cutoff",
    )
    structure: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None,
        description="how strongly the photo's structure is preserved: lambda_SPN; for DiffStyler, "
        "factor of attention_window and feature_window",
    )
    t0: T0 | None = Field(None, description="fraction of the schedule to which the photo is noised")
    strength: Strength | None = Field(
        None,
        description="how strongly the style is applied: factor of epsilon_B's difference from "
        "epsilon_A, or of DiffStyler's adapter; with 0, OSASIS reconstructs the photo",
    )
    palette: PaletteShare | None = Field(
        None,
        description="share of the style image's colours that the image gets by colour transfer; "
        "scaled by the strength",
    )
    encode_steps: Steps | None = Field(None, description="inversion steps of a full schedule")
    decode_steps: Steps | None = Field(None, description="denoising steps of a full schedule")
    spacing: Spacing | None = Field(None, description="timesteps between the photo and t0")
    encode_solver: EncodeSolver | None = Field(None, description="solver of the inversion")
    decode_solver: DecodeSolver | None = Field(None, description="solver of the denoising")
    text_edit: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="name of a saved direction of z_in; null: no edit"
    )
    text_amount: Annotated[float, Field(ge=-10, le=10)] = Field(
        1.0, description="factor of the direction of text_edit"
    )
    guidance: Guidance | None = Field(
        None, description="DiffStyler: scale of the classifier-free guidance; 1: none"
    )
    negative_prompt: Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="DiffStyler: prompt that guidance leads away from; not read at guidance 1"
    )
    attention_window: Window | None = Field(
        None,
        description="DiffStyler: first share of the denoising, in which styles take the photo's "
        "queries and keys; with preset `reference`, number of steps",
    )
    feature_window: Window | None = Field(
        None,
        description="DiffStyler: first share of the denoising, in which styles take the photo's "
        "features; with preset `reference`, number of steps",
    )

    @classmethod
    def of(cls, *styles: str, **fields: Any) -> Mix:
        """A mix of styles of equal weight. Raises InvalidInputError."""
        return cls.parse({"styles": list(styles), **fields})

    def cross_problems(self) -> list[Problem]:
        if self.content_cutoff is None or self.level_weights is None:
            return []
        message = "level_weights and content_cutoff exclude each other; leave one of them out"
        return [Problem("level_weights", list(self.level_weights), message)]

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out DiffStyler's fields where they are not set.

        Jobs and images of earlier versions, whose mix had no such fields, have the same data.
        """
        unset = [n for n in DIFFSTYLER_FIELDS if getattr(self, n) is None]
        return {name: value for name, value in serialize(self).items() if name not in unset}

    def changes(self) -> dict[str, Any]:
        """Fields other than ``styles`` that differ from their defaults, as plain data."""
        return self.model_dump(mode="json", exclude={"styles"}, exclude_defaults=True)

    def problems_on(self, config: DiffAEConfig) -> list[Problem]:
        """Problems of this mix with a base of these sizes."""
        levels = self.level_weights
        if levels is None or len(levels) == config.levels:
            return []
        message = (
            f"level_weights has {len(levels)} values; this base has {config.levels} resolution "
            "levels"
        )
        return [Problem("level_weights", list(levels), message, f"{config.levels} numbers")]

    def check_on(self, config: DiffAEConfig) -> None:
        """Raise InvalidInputError for the problems of ``problems_on``."""
        if problems := self.problems_on(config):
            raise InvalidInputError(self.subject, problems)


def cutoff_weights(cutoff: int, config: DiffAEConfig) -> tuple[float, ...]:
    """Share of z_style at each level, finest first, for a content cutoff in pixels (f_ch)."""
    return tuple(
        1.0 if (config.image_size >> level) >= cutoff else 0.0 for level in range(config.levels)
    )
