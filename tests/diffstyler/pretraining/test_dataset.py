from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.pretraining.dataset import BLURRED, make_pictures, words
from diffstyler.pretraining.settings import PretrainSettings
from osasis.guides.tokenizer import split_words
from osasis.images.tensors import from_uint8
from tests.tiny import picture


def test_photos_paintings_and_blurred_photos(tmp_path: Path) -> None:
    for n in range(12):
        picture(n, (24, 24)).save(tmp_path / f"{n:02}.png")
    settings = PretrainSettings(looks=26, pictures_per_look=1)
    made = make_pictures(tmp_path, 16, settings)
    assert made.images.shape == (12 + 26 + 2, 3, 16, 16)
    assert made.looks[:12] == (None,) * 12
    assert made.looks[-2:] == (BLURRED, BLURRED)
    assert made.fingerprint() == make_pictures(tmp_path, 16, settings).fingerprint()
    photo, blurred = from_uint8(made.images[0]), from_uint8(made.images[-2])
    assert blurred.diff(dim=-1).abs().mean() < photo.diff(dim=-1).abs().mean()
    known = set(words())
    for index in range(len(made.looks)):
        caption = made.caption(index, torch.Generator().manual_seed(index))
        assert caption == made.caption(index, torch.Generator().manual_seed(index))
        assert set(split_words(caption)) <= known
    assert made.caption(39, torch.Generator()).startswith("blurry, low res photo of ")
