"""Identity with dlib: distance of face embeddings of photo and stylization."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from osasis.errors import UserError
from osasis.evaluation.metric import Metric, Pair, Picture
from osasis.images.tensors import resized, to_uint8

BACKBONE = "dlib ResNet"
# Side to which images are resized; dlib finds faces from about 80 pixels.
SIDE = 256
PREDICTOR = "shape_predictor_5_face_landmarks.dat"
RECOGNISER = "dlib_face_recognition_resnet_model_v1.dat"
INSTALL = "pip install 'style-factory[faces]'"


def identity_metric() -> Metric:
    """Euclidean distance of dlib's face descriptors; above 0.6 dlib says another person.

    The face is found on the photo, and cut out at the same place of the stylization. A photo
    without a face has no value. Raises UserError where the extra is not installed.
    """
    finder = FaceFinder(PREDICTOR)
    import dlib

    recogniser: Any = dlib.face_recognition_model_v1(str(model_folder() / RECOGNISER))

    def describe(picture: Picture, landmarks: Any) -> np.ndarray:
        return np.array(recogniser.compute_face_descriptor(pixels(picture), landmarks))

    def find(picture: Picture) -> tuple[Any, np.ndarray] | None:
        landmarks = finder.landmarks(picture)
        return landmarks and (landmarks, describe(picture, landmarks))

    def measure(pair: Pair) -> tuple[float] | None:
        if (found := pair.photo.once(BACKBONE, find)) is None:
            return None
        landmarks, own = found
        return (float(np.linalg.norm(describe(pair.stylized, landmarks) - own)),)

    source = "King, dlib 19.7 (2017); He et al., CVPR 2016"
    return Metric("identity", True, BACKBONE, source, measure)


class FaceFinder:
    """dlib's face detector and a predictor of landmarks. Raises UserError without the extra."""

    def __init__(self, predictor: str) -> None:
        folder = model_folder()
        import dlib

        self.detector: Any = dlib.get_frontal_face_detector()
        self.predictor: Any = dlib.shape_predictor(str(folder / predictor))

    def landmarks(self, picture: Picture) -> Any:
        """dlib's landmarks of the most certain face of ``pixels``; None without a face."""
        image = pixels(picture)
        faces = self.detector(image, 1)
        return self.predictor(image, faces[0]) if faces else None

    def find(self, picture: Picture) -> np.ndarray | None:
        """The landmarks as (N, 2) pixels x, y of ``pixels``; None without a face."""
        found = self.landmarks(picture)
        return None if found is None else np.array([(p.x, p.y) for p in found.parts()], np.float64)


def model_folder() -> Path:
    """The folder of face_recognition_models' files. Raises UserError without the extra."""
    # Importing the package needs pkg_resources, which setuptools no longer has.
    found = importlib.util.find_spec("face_recognition_models")
    places = [] if found is None else list(found.submodule_search_locations or ())
    if not places or importlib.util.find_spec("dlib") is None:
        raise UserError(f"identity needs face embeddings: {INSTALL}")
    return Path(places[0]) / "models"


def pixels(picture: Picture) -> np.ndarray:
    """The image as (SIDE, SIDE, 3) uint8."""
    image = to_uint8(resized(picture.batch, SIDE))[0]
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
