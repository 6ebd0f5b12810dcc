"""Training pictures with captions: photos, photos painted in many looks, and blurred photos."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from diffstyler.pretraining.settings import PretrainSettings
from osasis.images.tensors import from_uint8, to_uint8
from osasis.looks.captions import (
    SUBJECTS,
    Appearance,
    make_caption,
    measure_appearance,
    vocabulary,
)
from osasis.looks.dataset import make_look_dataset, read_photos

# A "look" of photos that lost their detail, so that negative prompts have an effect.
BLURRED = "blurred"
BLURRED_CAPTION = "blurry, low res photo of {subject}"
BLURRED_SHARE = 0.1
PAINTING_CAPTION = "painting of {subject}"
# Share of paintings whose caption does not name the medium, as prompts of styles do not.
UNNAMED = 0.15
# Words of the prompts that DiffStyler uses by default.
PROMPT_WORDS = ("painting", "ugly", "blurry", "black", "low", "res", "unrealistic", "photo")


@dataclass(frozen=True)
class Pictures:
    """images: (N, 3, S, S) uint8. looks: of each picture; None: a photo. measured: for captions."""

    images: Tensor
    looks: tuple[str | None, ...]
    measured: tuple[Appearance, ...]

    def fingerprint(self) -> str:
        """Hash of the pictures and their order."""
        digest = hashlib.sha256(str(self.looks).encode())
        digest.update(self.images.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def caption(self, index: int, g: torch.Generator) -> str:
        """A random caption of a picture."""
        look = self.looks[index]
        subject = SUBJECTS[int(torch.randint(len(SUBJECTS), (), generator=g))]
        unnamed = bool(torch.rand((), generator=g) < UNNAMED)
        if look == BLURRED:
            return BLURRED_CAPTION.format(subject=subject)
        if look is not None and unnamed:
            return PAINTING_CAPTION.format(subject=subject)
        return make_caption(look, self.measured[index], g)


def words() -> list[str]:
    """Words of captions and of prompts."""
    return sorted({*vocabulary(), *PROMPT_WORDS})


def make_pictures(folder: Path, size: int, settings: PretrainSettings) -> Pictures:
    """Read the photos of a folder and paint some of them. size: side. Raises UserError."""
    s, photos = settings, read_photos(folder)
    per_look = min(s.pictures_per_look, len(photos))
    made = make_look_dataset(photos, s.looks, per_look, size, s.seed)
    blurred = _blurred(made.photos[:: round(1 / BLURRED_SHARE)])
    images = torch.cat([made.photos, made.pictures.flatten(0, 1), blurred])
    names = [look for look in made.looks for _ in range(made.pictures.shape[1])]
    kinds = (*[None] * len(made.photos), *names, *[BLURRED] * len(blurred))
    measured = tuple(measure_appearance(from_uint8(image)) for image in images)
    return Pictures(images, kinds, measured)


def _blurred(images: Tensor) -> Tensor:
    """Images (N, 3, S, S) uint8 at a quarter of their detail."""
    x = from_uint8(images)
    size = x.shape[-2:]
    small = F.interpolate(x, scale_factor=0.25, mode="bilinear", antialias=True)
    return to_uint8(F.interpolate(small, size, mode="bicubic"))
