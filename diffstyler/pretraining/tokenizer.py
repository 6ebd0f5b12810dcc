"""A small vocabulary in the layout of CLIP's tokenizer: byte-level BPE.

Words of the training captions are one token; any other text is spelled by shorter ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from osasis.storage import write_atomic, write_json

START, END, PADDING = "<|startoftext|>", "<|endoftext|>", "!"
WORD_END = "</w>"
LENGTH = 77


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token, most frequent pairs first (Sennrich et al., 2016)."""
    spellings = [[*word[:-1], word[-1] + WORD_END] for word in sorted(set(words))]
    merges = []
    while counts := Counter(pair for spelling in spellings for pair in pairwise(spelling)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spellings = [_merged(spelling, best) for spelling in spellings]
    return merges


def _merged(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    """The spelling with each occurrence of a pair as one symbol."""
    out: list[str] = []
    for symbol in spelling:
        # A merged symbol is longer than the pair's first, so that it does not match again.
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def write_tokenizer(folder: Path, words: Iterable[str]) -> int:
    """Write the files that CLIPTokenizer reads; returns the number of tokens.

    words: lower-case words of letters. "!" has id 0 and pads, as in Stable Diffusion 2.
    """
    merges = learn_merges(words)
    symbols = sorted(ByteLevel.alphabet())
    tokens = [*symbols, *(s + WORD_END for s in symbols), *map("".join, merges), START, END]
    write_json(folder / "vocab.json", {token: n for n, token in enumerate(tokens)})
    lines = ["#version: 0.2", *map(" ".join, merges)]
    write_atomic(folder / "merges.txt", ("\n".join(lines) + "\n").encode())
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": PADDING,
        "do_lower_case": True,
    }
    write_json(folder / "tokenizer_config.json", config)
    return len(tokens)


def token_count(folder: Path) -> int:
    """Tokens of a written tokenizer."""
    return len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
