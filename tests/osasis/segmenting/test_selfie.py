"""Masks by MediaPipe's selfie segmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from osasis.errors import UserError
from osasis.segmenting import Segmenter
from osasis.segmenting.selfie import model_file
from tests.osasis.segmenting.test_grabcut import portrait, values


@pytest.fixture(scope="module")
def model() -> Path:
    try:
        return model_file(None)
    except UserError as e:
        pytest.skip(str(e))


@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_person_is_found_with_a_thin_soft_border(model: Path, number: int) -> None:
    segmenter = Segmenter.parse({"name": "mediapipe"})
    segmenter.check("subject")
    mask = values(segmenter.propose(portrait(number), "subject"))
    assert mask.shape == (192, 192)
    assert mask[72:132, 70:115].min() == 1
    assert mask[:12, :12].max() == 0 or mask[:12, -12:].max() == 0
    assert ((mask > 0) & (mask < 1)).mean() < 0.15
    background = values(segmenter.propose(portrait(number), "background"))
    np.testing.assert_allclose(background, 1 - mask, atol=1e-9)


def test_the_identity_is_the_models_hash_wherever_it_lies(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(model.read_bytes())
    given = Segmenter.parse({"name": "mediapipe", "model": str(copy)})
    assert given.identity() == Segmenter.parse({"name": "mediapipe"}).identity()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"segmenter\.model .*gone\.tflite: no such file"):
        Segmenter.parse({"name": "mediapipe", "model": str(tmp_path / "gone.tflite")}).check(
            "subject"
        )
    text = tmp_path / "text.tflite"
    text.write_text("no model")
    with pytest.raises(UserError, match=r"text\.tflite: OpenCV cannot run it"):
        Segmenter.parse({"name": "mediapipe", "model": str(text)}).check("background")
    with pytest.raises(UserError, match="mediapipe proposes the masks subject and background"):
        Segmenter.parse({"name": "mediapipe"}).check("face")
