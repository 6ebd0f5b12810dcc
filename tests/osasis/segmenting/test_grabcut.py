"""Masks by GrabCut: what they show on portraits, and how they end."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from PIL import Image

from osasis.errors import ImageError, UserError
from osasis.segmenting import Segmenter
from osasis.validation import InvalidInputError

SEGMENTER = Segmenter()


def portrait(number: int, side: int = 192) -> Image.Image:
    path = files("factory") / "examples" / "photos" / f"portrait-{number:02d}.png"
    with path.open("rb") as stream:
        return Image.open(stream).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def values(mask: Image.Image) -> np.ndarray:
    assert mask.mode == "L"
    return np.asarray(mask, float) / 255


@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_portraits_subject_has_its_whole_face_and_not_the_upper_corners(number: int) -> None:
    photo = portrait(number)
    mask = values(SEGMENTER.propose(photo, "subject"))
    assert mask.shape == (192, 192)
    # Eyes, nose and mouth of an aligned portrait.
    assert mask[72:132, 70:120].min() == 1
    assert mask[:12, :12].max() == 0 or mask[:12, -12:].max() == 0
    assert 0.3 < mask.mean() < 0.9
    # Soft borders are thin, the rest is exactly 0 or 1.
    assert 0 < ((mask > 0) & (mask < 1)).mean() < 0.15
    background = values(SEGMENTER.propose(photo, "background"))
    np.testing.assert_allclose(background, 1 - mask, atol=1e-9)


def test_a_face_is_part_of_the_subject() -> None:
    photo = portrait(9)
    face = values(SEGMENTER.propose(photo, "face"))
    subject = values(SEGMENTER.propose(photo, "subject"))
    assert face[80:130, 75:115].min() == 1
    assert face[185:].max() == face[:, :20].max() == face[:, -20:].max() == 0
    assert 0.1 < face.mean() < 0.75 * subject.mean()


def test_the_mask_follows_edges_at_the_photos_own_resolution() -> None:
    """An object in the centre of a photo that is larger than the copy that is segmented."""
    rng = np.random.default_rng(1)
    height, width = 420, 600
    y, x = np.mgrid[:height, :width]
    disc = (x - 300) ** 2 + (y - 210) ** 2 <= 110**2
    pixels = np.where(disc[..., None], (200, 60, 40), (60, 110, 160))
    pixels = (pixels + rng.normal(0, 2, pixels.shape)).clip(0, 255).astype(np.uint8)
    mask = values(SEGMENTER.propose(Image.fromarray(pixels), "subject"))
    assert mask.shape == (height, width)
    assert ((mask > 0.5) != disc).mean() < 0.002
    distance = np.abs(np.hypot(x - 300, y - 210) - 110)
    assert set(np.unique(mask[distance > 15])) == {0, 1}
    assert np.array_equal(mask, values(SEGMENTER.propose(Image.fromarray(pixels), "subject")))


def test_what_cannot_be_found_is_refused_by_name() -> None:
    flat = Image.new("RGB", (64, 64), "grey")
    with pytest.raises(ImageError, match="no face is found; the mask face needs one"):
        SEGMENTER.propose(flat, "face")
    assert values(SEGMENTER.propose(flat, "subject")).shape == (64, 64)
    with pytest.raises(UserError, match="grabcut proposes the masks subject, background and face"):
        SEGMENTER.check("hair")
    with pytest.raises(UserError, match="grabcut has no model"):
        Segmenter.parse({"model": "a.onnx"})


def two_discs() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A photo with a disc in its upper left and another in its lower right, and both."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:160, :240]
    discs = [(x - cx) ** 2 + (y - cy) ** 2 <= 30**2 for cx, cy in ((60, 50), (180, 110))]
    pixels = np.full((160, 240, 3), (60, 110, 160))
    pixels[discs[0]], pixels[discs[1]] = (200, 60, 40), (230, 200, 60)
    noisy = (pixels + rng.normal(0, 2, pixels.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(noisy), discs[0], discs[1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"points": [[0.25, 0.31]]}, {"points": [[0.75, 0.69]]}),
        ({"box": [0.1, 0.05, 0.4, 0.6]}, {"box": [0.6, 0.4, 0.95, 0.95]}),
    ],
)
def test_a_prompt_says_where_the_subject_is(first: dict[str, Any], second: dict[str, Any]) -> None:
    photo, *discs = two_discs()
    for prompt, disc in zip((first, second), discs, strict=True):
        mask = values(Segmenter.parse(prompt).propose(photo, "subject"))
        assert ((mask > 0.5) != disc).mean() < 0.005, prompt
    both = Segmenter.parse({"points": [[0.25, 0.31], [0.75, 0.69]]}).propose(photo, "subject")
    assert ((values(both) > 0.5) != (discs[0] | discs[1])).mean() < 0.005


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"box": [0.5, 0, 0.5, 1]}, "box"),
        ({"points": [[0.5, 1.5]]}, "points[0][1]"),
        ({"name": "mediapipe", "points": [[0.5, 0.5]]}, "points"),
        ({"name": "onnx", "model": "a", "box": [0, 0, 1, 1]}, "box"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        Segmenter.parse(given)
    assert [p.field for p in refused.value.problems] == [field]


def test_a_face_takes_no_prompt() -> None:
    with pytest.raises(UserError, match="points, boxes and texts name a subject"):
        Segmenter.parse({"points": [[0.5, 0.5]]}).check("face")
