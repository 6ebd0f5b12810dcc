"""Word-level tokenizer for small guides, in place of CLIP's 49,408 subwords."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from osasis.errors import UserError, did_you_mean

START = 1


class WordTokenizer:
    """Maps texts to the token ids of open_clip's text encoder.

    0 is padding, 1 the start and the highest id the end of a text (open_clip pools at the largest
    id); words have the ids between.
    """

    def __init__(self, vocabulary: list[str], context_length: int, size: int) -> None:
        """size: rows of the text encoder's embedding table. Raises UserError if too small."""
        if len(vocabulary) + 3 > size or len(set(vocabulary)) != len(vocabulary):
            raise UserError(
                f"a vocabulary of {len(vocabulary)} words does not fit {size} embeddings; "
                "the table needs three more rows than there are words, and words must be unique"
            )
        self.vocabulary, self.context_length, self.end = list(vocabulary), context_length, size - 1
        self.ids = {word: i + 2 for i, word in enumerate(vocabulary)}

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids (N, context_length). Raises UserError for unknown words or long texts."""
        out = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(out, texts, strict=True):
            words = split_words(text)
            for word in words:
                if word not in self.ids:
                    known = ", ".join(w for w in self.vocabulary if len(w) > 3)
                    raise UserError(
                        f"text {text!r}: the guide does not know the word {word!r}"
                        + (did_you_mean(word, self.ids) or f"; it knows {known}")
                    )
            if not words or len(words) + 2 > self.context_length:
                raise UserError(
                    f"text {text!r}: {len(words)} words; 1 to {self.context_length - 2} are allowed"
                )
            ids = [START, *(self.ids[w] for w in words), self.end]
            row[: len(ids)] = torch.tensor(ids)
        return out


def split_words(text: str) -> list[str]:
    """Lower-case words of letters and digits."""
    return re.findall(r"[a-z0-9]+", text.lower())
