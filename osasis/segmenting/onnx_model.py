"""Masks by a matting or segmentation model in ONNX, run by onnxruntime on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osasis.errors import UserError

# Side in pixels of the pictures for a model that reads pictures of any size.
SIDE = 512
# By how much rounding may leave [0, 1], or a sum of shares 1.
ROUNDING = 0.01
# Mean and deviation of pixels in [0, 1], by PixelRange.
NORMALISATION = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "signed": ((0.5,) * 3, (0.5,) * 3),
    "unit": ((0.0,) * 3, (1.0,) * 3),
}


class Model:
    """A model with one picture (1, 3, H, W) as its input, and (1, C, h, w) as its first output."""

    def __init__(self, path: str) -> None:
        """Raises UserError where onnxruntime is missing or the file is no such model."""
        try:
            import onnxruntime
        except ImportError:
            raise UserError(
                "the segmenter onnx needs onnxruntime; run pip install 'style-factory[segment]'"
            ) from None
        if not Path(path).is_file():
            raise UserError(f"segmenter.model {path}: no such file")
        options = onnxruntime.SessionOptions()
        # Several readers run side by side.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # onnxruntime raises errors of many types
            reason = str(e).strip().splitlines()[0]
            raise UserError(f"segmenter.model {path}: no ONNX model ({reason})") from None
        self.path = path
        inputs = self.session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
            found = ", ".join(f"{i.name} {i.shape}" for i in inputs)
            raise UserError(
                f"segmenter.model {path}: its inputs are {found}; it must have one, of the shape "
                "(1, 3, height, width)"
            )
        self.input = inputs[0].name
        height, width = (n if isinstance(n, int) and n > 0 else SIDE for n in shape[2:])
        self.size = width, height

    def check(self, channels: Sequence[int] | None) -> None:
        """Raise UserError where a picture does not give these channels."""
        self.run(np.zeros((1, 3, self.size[1], self.size[0]), np.float32), channels)

    def run(self, pixels: np.ndarray, channels: Sequence[int] | None) -> np.ndarray:
        """The mask (h, w) in [0, 1] of pixels (1, 3, H, W). Raises UserError."""
        try:
            outputs = self.session.run(None, {self.input: pixels})
        except Exception as e:  # onnxruntime raises errors of many types
            reason = str(e).strip().splitlines()[0]
            raise UserError(f"segmenter.model {self.path}: cannot be run ({reason})") from None
        values = np.asarray(outputs[0], np.float32)
        values = values.reshape(-1, *values.shape[-2:])
        count = len(values)
        if channels is None and count != 1:
            raise UserError(
                f"segmenter.channels is not given, but {self.path} has {count} output channels; "
                "name those that show the region"
            )
        shares = values.min() > -ROUNDING and values.max() < 1 + ROUNDING
        if channels is None:
            return values[0].clip(0, 1) if shares else 1 / (1 + np.exp(-values[0]))
        if beyond := [c for c in channels if c >= count]:
            raise UserError(
                f"segmenter.channels names {beyond[0]}, but {self.path} has {count} output "
                f"channels; they are 0 to {count - 1}"
            )
        if not (shares and np.abs(values.sum(0) - 1).max() < ROUNDING):
            values = np.exp(values - values.max(0))
            values = values / values.sum(0)
        found: np.ndarray = values[list(channels)].sum(0).clip(0, 1)
        return found


@functools.lru_cache(maxsize=2)
def open_model(path: str) -> Model:
    """A model, loaded once in a process. Raises UserError."""
    return Model(path)


def model_mask(
    path: str, image: Image.Image, pixels: str, channels: Sequence[int] | None
) -> np.ndarray:
    """The mask (H, W) in [0, 1], float32, of an image ("RGB"), at its size. Raises UserError.

    pixels: ``PixelRange`` that the model reads.
    """
    model = open_model(path)
    small = image.resize(model.size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    mean, deviation = (np.array(v, np.float32) for v in NORMALISATION[pixels])
    values: Any = (np.asarray(small, np.float32) / 255 - mean) / deviation
    found = model.run(values.transpose(2, 0, 1)[None], channels)
    large = Image.fromarray(found.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    return np.asarray(large).clip(0, 1)
