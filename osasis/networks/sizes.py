"""Sizes of a base's networks.

A base configuration is one JSON file. ``osasis/configs`` contains those of the official checkpoints
and of the shipped small base; other files of the same form can be used by their path.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from osasis.errors import UserError, did_you_mean
from osasis.validation import InputModel, Problem

CONFIGS = Path(__file__).parents[1] / "configs"
Size = Annotated[int, Field(ge=1)]
# Not strict: JSON has lists in place of tuples.
Multipliers = Annotated[tuple[Size, ...], Field(strict=False, min_length=1)]
Resolutions = Annotated[tuple[Size, ...], Field(strict=False)]


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of one UNet. ``z_channels`` is None for the prior, which has no semantic condition."""

    image_size: int
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    embed_channels: int
    z_channels: int | None
    out_channels: int = 3
    heads: int = 1
    head_channels: int | None = None
    prediction: str = "eps"


class PriorConfig(InputModel):
    """Sizes of the unconditional photo prior (guided diffusion, learned variance)."""

    subject: ClassVar[str] = "prior"

    model_channels: Size
    channel_mult: Multipliers
    num_res_blocks: Size
    attention_resolutions: Resolutions
    head_channels: Size

    def problems_at(self, image_size: int) -> list[Problem]:
        """Problems of these sizes at an image size."""
        found = _halving_problems("channel_mult", self.channel_mult, image_size)
        for mult in sorted(set(self.channel_mult)):
            channels = mult * self.model_channels
            if channels % min(32, channels):
                message = f"{channels} channels (multiplier {mult}) do not divide into 32 groups"
                found.append(Problem("channel_mult", mult, message))
        # Only the middle block and levels with attention split their channels into heads.
        with_heads = {self.channel_mult[-1]} | {
            m
            for i, m in enumerate(self.channel_mult)
            if image_size >> i in self.attention_resolutions
        }
        for mult in sorted(with_heads):
            if mult * self.model_channels % self.head_channels:
                message = (
                    f"head_channels {self.head_channels} does not divide "
                    f"{mult * self.model_channels} channels"
                )
                found.append(Problem("head_channels", self.head_channels, message))
        return found

    def unet(self, image_size: int) -> UNetConfig:
        return UNetConfig(
            image_size=image_size,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            attention_resolutions=self.attention_resolutions,
            embed_channels=4 * self.model_channels,
            z_channels=None,
            out_channels=6,
            head_channels=self.head_channels,
        )


class DiffAEConfig(InputModel):
    """Sizes of a base's diffusion autoencoder, and of its photo prior where it has one.

    prediction: what the UNet's last layer predicts, the noise as published (``eps``) or the
    velocity (``v``; Salimans and Ho, 2022), which keeps colours right near pure noise after a short
    training.
    """

    subject: ClassVar[str] = "base configuration"

    name: str
    image_size: Size
    model_channels: Size
    channel_mult: Multipliers
    encoder_channel_mult: Multipliers
    num_res_blocks: Size
    attention_resolutions: Resolutions
    embed_channels: Size
    z_channels: Size
    latent_layers: Annotated[int, Field(ge=2)]
    latent_hidden: Size
    heads: Size = 1
    prediction: Literal["eps", "v"] = "eps"
    prior: PriorConfig | None = None

    @property
    def levels(self) -> int:
        """Number of resolution levels of the UNet (level 0 is the finest)."""
        return len(self.channel_mult)

    @property
    def suggested_cutoff(self) -> int:
        """Content cutoff at which the two coarsest levels and the middle block take z_in.

        It is the published default of the official 256 px base, 32 (OSASIS, Sec. 3.4).
        """
        return self.image_size >> max(0, self.levels - 3)

    @property
    def unet(self) -> UNetConfig:
        return UNetConfig(
            image_size=self.image_size,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            attention_resolutions=self.attention_resolutions,
            embed_channels=self.embed_channels,
            z_channels=self.z_channels,
            heads=self.heads,
            prediction=self.prediction,
        )

    def cross_problems(self) -> list[Problem]:
        found = _halving_problems("channel_mult", self.channel_mult, self.image_size)
        found += _halving_problems(
            "encoder_channel_mult", self.encoder_channel_mult, self.image_size
        )
        for mult in sorted({*self.channel_mult, *self.encoder_channel_mult}):
            channels = mult * self.model_channels
            if channels % min(32, channels) or channels % self.heads:
                message = (
                    f"{channels} channels (multiplier {mult}) do not divide into 32 groups and "
                    f"{self.heads} heads"
                )
                found.append(Problem("channel_mult", mult, message))
        # The decoder concatenates the features of neighbouring levels.
        for a, b in pairwise(self.channel_mult):
            joined = (a + b) * self.model_channels
            if joined % min(32, joined):
                message = (
                    f"levels of {a * self.model_channels} and {b * self.model_channels} channels "
                    f"join to {joined}, which does not divide into 32 groups"
                )
                found.append(Problem("channel_mult", [a, b], message))
        if self.prior is not None:
            found += [p.with_prefix("prior") for p in self.prior.problems_at(self.image_size)]
        return found


def _halving_problems(field: str, mult: tuple[int, ...], image_size: int) -> list[Problem]:
    if image_size % (1 << (len(mult) - 1)) == 0:
        return []
    message = (
        f"image_size {image_size} cannot be halved {len(mult) - 1} times, as {field} {list(mult)} "
        "asks"
    )
    return [Problem(field, list(mult), message)]


def named_configs() -> list[str]:
    """Names of the configurations that the package ships."""
    return sorted(path.stem for path in CONFIGS.glob("*.json"))


def load_config(name_or_path: str | Path) -> DiffAEConfig:
    """Load a shipped configuration by name, or a JSON file of the same form.

    Raises UserError for an unknown name or invalid JSON, InvalidInputError for invalid fields.
    """
    name, names = str(name_or_path), named_configs()
    path = CONFIGS / f"{name}.json" if name in names else Path(name)
    if not path.is_file():
        raise UserError(
            f"no base configuration {name!r}{did_you_mean(name, names)}: give a JSON file or one "
            f"of {', '.join(names)}"
        )
    try:
        data = json.loads(path.read_bytes())  # bytes: in any encoding that an editor writes
    except json.JSONDecodeError as e:
        raise UserError(f"{name_or_path}: not valid JSON (line {e.lineno}: {e.msg})") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{name_or_path}: not UTF-8 at byte {e.start}; save it as UTF-8") from None
    return DiffAEConfig.parse(data, str(name_or_path))
