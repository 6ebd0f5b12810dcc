"""Guides: embeddings of images (and texts) whose directions the losses compare.

A guide returns (B, G, D): G embeddings an image. Directions are compared in each of the G and the
cosines averaged, so that a guide may be one CLIP or several feature spaces of unlike scale.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from osasis.errors import UserError, did_you_mean
from osasis.guides.perceptual import PerceptualNet
from osasis.guides.tokenizer import WordTokenizer


class Guide(Protocol):
    """What training needs of a guide."""

    has_text: bool

    def embed(self, images: Tensor, published_input: bool = False) -> Tensor:
        """images: (B, 3, H, W) in [-1, 1] -> (B, G, D), not normalised.

        ``published_input`` feeds a CLIP as the published code did: resized by nearest neighbour
        (to 224, the size of its ViT-B/32) and left in [-1, 1].
        """
        ...

    def embed_text(self, texts: list[str]) -> Tensor:
        """(N, 1, D). Raises UserError where the guide knows no text."""
        ...


class OpenClipGuide(nn.Module):
    """An open_clip model."""

    has_text = True
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, tokenizer: Any, size: int, mean: Any, std: Any) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.size = size
        # What a base must remember beside the weights; see ``open_clip_guide``.
        self.facts: dict[str, Any] = {}
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def embed(self, images: Tensor, published_input: bool = False) -> Tensor:
        if published_input:
            x = F.interpolate(images, (self.size, self.size))
        else:
            x = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True)
            x = (x / 2 + 0.5 - self.mean) / self.std
        return self.model.encode_image(x)[:, None].float()

    def embed_text(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts).to(next(self.model.parameters()).device)
        return self.model.encode_text(tokens)[:, None].float()


class StatisticsGuide(nn.Module):
    """Channel means and deviations at several stages of the perceptual net.

    Stage 0 is the image itself (its palette); stages 1 and up are the net's (VGG has five).
    ``grid`` splits the picture into grid x grid cells with statistics of their own: for aligned
    portraits this tells the background from the face. Knows no text.
    """

    has_text = False

    def __init__(
        self, net: PerceptualNet, stages: tuple[int, ...] = (1, 2, 3), grid: int = 1
    ) -> None:
        super().__init__()
        if not stages or not set(stages) <= set(range(net.stage_count + 1)):
            raise UserError(
                f"guide stages are {list(stages)}; choose some of 0 to {net.stage_count}"
            )
        self.net, self.stages, self.grid = net, tuple(stages), grid

    def embed(self, images: Tensor, published_input: bool = False) -> Tensor:
        # Stages beyond the last one asked for are not computed.
        maps = [images, *self.net.stages(images, max(self.stages))]
        groups: list[Tensor] = []
        for stage in self.stages:
            groups += self._statistics(maps[stage])
        width = max(g.shape[1] for g in groups)
        # Zero padding leaves differences' cosines as they are.
        return torch.stack([F.pad(g, (0, width - g.shape[1])) for g in groups], dim=1)

    def _statistics(self, f: Tensor) -> list[Tensor]:
        f = f.float()
        cells = [f]
        if self.grid > 1:
            n = self.grid
            cells = [c for row in f.tensor_split(n, dim=2) for c in row.tensor_split(n, dim=3)]
        out = []
        for cell in cells:
            var, mean = torch.var_mean(cell, dim=(2, 3), correction=0)
            out.append(torch.cat([mean, (var + 1e-6).sqrt()], dim=1))
        return out

    def embed_text(self, texts: list[str]) -> Tensor:
        raise UserError(
            "this base's guide knows no text: text-driven edits need a base with an open_clip guide"
        )


class CombinedGuide(nn.Module):
    """Several guides side by side; the text goes to the one that knows it.

    Every part's groups share its weight, whatever their number.
    """

    def __init__(self, parts: list[tuple[Guide, float]]) -> None:
        """parts: guides and their weights, above 0. Raises UserError."""
        super().__init__()
        if not parts or any(not w > 0 for _, w in parts):
            raise UserError("a combined guide needs parts, each with a weight above 0")
        if sum(guide.has_text for guide, _ in parts) > 1:
            raise UserError("a combined guide can have one part that knows text")
        self.guides = [guide for guide, _ in parts]
        # Registered as modules, so that they move between devices together.
        self.modules_ = nn.ModuleList(g for g in self.guides if isinstance(g, nn.Module))
        self.weights = [w for _, w in parts]
        self.has_text = any(guide.has_text for guide in self.guides)

    def embed(self, images: Tensor, published_input: bool = False) -> Tensor:
        parts = [guide.embed(images, published_input) for guide in self.guides]
        width = max(e.shape[-1] for e in parts)
        return torch.cat([F.pad(e, (0, width - e.shape[-1])) for e in parts], dim=1)

    def weights_of_groups(self, embedding: Tensor) -> Tensor:
        counts = [
            len(g.stages) * g.grid**2 if isinstance(g, StatisticsGuide) else 1 for g in self.guides
        ]
        shares = [w / n for w, n in zip(self.weights, counts, strict=True) for _ in range(n)]
        weights = embedding.new_tensor(shares)
        return weights / weights.sum()

    def embed_text(self, texts: list[str]) -> Tensor:
        return text_guide(self).embed_text(texts)


def group_weights(guide: Guide, embedding: Tensor) -> Tensor | None:
    """Weights (G,) of a guide's groups, which add up to 1; None where all count alike."""
    return guide.weights_of_groups(embedding) if isinstance(guide, CombinedGuide) else None


