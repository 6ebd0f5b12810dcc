"""Identity with dlib's networks (extra `faces`), and without them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from osasis.errors import UserError
from osasis.evaluation.identity import identity_metric, model_folder
from osasis.evaluation.metric import Pair, Picture
from osasis.images.tensors import image_to_tensor, load_square
from tests.conftest import ROOT
from tests.tiny import picture

PHOTOS = ROOT / "factory" / "examples" / "photos"
has_faces = all(importlib.util.find_spec(n) for n in ("dlib", "face_recognition_models"))
needs_faces = pytest.mark.skipif(not has_faces, reason="the extra `faces` is not installed")


def pair(photo: Picture, stylized: Picture) -> Pair:
    return Pair(photo, stylized, photo, photo)


def photo(number: int) -> Picture:
    return Picture(load_square(PHOTOS / f"portrait-{number:02d}.png", 256))


@needs_faces
def test_other_people_are_further_than_the_same_person_changed() -> None:
    metric = identity_metric()
    same = photo(1)
    darker = Picture((same.pixels + 1) * 0.7 - 1)
    assert metric.of([pair(same, same)]) == 0
    assert 0 < metric.of([pair(same, darker)]) < 0.35
    assert metric.of([pair(same, photo(2))]) > 0.6


@needs_faces
def test_the_distance_is_that_of_dlibs_descriptors() -> None:
    import dlib
    import numpy as np

    folder = model_folder()
    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    name = "dlib_face_recognition_resnet_model_v1.dat"
    recogniser = dlib.face_recognition_model_v1(str(folder / name))
    pictures = [photo(1), photo(2)]
    images = [
        np.ascontiguousarray(((p.pixels.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
        for p in pictures
    ]
    landmarks = predictor(images[0], detector(images[0], 1)[0])
    a, b = (np.array(recogniser.compute_face_descriptor(i, landmarks)) for i in images)
    measured = identity_metric().of([pair(*pictures)])
    assert measured == pytest.approx(np.linalg.norm(a - b), abs=1e-4)


@needs_faces
def test_a_photo_without_a_face_has_no_value() -> None:
    plain = Picture(image_to_tensor(picture(1, (256, 256))))
    assert identity_metric().measure(pair(plain, photo(1))) is None


def test_without_the_extra_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'style-factory\[faces\]'"):
        identity_metric()


@needs_faces
def test_the_weights_are_found_without_importing_their_package() -> None:
    assert (Path(model_folder()) / "shape_predictor_5_face_landmarks.dat").is_file()
