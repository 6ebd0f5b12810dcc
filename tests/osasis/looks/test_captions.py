"""Captions: measured appearance, templates, and the vocabulary of the tokenizer."""

from __future__ import annotations

import pytest
import torch

from osasis.errors import UserError
from osasis.guides.tokenizer import WordTokenizer, split_words
from osasis.looks import LOOKS
from osasis.looks.captions import (
    BACKGROUNDS,
    MEDIA,
    TONES,
    make_caption,
    measure_appearance,
    vocabulary,
)


def flat(*colour: float) -> torch.Tensor:
    return (torch.tensor(colour).view(3, 1, 1) * 2 - 1).expand(3, 32, 32).clone()


def test_every_look_has_a_medium() -> None:
    assert set(MEDIA) == set(LOOKS)


@pytest.mark.parametrize(
    ("colour", "tone", "hue"),
    [
        ((0.05, 0.05, 0.05), "very dark", None),
        ((0.9, 0.9, 0.9), "very bright", None),
        ((0.5, 0.5, 0.5), "grey", None),
        ((0.9, 0.1, 0.1), "colourful", "red"),
        ((0.15, 0.3, 0.9), "colourful", "blue"),
        ((0.2, 0.8, 0.2), "colourful", "green"),
        ((0.8, 0.75, 0.1), "colourful", "yellow"),
    ],
)
def test_tone_and_hue_of_flat_images(
    colour: tuple[float, float, float], tone: str, hue: str | None
) -> None:
    found = measure_appearance(flat(*colour))
    assert found["tone"] == tone and found.get("hue") == hue


def test_the_background_is_measured_in_the_upper_corners() -> None:
    picture = flat(0.5, 0.5, 0.5)
    picture[:, 12:] = 1.0
    picture[:, :11] = flat(0.1, 0.1, 0.1)[:, :11]
    assert measure_appearance(picture)["background"] == "dark"
    picture[:, :11] = flat(0.2, 0.3, 0.8)[:, :11]
    assert measure_appearance(picture)["background"] == "blue"
    assert "background" not in measure_appearance(flat(0.5, 0.5, 0.5))


def test_captions_are_deterministic_and_in_the_vocabulary() -> None:
    tokenizer = WordTokenizer(vocabulary(), 24, 256)
    seen = set()
    for i in range(300):
        measured = {
            "tone": TONES[i % len(TONES)],
            "hue": "blue",
            "background": BACKGROUNDS[i % len(BACKGROUNDS)],
        }
        look = [*LOOKS, None][i % (len(LOOKS) + 1)]
        text = make_caption(look, measured, torch.Generator().manual_seed(i))
        assert text == make_caption(look, measured, torch.Generator().manual_seed(i))
        assert text.split()[0] in ("a", "an")
        if look:
            assert any(m in text for m in MEDIA[look]), text
        tokenizer([text])
        seen.add(text)
    assert len(seen) > 200
    assert "an ink" in make_caption("ink", {}, torch.Generator()) or "a bold" in make_caption(
        "ink", {}, torch.Generator()
    )


def test_tokens_end_with_the_highest_id() -> None:
    tokenizer = WordTokenizer(["a", "photo", "of"], 6, 16)
    tokens = tokenizer(["A photo, of a", "photo"])
    assert tokens.tolist() == [[1, 2, 3, 4, 2, 15], [1, 3, 15, 0, 0, 0]]
    assert split_words("Ink-drawing, 2!") == ["ink", "drawing", "2"]


def test_errors_name_the_nearest_known_word() -> None:
    tokenizer = WordTokenizer(vocabulary(), 24, 256)
    with pytest.raises(UserError, match=r"does not know the word 'paintings' \(nearest: painting"):
        tokenizer(["paintings"])
    with pytest.raises(
        UserError, match=r"does not know the word 'xylophon'; it knows .*watercolour"
    ):
        tokenizer(["a xylophon"])
    with pytest.raises(UserError, match="23 words; 1 to 22 are allowed"):
        tokenizer([" ".join(["a"] * 23)])
    with pytest.raises(UserError, match="0 words"):
        tokenizer([""])
    with pytest.raises(UserError, match="does not fit"):
        WordTokenizer(["a", "b"], 8, 4)
