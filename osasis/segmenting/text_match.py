"""Which of several pictures a text describes, by CLIP (Radford et al., ICML 2021)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image

from osasis.images.tensors import image_to_tensor

if TYPE_CHECKING:
    from osasis.guides.guide import OpenClipGuide


@functools.lru_cache(maxsize=1)
def open_clip_model(model: str, weights: str) -> OpenClipGuide:
    """CLIP, loaded once in a process. model, weights: see ``open_clip_guide``. Raises UserError."""
    from osasis.guides.guide import open_clip_guide

    return open_clip_guide(model, weights)


@torch.no_grad()
def similarities(clip: OpenClipGuide, pictures: Sequence[Image.Image], text: str) -> torch.Tensor:
    """Cosines of the embeddings of pictures ("RGB") and of a text, (N,)."""
    squares = torch.stack([image_to_tensor(_square(p, clip.size)) for p in pictures])
    embedded = torch.cat([clip.embed(squares[i : i + 1])[:, 0] for i in range(len(squares))])
    return F.cosine_similarity(embedded, clip.embed_text([text])[:, 0])


def _square(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture at CLIP's size, as CLIP's own preparation crops it."""
    width, height = (side * n // min(picture.size) for n in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return resized.crop((left, top, left + side, top + side))
