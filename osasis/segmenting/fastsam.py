"""Masks of what a prompt names, by FastSAM exported to ONNX.

Zhao et al., "Fast Segment Anything" (2023): a YOLOv8 network segments everything in a picture; the
prompt then selects among the segments (Sec. 3.3). For each of N candidates the first output has a
box (centre and size, in pixels of the input), a score and 32 coefficients of the mask prototypes
that are the second output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from osasis.errors import ImageError, UserError
from osasis.images.faces import find_faces
from osasis.segmenting.onnx_model import Model, open_model
from osasis.segmenting.prompts import Box, Prompt
from osasis.segmenting.refine import refine, scaled_down
from osasis.segmenting.text_match import similarities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from osasis.guides.guide import OpenClipGuide

# As published: least score of a segment, and overlap of boxes that drops the weaker one.
SCORE, OVERLAP = 0.4, 0.9
# Pixels of the prototypes; smaller segments are not compared to texts. The published code drops
# those of up to 100 pixels of the input, which has four times the width and height.
LEAST_AREA = 100 / 16
COEFFICIENTS = 32
# Grey around a picture that is not square, as in the training.
PADDING = 114
SIDE = 384


@dataclass(frozen=True)
class Segments:
    """What was found, best first. boxes: (K, 4), left, top, right, bottom; masks: (K, h, w) bool.

    Both in pixels of the prototypes, of which (h, w) show the picture.
    """

    boxes: np.ndarray
    masks: np.ndarray


def open_fastsam(path: str) -> Model:
    """The model, loaded once in a process. Raises UserError where the file is not FastSAM."""
    model = open_model(path)
    shapes = [o.shape for o in model.session.get_outputs()]
    ok = len(shapes) == 2 and len(shapes[0]) == 3 and len(shapes[1]) == 4
    if not ok or shapes[0][1] != 5 + COEFFICIENTS or shapes[1][1] != COEFFICIENTS:
        raise UserError(
            f"segmenter.model {path}: its outputs are {shapes}; those of FastSAM are "
            f"(1, {5 + COEFFICIENTS}, N) and (1, {COEFFICIENTS}, height, width)"
        )
    return model


def fastsam_mask(
    path: str, image: Image.Image, prompt: Prompt, clip: OpenClipGuide | None = None
) -> np.ndarray:
    """The mask of what the prompt names in an image ("RGB"), (H, W) in [0, 1], float32.

    Without a prompt it is what is at the faces, or at the centre. clip: for a text. Raises
    ImageError where no segment is there, UserError.
    """
    found = segments(open_fastsam(path), image)
    chosen = np.ones(len(found.masks), bool)
    if prompt.text is not None and clip is not None:
        chosen = _nearest_to_text(found, image, prompt.text, clip)
    elif prompt.box:
        chosen = _in_box(found, prompt.box)
    if prompt.points or not prompt:
        chosen &= _at_points(found, prompt.points or _centres(image))
    if not chosen.any():
        raise ImageError("image", "no segment is found where the mask shall be")
    union = found.masks[chosen].any(0)
    small = scaled_down(image, SIDE)
    mask = Image.fromarray(union.astype(np.float32)).resize(small.size, Image.Resampling.BILINEAR)
    return refine(np.asarray(mask), small, image)


def segments(model: Model, image: Image.Image) -> Segments:
    """All segments of an image ("RGB")."""
    width, height = model.size
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    padded = Image.new("RGB", model.size, (PADDING,) * 3)
    padded.paste(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))
    pixels = np.asarray(padded, np.float32).transpose(2, 0, 1)[None] / 255
    candidates, prototypes = model.session.run(None, {model.input: pixels})
    return decode_segments(candidates[0], prototypes[0], model.size, size)


def decode_segments(
    candidates: np.ndarray, prototypes: np.ndarray, input_size: tuple[int, int],
    size: tuple[int, int],
) -> Segments:  # fmt: skip
    """Segments from the outputs (5 + 32, N) and (32, h, w).

    input_size: width and height of the input; size: of the picture in its upper left.
    """
    import torch
    from torchvision.ops import nms

    rows = candidates.T[candidates[4] >= SCORE]
    scale = np.array(prototypes.shape[:0:-1], np.float32) / np.array(input_size, np.float32)
    centre, half = rows[:, :2] * scale, rows[:, 2:4] * scale / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(rows[:, 4].copy()), OVERLAP).numpy()
    boxes, coefficients = boxes[kept], rows[kept, 5:]
    logits = np.tensordot(coefficients, prototypes, axes=1)
    y, x = np.mgrid[: logits.shape[1], : logits.shape[2]]
    left, top, right, bottom = (b[:, None, None] for b in boxes.T)
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    width, height = np.ceil(np.array(size) * scale).astype(int)
    return Segments(boxes, ((logits > 0) & inside)[:, :height, :width])


def _at_points(found: Segments, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Which segments contain one of the points."""
    height, width = found.masks.shape[1:]
    chosen = np.zeros(len(found.masks), bool)
    for x, y in points:
        column, row = min(int(x * width), width - 1), min(int(y * height), height - 1)
        chosen |= found.masks[:, row, column]
    return chosen


def _in_box(found: Segments, box: Box) -> np.ndarray:
    """Which segment has the largest overlap with a box (intersection over union)."""
    height, width = found.masks.shape[1:]
    left, top, right, bottom = np.array(box) * [width, height, width, height]
    y, x = np.mgrid[:height, :width] + 0.5
    area = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    shares = [(m & area).sum() / max(1, (m | area).sum()) for m in found.masks]
    chosen = np.zeros(len(shares), bool)
    if shares and max(shares) > 0:
        chosen[int(np.argmax(shares))] = True
    return chosen


def _nearest_to_text(
    found: Segments, image: Image.Image, text: str, clip: OpenClipGuide
) -> np.ndarray:
    """Which segment's box shows what a text says most."""
    chosen = np.zeros(len(found.masks), bool)
    large = [k for k, mask in enumerate(found.masks) if mask.sum() > LEAST_AREA]
    if large:
        crops = [image.crop(_on_image(found, found.boxes[k], image)) for k in large]
        chosen[large[int(similarities(clip, crops, text).argmax())]] = True
    return chosen


def _on_image(found: Segments, box: np.ndarray, image: Image.Image) -> tuple[int, int, int, int]:
    """A segment's box in pixels of the image, of at least one pixel."""
    height, width = found.masks.shape[1:]
    scale = np.array([image.width / width, image.height / height] * 2)
    left, top, right, bottom = (box * scale).clip(0, [image.width, image.height] * 2).astype(int)
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _centres(image: Image.Image) -> list[tuple[float, float]]:
    """The centres of the faces, or of the image; as shares of its width and height."""
    places = find_faces(image)
    centres = [np.mean(place.corners(), axis=0) / image.size for place in places]
    return [(float(x), float(y)) for x, y in centres] or [(0.5, 0.5)]
