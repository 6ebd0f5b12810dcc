"""Styles that a predictor is trained on: photos painted in random looks, and their counterparts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from osasis.bundles.base import Base
from osasis.contents import ContentBank
from osasis.counterpart import photo_counterpart
from osasis.images.tensors import from_uint8, to_uint8
from osasis.looks import LOOKS, paint
from osasis.seeds import derived_generator, derived_seed
from osasis.settings import TrainSettings
from osasis.storage import save_tensors

# Share of the style images in which two looks are mixed.
BLENDED = 0.4
# Styles of a file.
SHARD = 16


@dataclass(frozen=True)
class TrainingStyles:
    """style_images, counterparts: (N, 3, S, S) uint8, at the base's size."""

    style_images: Tensor
    counterparts: Tensor

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Style image and counterpart of a style, (1, 3, S, S) in [-1, 1]."""
        return from_uint8(self.style_images[[index]]), from_uint8(self.counterparts[[index]])

    def __len__(self) -> int:
        return len(self.style_images)


def painted_style(photos: Tensor, index: int, size: int, seed: int) -> Tensor:
    """The style image with this index, (3, size, size) in [-1, 1].

    photos: (N, 3, H, W) uint8. A random photo is painted in a look, or in a mixture of two.
    """
    g = derived_generator(seed, f"style {index}")
    names = list(LOOKS)
    photo = from_uint8(photos[int(torch.randint(len(photos), (1,), generator=g))])
    flip, blend, share, other = torch.rand(4, generator=g).tolist()
    if flip < 0.5:
        photo = photo.flip(-1)
    picture = paint(photo, names[index % len(names)], derived_seed(seed, f"painting {index}"))
    if blend < BLENDED:
        second = names[int(other * len(names))]
        share = 0.25 + 0.5 * share
        painted = paint(photo, second, derived_seed(seed, f"second painting {index}"))
        picture = share * picture + (1 - share) * painted
    return F.interpolate(picture[None], (size, size), mode="area")[0].clamp(-1, 1)


def make_training_styles(
    base: Base,
    photos: Tensor,
    bank: ContentBank,
    settings: TrainSettings,
    count: int,
    seed: int,
    folder: Path,
) -> TrainingStyles:
    """Paint ``count`` styles and make their photo counterparts, as a style's training does.

    photos: (N, 3, H, W) uint8. folder: keeps the finished shards, from which a killed call resumes.
    """
    shards = []
    for start in range(0, count, SHARD):
        path = folder / f"styles-{start // SHARD:05d}.safetensors"
        if not path.is_file():
            pairs = []
            for index in range(start, min(start + SHARD, count)):
                style = painted_style(photos, index, base.image_size, seed)[None].to(base.device)
                pairs.append((style, photo_counterpart(base, style, settings, bank)))
            styles, counterparts = (to_uint8(torch.cat(x)) for x in zip(*pairs, strict=True))
            save_tensors(path, {"style_images": styles, "counterparts": counterparts})
            print(f"styles: {start + len(pairs)} of {count}", file=sys.stderr)
        shards.append(load_file(path))
    return TrainingStyles(**{k: torch.cat([s[k] for s in shards]) for k in shards[0]})
