"""Sizes and settings of training a base, validated up front."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from osasis.choices import Precision
from osasis.validation import InputModel, Problem

Size = Annotated[int, Field(ge=1)]
# Not strict: JSON has lists in place of tuples.
Widths = Annotated[tuple[Size, ...], Field(strict=False, min_length=1, max_length=6)]
Levels = Annotated[tuple[Size, ...], Field(strict=False, min_length=4, max_length=4)]
Iterations = Annotated[int, Field(ge=1, le=10**8)]
BatchSize = Annotated[int, Field(ge=1, le=65536)]
LearningRate = Annotated[float, Field(ge=0, le=1)]


class Sizes(InputModel):
    """Sizes of the networks. The defaults are those of a base for squares of 64 pixels."""

    subject: ClassVar[str] = "config"

    image_size: Annotated[int, Field(ge=16, le=1024)] = Field(
        64, description="side of the training pictures in pixels"
    )
    vae_widths: Widths = Field(
        (16, 32, 64),
        description="channels of the VAE's levels; each level but the first halves the sides",
    )
    unet_widths: Levels = Field(
        (32, 64, 128, 128), description="channels of the UNet's four levels"
    )
    groups: Size = Field(8, description="groups of all group normalisations")
    head_width: Size = Field(32, description="channels of an attention head of the UNet")
    text_width: Size = Field(64, description="channels of the text encoder")
    text_layers: Size = Field(2, description="layers of the text encoder")
    text_heads: Size = Field(2, description="attention heads of the text encoder")

    @property
    def latent_size(self) -> int:
        return self.image_size >> (len(self.vae_widths) - 1)

    def cross_problems(self) -> list[Problem]:
        found = []
        # The UNet halves the latent's side three times.
        multiple = 8 << (len(self.vae_widths) - 1)
        if self.image_size % multiple:
            message = f"image_size is {self.image_size} with {len(self.vae_widths)} vae_widths"
            found.append(Problem("image_size", self.image_size, message, f"{multiple} times n"))
        for name in ("vae_widths", "unet_widths"):
            for width in getattr(self, name):
                if width % self.groups:
                    message = f"{name} has {width}, which groups {self.groups} does not divide"
                    found.append(Problem(name, width, message))
        for width in self.unet_widths:
            if width % min(width, self.head_width):
                message = f"unet_widths has {width}, which head_width does not divide"
                found.append(Problem("unet_widths", width, message))
        if self.text_width % self.text_heads:
            message = f"text_width is {self.text_width}"
            found.append(
                Problem("text_width", self.text_width, message, f"{self.text_heads} times n")
            )
        return found


class PretrainSettings(InputModel):
    """Settings of training a base."""

    subject: ClassVar[str] = "settings"

    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        0, description="seed of all random draws of the training"
    )
    looks: Annotated[int, Field(ge=0, le=10**6)] = Field(
        1040, description="painted looks with random parameters that are trained with the photos"
    )
    pictures_per_look: Annotated[int, Field(ge=1, le=10**4)] = Field(
        3, description="photos that are painted in each look"
    )
    vae_steps: Iterations = Field(4000, description="optimiser steps of the VAE")
    vae_batch_size: BatchSize = Field(16, description="pictures a step of the VAE")
    vae_lr: LearningRate = Field(2e-3, description="AdamW's learning rate for the VAE")
    kl_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        3e-4, description="weight of the VAE's divergence from a normal distribution"
    )
    steps: Iterations = Field(
        40_000, description="optimiser steps of the UNet with its text encoder"
    )
    batch_size: BatchSize = Field(32, description="pictures a step of the UNet")
    lr: LearningRate = Field(1e-3, description="AdamW's learning rate for the UNet")
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="share of pictures with an empty caption, for guidance"
    )
    warmup: Annotated[int, Field(ge=0, le=10**6)] = Field(
        100, description="steps of linear learning rate warm-up of each stage"
    )
    decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="last share of a stage's steps, in which the learning rate falls to 0"
    )
    grad_clip: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        1.0, description="gradient norm above which gradients are clipped"
    )
    ema: Annotated[float, Field(ge=0, le=0.999999)] = Field(
        0.999, description="decay of the exponential moving average of the weights"
    )
    precision: Precision = Field("auto", description="arithmetic of the forward passes")
    checkpoint_seconds: Annotated[float, Field(ge=0, le=86400)] = Field(
        300.0, description="time between checkpoints"
    )
    samples_every: Iterations = Field(
        500, description="steps between sample pictures, each with the base as it is then"
    )
