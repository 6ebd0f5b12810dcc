"""The mix: all parameters of one stylization, the same offline, over HTTP and on the page."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from osasis.networks.sizes import DiffAEConfig
from osasis.settings import T0, Cutoff, Seed, Steps
from osasis.validation import InputModel, InvalidInputError, Problem


class StyleShare(InputModel):
    """One style's part in a mix. Outside all masks the photo stays as it is."""

    style: str = Field(min_length=1, max_length=200, description="a style: `a`, `a@alias` or `a:3`")
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="relative to the other styles'"
    )
    mask: Annotated[str, Field(max_length=100)] | None = Field(
        None,
        description="name of the mask (a grey image) that confines the style; null: everywhere",
    )


def _share(value: Any) -> Any:
    """A style's id stands for its share of weight 1."""
    return {"style": value} if isinstance(value, str) else value


Share = Annotated[StyleShare, BeforeValidator(_share, json_schema_input_type=StyleShare | str)]
Level = Annotated[float, Field(ge=0, le=1)]


class Mix(InputModel):
    """Parameters of one stylization. None means: as the style was trained to be used."""

    subject: ClassVar[str] = "mix"

    styles: Annotated[tuple[Share, ...], Field(strict=False, min_length=1, max_length=64)] = Field(
        description="one or more styles: ids, or objects with style, weight and mask"
    )
    blend: Literal["weights", "noise"] = Field(
        "weights",
        description="several styles as one network (`weights`, one pass) or as composed noise "
        "predictions (`noise`); masks always compose noise",
    )
    content_cutoff: Cutoff | None = Field(
        None,
        description="resolution levels from this size on take z_style, those below and the middle "
        "take z_in (f_ch of the paper)",
    )
    level_weights: Annotated[tuple[Level, ...], Field(strict=False, max_length=16)] | None = Field(
        None,
        description="the general form of content_cutoff, which it overrides: z_style's share at "
        "each level, finest first",
    )
    structure: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="lambda_SPN, how strongly the photo's structure is kept"
    )
    t0: T0 | None = Field(None, description="how much of the photo is noised away")
    strength: Annotated[float, Field(ge=0, le=4)] = Field(
        1.0,
        description="how much of epsilon_B's difference from epsilon_A; 0 reconstructs the photo",
    )
    encode_steps: Steps | None = Field(None, description="inversion steps of a full schedule")
    decode_steps: Steps | None = Field(None, description="steps of the walk back")
    text_edit: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="name of a saved direction of z_in"
    )
    text_amount: Annotated[float, Field(ge=-10, le=10)] = Field(
        1.0, description="how far to go in the direction of text_edit"
    )
    seed: Seed = Field(0, description="seed of whatever is random")

    @classmethod
    def of(cls, *styles: str, **fields: Any) -> Mix:
        """A mix of styles of equal weight. Raises InvalidInputError."""
        return cls.parse({"styles": list(styles), **fields})

    def changes(self) -> dict[str, Any]:
        """Fields other than ``styles`` that are not at their defaults, as plain data."""
        usual = {name: field.default for name, field in type(self).model_fields.items()}
        return {k: v for k, v in self.to_dict().items() if k != "styles" and v != usual[k]}

    def problems_on(self, config: DiffAEConfig) -> list[Problem]:
        """What of this mix does not fit a base of these sizes."""
        levels = self.level_weights
        if levels is None or len(levels) == config.levels:
            return []
        message = (
            f"level_weights has {len(levels)} values; this base has {config.levels} resolution "
            "levels"
        )
        return [Problem("level_weights", list(levels), message, f"{config.levels} numbers")]

    def check_on(self, config: DiffAEConfig) -> None:
        """Raise InvalidInputError where the mix does not fit a base of these sizes."""
        if problems := self.problems_on(config):
            raise InvalidInputError(self.subject, problems)


def cutoff_weights(cutoff: int, config: DiffAEConfig) -> tuple[float, ...]:
    """z_style's share at each level, finest first, for a content cutoff in pixels (f_ch)."""
    return tuple(
        1.0 if (config.image_size >> level) >= cutoff else 0.0 for level in range(config.levels)
    )
