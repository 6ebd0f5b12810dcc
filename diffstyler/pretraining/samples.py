"""Pictures that show what a base has learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffstyler.base import Base
from diffstyler.prediction import Row, predict_eps
from diffstyler.prompts import embed_prompts
from diffstyler.schedule import ddim_step
from osasis.seeds import derived_generator

PROMPTS = (
    "photo of a face",
    "photo of a face on a blue background",
    "oil painting of a face",
    "pencil drawing of a face",
    "black and white photo of a face",
    "mosaic of a face",
    "a bright orange poster of a face",
    "painting of a face",
)


@torch.no_grad()
def sample_prompts(
    base: Base,
    prompts: Sequence[str],
    side: int,
    *,
    steps: int = 25,
    guidance: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """Pictures (N, 3, side, side) in [-1, 1] of prompts, by DDIM from noise with guidance."""
    contexts = embed_prompts(base, ["", *prompts])
    factor = base.latent_factor
    shape = (len(prompts), base.unet.config.in_channels, side // factor, side // factor)
    x = torch.randn(shape, generator=derived_generator(seed, "samples")).to(base.device)
    walk = list(base.schedule.timesteps(steps))
    while walk:
        t = walk.pop()
        rows = [Row(latent, contexts[""]) for latent in x]
        rows += [Row(latent, contexts[p]) for latent, p in zip(x, prompts, strict=True)]
        without, with_text = predict_eps(base, rows, t).chunk(2)
        eps = without + guidance * (with_text - without)
        to = walk[-1] if walk else None
        x = ddim_step(x, eps, base.schedule.alpha(t), base.schedule.alpha(to))
    return base.decode_latents(x)
