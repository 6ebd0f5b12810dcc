"""Masks by FastSAM's outputs: a small model with the same form, made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip import get_tokenizer, image_transform
from PIL import Image

from osasis.errors import ImageError, UserError
from osasis.guides.guide import OpenClipGuide
from osasis.segmenting import Segmenter
from osasis.segmenting.fastsam import decode_segments
from osasis.storage import save_tensors
from tests.osasis.segmenting.test_onnx_model import make_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 64


def candidates() -> np.ndarray:
    """(37, 5): red on the left, green on the right, red again, a faint one, and the whole picture.

    A column is a box's centre and size, a score, and the coefficients of the prototypes.
    """
    rows = np.zeros((5, 37), np.float32)
    left, right, whole = (16, 32, 32, 64), (48, 32, 32, 64), (32, 32, 64, 64)
    for row, (box, score, *coefficients) in zip(
        rows,
        [(right, 0.8, 0, 9, 0), (left, 0.9, 9, 0, 0), ((16, 32, 31, 64), 0.7, 9, 0, 0),
         (left, 0.3, 0, 9, 0), (whole, 0.5, 9, 9, 3)],
        strict=True,
    ):  # fmt: skip
        row[:4], row[4], row[5:8] = box, score, coefficients
    return rows.T.copy()


def make_fastsam(path: Path) -> Path:
    """A model whose prototypes are red - 0.5 and green - 0.5 of the pooled picture, and 1."""
    helper, kinds = onnx.helper, onnx.TensorProto
    kernel = np.zeros((32, 3, 1, 1), np.float32)
    kernel[0, 0], kernel[1, 1] = 1, 1
    bias = np.array([-0.5, -0.5, 1, *[0] * 29], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[4, 4],
                             strides=[4, 4]),
            helper.make_node("Conv", ["pooled", "kernel", "bias"], ["output1"]),
            helper.make_node("Identity", ["candidates"], ["output0"]),
        ],
        "test",
        [helper.make_tensor_value_info("images", kinds.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", kinds.FLOAT, [1, 37, 5]),
         helper.make_tensor_value_info("output1", kinds.FLOAT, [1, 32, SIDE // 4, SIDE // 4])],
        [onnx.numpy_helper.from_array(values, name) for name, values in
         (("kernel", kernel), ("bias", bias), ("candidates", candidates()[None]))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(make_fastsam(tmp_path / "fastsam.onnx"))


def two_squares(width: int = 120, height: int = 120) -> Image.Image:
    """Black, with a red square on the left and a green one on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 4 : -height // 4, width // 8 : 3 * width // 8, 0] = 255
    pixels[height // 4 : -height // 4, 5 * width // 8 : 7 * width // 8, 1] = 255
    return Image.fromarray(pixels)


def found(model: str, photo: Image.Image, **prompt: object) -> np.ndarray:
    segmenter = Segmenter.parse({"name": "fastsam", "model": model, **prompt})
    segmenter.check("subject")
    return np.asarray(segmenter.propose(photo, "subject")) / 255


@pytest.mark.parametrize("size", [(120, 120), (160, 80)])
def test_a_box_selects_the_segment_that_fills_it(model: str, size: tuple[int, int]) -> None:
    photo = two_squares(*size)
    red, green = np.moveaxis(np.asarray(photo), -1, 0)[:2] > 0
    for box, expected in (((0.1, 0.2, 0.4, 0.8), red), ((0.6, 0.2, 0.9, 0.8), green)):
        mask = found(model, photo, box=box)
        assert mask.shape == expected.shape
        assert ((mask > 0.5) != expected).mean() < 0.03
    both = found(model, photo, box=(0.0, 0.0, 1.0, 1.0))
    assert ((both > 0.5) != (red | green)).mean() < 0.03


def test_points_select_the_segments_that_contain_one(model: str) -> None:
    photo = two_squares()
    red, green = np.moveaxis(np.asarray(photo), -1, 0)[:2] > 0
    # Without the whole picture's segment, which contains each point of both.
    at_box = {"points": [[0.25, 0.5]], "box": [0.1, 0.2, 0.4, 0.8]}
    assert ((found(model, photo, **at_box) > 0.5) != red).mean() < 0.03
    assert ((found(model, photo, points=[[0.75, 0.5]]) > 0.5) != (red | green)).mean() < 0.03
    with pytest.raises(ImageError, match="no segment is found where the mask shall be"):
        found(model, photo, points=[[0.5, 0.05]])
    with pytest.raises(ImageError, match="no segment is found"):  # no face, nothing at the centre
        found(model, photo)
    with pytest.raises(ImageError, match="no segment is found"):
        found(model, photo, points=[[0.75, 0.5]], box=[0.1, 0.2, 0.4, 0.8])


def test_weak_and_doubled_segments_are_dropped() -> None:
    prototypes = np.zeros((32, 16, 16), np.float32)
    prototypes[0, :, :8], prototypes[1, :, 8:] = 1, 1
    kept = decode_segments(candidates(), prototypes, (SIDE, SIDE), (SIDE, 48))
    # Best first; boxes in pixels of the prototypes, which have a quarter of the input's side.
    np.testing.assert_allclose(kept.boxes, [[0, 0, 8, 16], [8, 0, 16, 16], [0, 0, 16, 16]])
    # The picture is in the upper three quarters of the input.
    assert kept.masks.shape == (3, 12, 16)
    assert [m.sum() for m in kept.masks] == [96, 96, 192]


def test_a_model_with_other_outputs_is_refused(tmp_path: Path) -> None:
    other = make_model(tmp_path / "red.onnx", [[1, 0, 0]])
    with pytest.raises(UserError, match=r"its outputs are \[\[1, 1, 32, 32\]\]; those of FastSAM"):
        Segmenter.parse({"name": "fastsam", "model": str(other)}).check("subject")
    with pytest.raises(UserError, match="the segmenter fastsam needs a model"):
        Segmenter.parse({"name": "fastsam"})


# Names of things, among which a random CLIP prefers one half of the picture or the other.
NAMES = ("a hat", "red", "green", "a dog", "the sea", "two trees", "a face", "night", "a car")


@pytest.fixture
def clip(clip_config: Callable[..., Path], clip_guide: OpenClipGuide, tmp_path: Path) -> str:
    """A file of CLIP's weights; its model is known to open_clip by ``clip_guide``."""
    path = tmp_path / "clip.safetensors"
    save_tensors(path, clip_guide.model.state_dict())
    return str(path)


def test_a_text_selects_the_segment_that_clip_finds_nearest(
    model: str, clip: str, clip_guide: OpenClipGuide
) -> None:
    photo = two_squares(120, 96)
    red, green = np.moveaxis(np.asarray(photo), -1, 0)[:2] > 0
    # The boxes are the left half, the right half and the whole picture.
    prepare = image_transform((32, 32), is_train=False)
    crops = [photo.crop(b) for b in ((0, 0, 60, 96), (60, 0, 120, 96), (0, 0, 120, 96))]
    with torch.no_grad():
        pictures = clip_guide.model.encode_image(torch.stack([prepare(c) for c in crops]))
        texts = clip_guide.model.encode_text(get_tokenizer("tests-tiny-clip")(list(NAMES)))
    nearest = F.cosine_similarity(texts[:, None], pictures[None], dim=-1).argmax(1).tolist()
    assert len(set(nearest)) > 1
    for name, k in zip(NAMES, nearest, strict=True):
        mask = found(model, photo, text=name, clip_model="tests-tiny-clip", clip=clip)
        assert ((mask > 0.5) != (red, green, red | green)[k]).mean() < 0.03, name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"text": "a hat"}, "texts need the weights of CLIP; set the segmenter's clip"),
        ({"text": "a hat", "clip": "openai", "points": [[0.5, 0.5]]}, "leave one out"),
        ({"text": "a hat", "clip": "/none.pt"}, "there is no such file; its tags: .*openai"),
        ({"text": "a hat", "clip": "openai", "clip_model": "ViT-B-33"}, "nearest: ViT-B-32"),
        ({"text": ""}, "text"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(
    given: dict[str, object], says: str, model: str
) -> None:
    with pytest.raises(UserError, match=says):
        found(model, two_squares(), **given)
    with pytest.raises(UserError, match="texts are for the segmenter fastsam, and"):
        Segmenter.parse({"text": "a hat"})


def test_the_weights_of_clip_are_part_of_the_identity(model: str, clip: str) -> None:
    def identity(**given: object) -> dict[str, object]:
        fields = {"name": "fastsam", "model": model, "clip": clip, **given}
        return Segmenter.parse(fields).identity()

    before = identity(text="a hat")
    assert identity(text="a dog") != before
    assert "clip" not in identity()
    Path(clip).write_bytes(b"other")
    assert identity(text="a hat") != before
    assert identity(text="a hat", clip="openai")["clip"] == "openai"
