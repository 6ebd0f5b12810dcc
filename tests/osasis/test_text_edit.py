"""Text-driven edits: optimising and storing directions of z_in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.encode import EncodePlan, Encodings, encode
from osasis.errors import UserError
from osasis.guides.guide import OpenClipGuide
from osasis.text_edit import (
    EditOptions,
    TextEdit,
    edit_photos,
    load_text_edit,
    optimise_text_edit,
    save_text_edit,
)

PAIR = ("a photo of a face", "an ink drawing of a smiling face")


@pytest.fixture(scope="module")
def text_base(tiny_base: Base, clip_guide: OpenClipGuide) -> Base:
    return tiny_base.replace(guide=clip_guide)


OPTIONS = EditOptions(iterations=60, lr=0.1, keep=0.001, steps=4)


@pytest.fixture(scope="module")
def encodings(text_base: Base, images: Callable[..., Tensor]) -> Encodings:
    return encode(text_base, images(1, 80), EncodePlan(0.5, 10))


@pytest.fixture(scope="module")
def edit(text_base: Base, encodings: Encodings) -> TextEdit:
    return optimise_text_edit(text_base, encodings, *PAIR, OPTIONS)


def test_the_loss_falls(edit: TextEdit) -> None:
    assert len(edit.history) == 60
    first, last = sum(edit.history[:10]) / 10, sum(edit.history[-10:]) / 10
    # At 1 the two directions are orthogonal.
    assert first > 0.6 and last < 0.85 * first


def test_the_fields_of_an_edit(text_base: Base, edit: TextEdit) -> None:
    assert edit.direction.shape == (16,) and edit.direction.norm() > 0.1
    assert not edit.direction.requires_grad
    assert (edit.source, edit.target) == PAIR and edit.base == text_base.fingerprint
    assert edit.settings == {"iterations": 60, "lr": 0.1, "keep": 0.001, "steps": 4, "seed": 0}


def test_the_result_depends_on_the_seed(text_base: Base, encodings: Encodings) -> None:
    def run(seed: int) -> TextEdit:
        options = EditOptions(iterations=4, steps=10, seed=seed)
        return optimise_text_edit(text_base, encodings, *PAIR, options)

    torch.manual_seed(0)
    first = run(1)
    torch.manual_seed(1)
    assert torch.equal(first.direction, run(1).direction)
    assert not torch.equal(first.direction, run(2).direction)


def test_keep_shortens_the_direction(text_base: Base, encodings: Encodings) -> None:
    lengths = [
        float(
            optimise_text_edit(
                text_base, encodings, *PAIR, replace(OPTIONS, iterations=20, keep=keep)
            ).direction.norm()
        )
        for keep in (0.0, 10.0)
    ]
    assert lengths[1] < 0.5 * lengths[0]


def test_a_photo_is_edited_by_itself(text_base: Base, images: Callable[..., Tensor]) -> None:
    """Each photo gets its own z, the same alone as in a batch, and its image follows the text."""
    photos = images(3, 80)
    together = encode(text_base, photos, EncodePlan(0.5, 10))
    edited = edit_photos(text_base, together, *PAIR, OPTIONS)
    change = edited.z - together.z
    assert (change[0] - change[1]).abs().max() > 0.05
    alone = edit_photos(text_base, together.take(slice(1, 2)), *PAIR, OPTIONS)
    torch.testing.assert_close(alone.z[0], edited.z[1], atol=1e-3, rtol=0)
    assert torch.equal(edited.x_t0, together.x_t0)


def test_equal_texts_are_refused(text_base: Base, encodings: Encodings) -> None:
    with pytest.raises(UserError, match=r"embeddings of .* are the same"):
        optimise_text_edit(text_base, encodings, "a face", "a face")
    # Its tokenizer ignores case and surplus spaces.
    with pytest.raises(UserError, match=r"embeddings of .* are the same"):
        optimise_text_edit(text_base, encodings, "a face", "A  Face ")


def test_a_base_without_text_is_refused(tiny_base: Base, encodings: Encodings) -> None:
    with pytest.raises(UserError, match="no text encoder"):
        optimise_text_edit(tiny_base, encodings, *PAIR)


def test_round_trip(text_base: Base, edit: TextEdit, tmp_path: Path) -> None:
    save_text_edit(tmp_path / "smile", edit)
    again = load_text_edit(tmp_path / "smile", text_base.fingerprint)
    assert torch.equal(again.direction, edit.direction)
    assert replace(again, direction=edit.direction) == edit


def test_another_bases_direction_is_refused(
    text_base: Base, edit: TextEdit, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="not a text edit"):
        load_text_edit(tmp_path, text_base.fingerprint)
    save_text_edit(tmp_path, replace(edit, base="0123456789abcdef"))
    with pytest.raises(UserError, match=f"base 0123456789abcdef, not {text_base.fingerprint}"):
        load_text_edit(tmp_path, text_base.fingerprint)
