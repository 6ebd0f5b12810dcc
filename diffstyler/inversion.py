"""DDIM inversion of photos (DDIM, Sec. 4.3): the latents that sampling takes as its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from diffstyler.base import Base
from diffstyler.prediction import Row, predict_eps
from diffstyler.prompts import embed_prompts
from diffstyler.schedule import ddim_step
from diffstyler.settings import SampleSettings
from osasis.arithmetic import Arithmetic
from osasis.errors import UserError


@dataclass(frozen=True, eq=False)
class Encoding:
    """One photo's inversion; it does not depend on a style.

    photo: (C, h, w), the photo's latent. latents: (N, C, h, w), its noised latents at
    ``timesteps``, ascending.
    """

    photo: Tensor
    latents: Tensor
    timesteps: tuple[int, ...]

    def at(self, t: int | None) -> Tensor:
        """The latent (C, h, w) of a timestep; of None, the photo's. Raises UserError."""
        if t is None:
            return self.photo
        if t not in self.timesteps:
            raise UserError(
                f"the encoding has no latent of timestep {t}; it was made for {len(self.timesteps)}"
                " decode_steps; encode the photo again, with the decode_steps to be used"
            )
        return self.latents[self.timesteps.index(t)]

    @property
    def nbytes(self) -> int:
        return self.photo.nbytes + self.latents.nbytes


def encode(
    base: Base,
    images: Tensor,
    settings: SampleSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    pass_size: int | None = None,
    arithmetic: Arithmetic = "float32",
) -> list[Encoding]:
    """Invert photos (B, 3, H, W) in [-1, 1]; keep the latents that ``decode_steps`` read.

    pass_size: most photos of a forward pass; None: no limit. progress: steps done of all passes,
    and their number. arithmetic: of the UNet's forward passes.
    """
    parts = images.split(pass_size or max(1, len(images)))
    found: list[Encoding] = []
    for n, part in enumerate(parts):
        found += _encode_pass(base, part, settings, _part_of(progress, n, len(parts)), arithmetic)
    return found


def _part_of(
    progress: Callable[[int, int], None], number: int, parts: int
) -> Callable[[int, int], None]:
    """Progress of one of equal parts as that of the whole."""
    return lambda done, total: progress(number * total + done, parts * total)


def _encode_pass(
    base: Base,
    images: Tensor,
    settings: SampleSettings,
    progress: Callable[[int, int], None],
    arithmetic: Arithmetic,
) -> list[Encoding]:
    photos = base.photo_latents(images.to(base.device))
    kept = base.schedule.timesteps(settings.decode_steps)
    walk = base.schedule.timesteps(settings.encode_steps)
    found = invert(base, photos, walk, settings.encode_prompt, kept, progress, arithmetic)
    # Views would hold the whole batch as long as one of its encodings lives.
    pairs = zip(photos, found, strict=True)
    return [Encoding(photo.clone(), latents.clone(), kept) for photo, latents in pairs]


def invert(
    base: Base,
    latents: Tensor,
    timesteps: tuple[int, ...],
    prompt: str,
    kept: tuple[int, ...],
    progress: Callable[[int, int], None] = lambda done, total: None,
    arithmetic: Arithmetic = "float32",
) -> Tensor:
    """Walk latents (B, C, h, w) up through ascending timesteps, without guidance.

    Noise is predicted from the latent of the timestep before at the timestep to reach. Returns the
    latents (B, N, C, h, w) of the N timesteps ``kept``. Only these are held.
    """
    context = embed_prompts(base, [prompt])[prompt]
    x, alpha = latents, base.schedule.alpha(None)
    out = latents.new_empty(len(latents), len(kept), *latents.shape[1:])
    for i, t in enumerate(timesteps):
        eps = predict_eps(base, [Row(row, context) for row in x], t, arithmetic=arithmetic)
        x, alpha = ddim_step(x, eps, alpha, base.schedule.alpha(t)), base.schedule.alpha(t)
        if t in kept:
            out[:, kept.index(t)] = x
        progress(i + 1, len(timesteps))
    return out