def text_guide(guide: Guide) -> Guide:
    """The part of a guide that knows text; else one that says that it does not."""
    if isinstance(guide, CombinedGuide):
        return next((g for g in guide.guides if g.has_text), guide.guides[0])
    return guide


def open_clip_guide(
    model: str,
    pretrained: str | None,
    config: str | Path | None = None,
    facts: dict[str, Any] | None = None,
) -> OpenClipGuide:
    """An open_clip guide by model name, or from a model configuration file named MODEL.json.

    pretrained: a tag of open_clip (downloaded and hash-checked by it), a local checkpoint
    (safetensors, or a file that loads with ``weights_only``), or None for random weights.
    facts: a guide's ``facts`` from before, where its weights are loaded later. Weights say
    neither their activation (OpenAI's have QuickGELU under the plain model name) nor the mean and
    deviation of their inputs; a tag does, and for a local file the model's name must
    (``ViT-B-32-quickgelu``).
    Raises UserError naming the nearest model or the known tags.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if config is not None:
        if not Path(config).is_file():
            raise UserError(f"{config}: no such open_clip model configuration")
        open_clip.add_model_config(Path(config))
    if model not in open_clip.list_models():
        raise UserError(
            f"unknown open_clip model {model!r}" + did_you_mean(model, open_clip.list_models())
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is not None and pretrained not in tags and not Path(pretrained).is_file():
        raise UserError(
            f"open_clip model {model!r} has no pretrained tag {pretrained!r}, and there is no such "
            f"file; its tags: {', '.join(tags) or 'none'}"
        )
    if facts is None and pretrained is not None and pretrained not in tags:
        facts = _facts_of(Path(pretrained))
    known = facts or (get_pretrained_cfg(model, pretrained) if pretrained in tags else {})
    quick_gelu = bool(known.get("quick_gelu", False))
    try:
        # It warns of random weights, also where a bundle's are loaded in the next step.
        with _without_warnings():
            net = open_clip.create_model(
                model, pretrained=pretrained, weights_only=True, force_quick_gelu=quick_gelu
            )
    except Exception as e:  # hubs, checkpoints and safetensors each raise their own kinds
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(
            f"open_clip model {model!r} ({pretrained}) could not be loaded: {reason}; offline, "
            "give a local checkpoint file"
        ) from None
    size = net.visual.image_size
    mean = known.get("mean") or net.visual.image_mean or open_clip.OPENAI_DATASET_MEAN
    std = known.get("std") or net.visual.image_std or open_clip.OPENAI_DATASET_STD
    words: dict[str, Any] = {}
    if known.get("tokenizer") == "words":
        words = {"tokenizer": "words", "vocabulary": list(known["vocabulary"])}
    tokenizer: Any = (
        WordTokenizer(words["vocabulary"], net.context_length, net.vocab_size)
        if words
        else open_clip.get_tokenizer(model)
    )
    guide = OpenClipGuide(net, tokenizer, size[0] if isinstance(size, tuple) else size, mean, std)
    guide.facts = {"quick_gelu": quick_gelu, "mean": list(mean), "std": list(std), **words}
    return guide


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _facts_of(checkpoint: Path) -> dict[str, Any] | None:
    """The facts that ``pretraining.train_guide`` writes into its checkpoints, if any."""
    if checkpoint.suffix != ".safetensors":
        return None
    try:
        with safe_open(checkpoint, "pt") as f:
            return json.loads((f.metadata() or {}).get("facts", "null"))
    except Exception:  # not a safetensors file: loading it says so
        return None
