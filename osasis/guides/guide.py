"""Guides: embeddings of images and texts whose directions the losses compare.

A guide returns (B, G, D): G embeddings for each image. The losses compare directions in each of the
G spaces and average the cosines, so that one guide can combine spaces of different scale.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from osasis.errors import UserError, did_you_mean
from osasis.guides.perceptual import PerceptualNet
from osasis.guides.tokenizer import WordTokenizer


class Guide(Protocol):
    """Interface of guides."""

    has_text: bool

    def embed(self, images: Tensor, published_input: bool = False) -> Tensor:
        """images: (B, 3, H, W) in [-1, 1] -> (B, G, D), not normalised.

        published_input: prepare the input of a CLIP model as the published OSASIS code does:
        resized by nearest neighbour to the model's size and left in [-1, 1].
        """
        ...

    def embed_text(self, texts: list[str]) -> Tensor:
        """Texts to (N, 1, D). Raises UserError where the guide has no text encoder."""
        ...


class OpenClipMetadata(TypedDict, total=False):
    """Properties of an open_clip model that its weights do not contain.

    quick_gelu: the activation. tokenizer ("words"), vocabulary: only with a ``WordTokenizer``.
    """

    quick_gelu: bool
    mean: list[float]
    std: list[float]
    tokenizer: str
    vocabulary: list[str]


class OpenClipGuide(nn.Module):
    """An open_clip model with its tokenizer and input normalisation (``mean``, ``std``)."""

    has_text = True
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, tokenizer: Any, size: int, metadata: OpenClipMetadata) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.size = size
        self.metadata = metadata
        for name, values in (("mean", metadata["mean"]), ("std", metadata["std"])):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

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
    """Channel means and standard deviations at several stages of the perceptual net.

    stages: 0 is the image itself; 1 and higher are stages of the net (VGG has five).
    grid: statistics are taken in each of grid x grid cells; in aligned portraits, cells separate
    the background from the face. The guide has no text encoder.
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
        maps = [images, *self.net.stages(images, max(self.stages))]
        groups: list[Tensor] = []
        for stage in self.stages:
            groups += self._statistics(maps[stage])
        width = max(g.shape[1] for g in groups)
        # Zero padding does not change the cosines of differences.
        return torch.stack([F.pad(g, (0, width - g.shape[1])) for g in groups], dim=1)

    def _statistics(self, f: Tensor) -> list[Tensor]:
        n, out = self.grid, []
        cells = [c for row in f.float().tensor_split(n, dim=2) for c in row.tensor_split(n, dim=3)]
        for cell in cells:
            var, mean = torch.var_mean(cell, dim=(2, 3), correction=0)
            out.append(torch.cat([mean, (var + 1e-6).sqrt()], dim=1))
        return out

    def embed_text(self, texts: list[str]) -> Tensor:
        raise UserError(
            "this base's guide has no text encoder: text edits need a base with an open_clip guide"
        )


class CombinedGuide(nn.Module):
    """Concatenation of several guides; texts go to the part with a text encoder.

    The embeddings of a part share its weight equally.
    """

    def __init__(self, parts: list[tuple[Guide, float]]) -> None:
        """parts: guides with their weights, each above 0. Raises UserError."""
        super().__init__()
        if not parts or any(not w > 0 for _, w in parts):
            raise UserError("a combined guide needs parts, each with a weight above 0")
        if sum(guide.has_text for guide, _ in parts) > 1:
            raise UserError("a combined guide can have only one part with a text encoder")
        self.guides = [guide for guide, _ in parts]
        # Registered as submodules, so that ``to(device)`` moves them.
        self.submodules = nn.ModuleList(g for g in self.guides if isinstance(g, nn.Module))
        self.weights = [w for _, w in parts]
        self.has_text = any(guide.has_text for guide in self.guides)

    def embed(self, images: Tensor, published_input: bool = False) -> Tensor:
        parts = [guide.embed(images, published_input) for guide in self.guides]
        width = max(e.shape[-1] for e in parts)
        return torch.cat([F.pad(e, (0, width - e.shape[-1])) for e in parts], dim=1)

    def embed_text(self, texts: list[str]) -> Tensor:
        return text_guide(self).embed_text(texts)


