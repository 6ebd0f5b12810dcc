"""Prompts: the training template, tokens and text embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from osasis.arithmetic import autocast
from osasis.errors import UserError

if TYPE_CHECKING:
    from diffstyler.base import Base

# The published template; <sss> stands for the style.
TEMPLATE = "painting of <sss>, {subject}"


def fill_template(template: str, subject: str) -> str:
    """The prompt of a style image. subject: what it shows, such as ``deer, grass``; may be ""."""
    return template.replace("{subject}", subject).rstrip(", ")


def tokenize(base: Base, prompt: str) -> Tensor:
    """Token ids (N,) int64, padded to the length that the text encoder reads (77).

    Raises UserError for a longer prompt, which the text encoder would cut silently.
    """
    # A tokenizer without a configuration has no length of its own.
    limit = min(base.tokenizer.model_max_length, base.text_encoder.config.max_position_embeddings)
    # Padding would change the tokenizer's state, which threads share.
    ids = base.tokenizer(prompt).input_ids
    if len(ids) > limit:
        shown = prompt if len(prompt) <= 60 else prompt[:57] + "..."
        raise UserError(
            f"prompt {shown!r} has {len(ids)} tokens with its start and end; the text encoder "
            f"reads at most {limit}; shorten it"
        )
    padding = [base.tokenizer.pad_token_id] * (limit - len(ids))
    return torch.tensor(ids + padding, dtype=torch.int64)


@torch.no_grad()
def embed_prompts(base: Base, prompts: Iterable[str]) -> dict[str, Tensor]:
    """Text embeddings (N, D) of prompts: the text encoder's last hidden state."""
    distinct = list(dict.fromkeys(prompts))
    if not distinct:
        return {}
    ids = torch.stack([tokenize(base, prompt) for prompt in distinct]).to(base.device)
    with autocast(base.device, "float32"):
        embeddings = base.text_encoder(ids).last_hidden_state
    return dict(zip(distinct, embeddings, strict=True))
