from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from transformers import CLIPTokenizer

from diffstyler.pretraining.dataset import words
from diffstyler.pretraining.tokenizer import learn_merges, token_count, write_tokenizer


def test_merges_join_the_most_frequent_pair_first() -> None:
    assert learn_merges(["ink", "sink", "pin"]) == [
        ("i", "n"),
        ("in", "k</w>"),
        ("i", "n</w>"),
        ("p", "in</w>"),
        ("s", "ink</w>"),
    ]


def test_known_words_are_one_token_and_others_are_spelled(tmp_path: Path) -> None:
    count = write_tokenizer(tmp_path, words())
    assert count == token_count(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == count
    for word in words():
        start, _, end = tokenizer(word).input_ids
        assert (start, end) == (count - 2, count - 1)
    prompt = "Oil painting of a xylophone, <sss>"
    decoded = tokenizer.decode(tokenizer(prompt).input_ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == "oilpaintingofaxylophone,<sss>"
    assert tokenizer.pad_token_id == 0
    assert tokenizer.model_max_length == 77
