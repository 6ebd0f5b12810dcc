"""Masks of people by MediaPipe's selfie segmentation, run by OpenCV.

The network (Google, "MediaPipe Selfie Segmentation", model card of 2021) reads squares of 256
pixels and gives the probability that a pixel shows a person. Its file of 250 KB is in the wheels of
mediapipe up to 0.10.21; mediapipe itself is not run, for it installs another OpenCV.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osasis.errors import UserError
from osasis.segmenting.refine import refine, scaled_down

IN_WHEEL = "modules/selfie_segmentation/selfie_segmentation.tflite"
INPUT = 256
# OpenCV's networks keep the state of a pass.
_ONE_AT_A_TIME = threading.Lock()
# Longest side in pixels of the copy on which the mask's edge is found.
SIDE = 384


def model_file(given: str | None) -> Path:
    """The model's file: the given one, else that of an installed mediapipe. Raises UserError."""
    if given is not None:
        if not Path(given).is_file():
            raise UserError(f"segmenter.model {given}: no such file")
        return Path(given)
    package = importlib.util.find_spec("mediapipe")
    found = Path(package.origin).parent / IN_WHEEL if package and package.origin else None
    if found is None or not found.is_file():
        raise UserError(
            "the segmenter mediapipe needs selfie_segmentation.tflite: run pip install --no-deps "
            "mediapipe==0.10.21, or name the file with segmenter.model"
        )
    return found


@functools.lru_cache(maxsize=1)
def open_selfie_model(path: Path) -> Any:
    """The network, loaded once in a process. Raises UserError where the file is no such model."""
    cv2 = importlib.import_module("cv2")
    try:
        net = cv2.dnn.readNetFromTFLite(str(path))
        net.setInput(np.zeros((1, 3, INPUT, INPUT), np.float32))
        shape = net.forward().shape
    except cv2.error as e:
        reason = str(e).strip().splitlines()[0]
        raise UserError(f"segmenter.model {path}: OpenCV cannot run it ({reason})") from None
    if shape != (1, 1, INPUT, INPUT):
        raise UserError(
            f"segmenter.model {path}: its output is {shape}; that of MediaPipe's selfie "
            f"segmentation is (1, 1, {INPUT}, {INPUT})"
        )
    return net


def selfie_mask(path: Path, image: Image.Image) -> np.ndarray:
    """The mask of the people in an image ("RGB"), (H, W) in [0, 1], float32, at its size."""
    net = open_selfie_model(path)
    square = image.resize((INPUT, INPUT), Image.Resampling.BILINEAR, reducing_gap=3.0)
    with _ONE_AT_A_TIME:
        net.setInput(np.asarray(square, np.float32).transpose(2, 0, 1)[None] / 255)
        probability = net.forward()[0, 0].copy()
    small = scaled_down(image, SIDE)
    found = Image.fromarray(probability).resize(small.size, Image.Resampling.BILINEAR)
    return refine(np.asarray(found).clip(0, 1), small, image)
