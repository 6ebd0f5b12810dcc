"""Identity: distance of face embeddings of photo and stylization."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

from osasis.errors import UserError
from osasis.evaluation.metric import Metric, Pair, Picture

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
    model = FaceModel()

    def measure(pair: Pair) -> tuple[float] | None:
        found = pair.photo.once(BACKBONE, model.find)
        if found is None:
            return None
        landmarks, own = found
        return (float(np.linalg.norm(model.describe(pair.stylized, landmarks) - own)),)

    source = "King, dlib 19.7 (2017); He et al., CVPR 2016"
    return Metric("identity", True, BACKBONE, source, measure)


class FaceModel:
    """dlib's face detector, its five landmarks and its descriptor (128 numbers)."""

    def __init__(self) -> None:
        folder = model_folder()
        import dlib

        self.detector: Any = dlib.get_frontal_face_detector()
        self.predictor: Any = dlib.shape_predictor(str(folder / PREDICTOR))
        self.recogniser: Any = dlib.face_recognition_model_v1(str(folder / RECOGNISER))

    def find(self, picture: Picture) -> tuple[Any, np.ndarray] | None:
        """Landmarks and descriptor of the most certain face; None without a face."""
        pixels = _pixels(picture)
        faces = self.detector(pixels, 1)
        if not faces:
            return None
        landmarks = self.predictor(pixels, faces[0])
        return landmarks, self.describe(picture, landmarks)

    def describe(self, picture: Picture, landmarks: Any) -> np.ndarray:
        """The descriptor of the face at these landmarks."""
        return np.array(self.recogniser.compute_face_descriptor(_pixels(picture), landmarks))


def model_folder() -> Path:
    """The folder of face_recognition_models' files. Raises UserError without the extra."""
    # Importing the package needs pkg_resources, which setuptools no longer has.
    found = importlib.util.find_spec("face_recognition_models")
    places = [] if found is None else list(found.submodule_search_locations or ())
    if not places or importlib.util.find_spec("dlib") is None:
        raise UserError(f"identity needs face embeddings: {INSTALL}")
    return Path(places[0]) / "models"


def _pixels(picture: Picture) -> np.ndarray:
    """The image as (SIDE, SIDE, 3) uint8."""
    image = F.interpolate(picture.batch.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True)[
        0
    ].clamp(-1, 1)
    return np.ascontiguousarray(((image + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())
