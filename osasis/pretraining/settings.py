"""Settings of training a base, validated up front."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_type_hints
from typing import Literal as Choice

from osasis.errors import UserError, did_you_mean
from osasis.settings import type_problem


@dataclass(frozen=True)
class PretrainSettings:
    """How a base is trained. Batches are of all workers together."""

    seed: int = 0
    # The diffusion autoencoder.
    iterations: int = 50_000
    batch_size: int = 32
    lr: float = 1e-4
    warmup: int = 100
    grad_clip: float = 1.0
    ema: float = 0.9999
    # ``frozen`` keeps the encoder that the run starts from: z, and the latent DDIM, stay right.
    encoder: Choice["trained", "frozen"] = "trained"
    # Losses of timesteps: all alike, as published, or weighted by min(SNR, 5) (Hang et al., 2023).
    weighting: Choice["uniform", "min_snr"] = "uniform"
    precision: Choice["float32", "bfloat16"] = "bfloat16"
    # The latent DDIM, on the encoded z.
    latent_iterations: int = 20_000
    latent_batch_size: int = 256
    latent_lr: float = 1e-4
    # The photo prior, where the configuration has one.
    prior_iterations: int = 0
    checkpoint_every: int = 500
    samples_every: int = 2000

    def problems(self) -> list[str]:
        """Everything that is wrong with these settings, one line each."""
        found = []
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if reason := type_problem(value, hint):
                found.append(f"{name} is {value!r}; {reason}")
            elif name in RANGES and not RANGES[name][0] <= value <= RANGES[name][1]:
                low, high = RANGES[name]
                found.append(f"{name} is {value}; it must lie in [{low:g}, {high:g}]")
        return found

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "iterations": (1, 10**8),
    "batch_size": (1, 65536),
    "lr": (0.0, 1.0),
    "warmup": (0, 10**6),
    "grad_clip": (1e-6, 1e6),
    "ema": (0.0, 0.999999),
    "latent_iterations": (0, 10**8),
    "latent_batch_size": (1, 65536),
    "latent_lr": (0.0, 1.0),
    "prior_iterations": (0, 10**8),
    "checkpoint_every": (1, 10**6),
    "samples_every": (1, 10**7),
}


def make_pretrain_settings(**overrides: Any) -> PretrainSettings:
    """Settings with some fields overridden.

    Raises UserError naming every unknown field and every value out of its range.
    """
    known = {f.name for f in dataclasses.fields(PretrainSettings)}
    problems = [
        f"unknown setting {name!r}" + did_you_mean(name, known)
        for name in overrides
        if name not in known
    ]
    settings = PretrainSettings(**{k: v for k, v in overrides.items() if k in known})
    problems += settings.problems()
    if problems:
        raise UserError("settings: " + "; ".join(problems))
    return settings