def group_weights(guide: Guide, embedding: Tensor) -> Tensor | None:
    """Weights (G,) of a guide's embeddings, which sum to 1; None where all weights are equal."""
    if not isinstance(guide, CombinedGuide):
        return None
    counts = [
        len(g.stages) * g.grid**2 if isinstance(g, StatisticsGuide) else 1 for g in guide.guides
    ]
    shares = [w / n for w, n in zip(guide.weights, counts, strict=True) for _ in range(n)]
    weights = embedding.new_tensor(shares)
    return weights / weights.sum()


def text_guide(guide: Guide) -> Guide:
    """The part of a guide with a text encoder; without one, a part whose embed_text raises."""
    if isinstance(guide, CombinedGuide):
        return next((g for g in guide.guides if g.has_text), guide.guides[0])
    return guide


def open_clip_guide(
    model: str,
    pretrained: str | None,
    config: str | Path | None = None,
    metadata: OpenClipMetadata | None = None,
) -> OpenClipGuide:
    """Build an open_clip guide by model name, or from a configuration file named MODEL.json.

    pretrained: a tag of open_clip (open_clip downloads the weights and checks their hash), a local
    checkpoint (safetensors, or a file that loads with ``weights_only``), or None for random
    weights.
    metadata: of a saved guide whose weights the caller loads afterwards. A tag implies it; for a
    local checkpoint without it, choose the model name that implies the activation, such as
    ``ViT-B-32-quickgelu`` for OpenAI's weights.
    Raises UserError naming the nearest model or the known tags.
    """
    import open_clip  # takes seconds; bases without an open_clip guide do not need it

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
    known: Mapping[str, Any] = metadata or {}
    if pretrained in tags:
        known = metadata or open_clip.get_pretrained_cfg(model, pretrained)
    elif metadata is None and pretrained is not None:
        known = _read_metadata(Path(pretrained))
    quick_gelu = bool(known.get("quick_gelu", False))
    root, level = logging.getLogger(), logging.getLogger().level
    try:
        # open_clip warns about random weights, also where the caller loads weights next.
        root.setLevel(logging.ERROR)
        net = open_clip.create_model(
            model, pretrained=pretrained, weights_only=True, force_quick_gelu=quick_gelu
        )
    except Exception as e:  # model hubs, torch and safetensors raise different types
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(
            f"open_clip model {model!r} ({pretrained}) could not be loaded: {reason}; offline, "
            "give a local checkpoint file"
        ) from None
    finally:
        root.setLevel(level)
    size = net.visual.image_size
    mean = known.get("mean") or net.visual.image_mean or open_clip.OPENAI_DATASET_MEAN
    std = known.get("std") or net.visual.image_std or open_clip.OPENAI_DATASET_STD
    own: OpenClipMetadata = {"quick_gelu": quick_gelu, "mean": list(mean), "std": list(std)}
    if known.get("tokenizer") == "words":
        own |= {"tokenizer": "words", "vocabulary": list(known["vocabulary"])}
        tokenizer: Any = WordTokenizer(own["vocabulary"], net.context_length, net.vocab_size)
    else:
        tokenizer = open_clip.get_tokenizer(model)
    return OpenClipGuide(net, tokenizer, size[0] if isinstance(size, tuple) else size, own)


def _read_metadata(checkpoint: Path) -> dict[str, Any]:
    """Metadata in a checkpoint of ``pretraining.train_guide``; empty for other checkpoints."""
    if checkpoint.suffix != ".safetensors":
        return {}
    try:
        with safe_open(checkpoint, "pt") as f:
            return json.loads((f.metadata() or {}).get("facts", "{}"))
    except Exception:  # loading the weights reports a broken file
        return {}
