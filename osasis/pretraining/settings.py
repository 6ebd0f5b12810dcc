"""Settings of training a base, validated up front."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from osasis.arithmetic import Precision
from osasis.settings import LearningRate, Seed
from osasis.validation import InputModel

Iterations = Annotated[int, Field(ge=0, le=10**8)]
BatchSize = Annotated[int, Field(ge=1, le=65536)]


class PretrainSettings(InputModel):
    """Settings of training a base. Batch sizes count all workers together."""

    subject: ClassVar[str] = "settings"

    seed: Seed = Field(0, description="seed of all random draws of the training")
    iterations: Annotated[int, Field(ge=1, le=10**8)] = Field(
        50_000, description="optimiser iterations of the diffusion autoencoder"
    )
    batch_size: BatchSize = Field(32, description="photos per iteration")
    lr: LearningRate = Field(1e-4, description="Adam's learning rate")
    warmup: Annotated[int, Field(ge=0, le=10**6)] = Field(
        100, description="iterations of linear learning rate warm-up"
    )
    grad_clip: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        1.0, description="gradient norm above which gradients are clipped"
    )
    ema: Annotated[float, Field(ge=0, le=0.999999)] = Field(
        0.9999, description="decay of the exponential moving average of the weights"
    )
    encoder: Literal["trained", "frozen"] = Field(
        "trained",
        description="`frozen` keeps the encoder of the start checkpoint, so that z and the latent "
        "DDIM stay valid",
    )
    weighting: Literal["uniform", "min_snr"] = Field(
        "uniform",
        description="loss weights of timesteps: equal, as published, or min(SNR, 5) "
        "(Hang et al., 2023)",
    )
    precision: Precision = Field(
        "auto",
        description="arithmetic of the forward passes; `auto`: bfloat16 if the device has "
        "instructions for it, else float32; a CPU without them emulates `bfloat16` slowly",
    )
    latent_iterations: Iterations = Field(
        20_000, description="iterations of the latent DDIM, trained on the z of the photos"
    )
    latent_batch_size: BatchSize = Field(
        256, description="codes z per iteration of the latent DDIM"
    )
    latent_lr: LearningRate = Field(1e-4, description="learning rate of the latent DDIM")
    prior_iterations: Iterations = Field(
        0, description="iterations of the photo prior, if the configuration has one"
    )
    checkpoint_every: Annotated[int, Field(ge=1, le=10**6)] = Field(
        500, description="iterations between checkpoints"
    )
    samples_every: Annotated[int, Field(ge=1, le=10**7)] = Field(
        2000, description="iterations between sample grids"
    )
