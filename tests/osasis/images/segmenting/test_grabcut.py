"""Masks by GrabCut: what they show on portraits, and how they end."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from osasis.errors import ImageError, UserError
from osasis.images.segmenting import Segmenter

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
    with pytest.raises(UserError, match="model is for the segmenter onnx"):
        Segmenter.parse({"model": "a.onnx"})
