"""Masks by ONNX models: small models that are made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osasis.errors import UserError
from osasis.segmenting import Segmenter

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def make_model(path: Path, weights: list[list[float]], side: int | str = 32) -> Path:
    """A 1x1 convolution from the picture to len(weights) channels."""
    helper, kinds = onnx.helper, onnx.TensorProto
    kernel = np.array(weights, np.float32)[..., None, None]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["picture", "kernel"], ["mask"])],
        "test",
        [helper.make_tensor_value_info("picture", kinds.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("mask", kinds.FLOAT, [1, len(weights), side, side])],
        [onnx.numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def half_red() -> Image.Image:
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, :45, 0] = 255
    pixels[:, 45:, 1] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("side", [32, "any"])
def test_a_matting_model_gives_the_mask_at_the_photos_size(side: int | str, tmp_path: Path) -> None:
    path = make_model(tmp_path / "red.onnx", [[1, 0, 0]], side)
    segmenter = Segmenter.parse({"name": "onnx", "model": str(path), "pixels": "unit"})
    segmenter.check("subject")
    mask = np.asarray(segmenter.propose(half_red(), "subject"))
    assert mask.shape == (60, 90)
    assert mask[:, :40].min() == 255 and mask[:, 50:].max() == 0
    background = np.asarray(segmenter.propose(half_red(), "background"))
    np.testing.assert_array_equal(background, 255 - mask)
    # Values beyond [0, 1] are logits: of normalised pixels here.
    signed = segmenter.replace(pixels="signed").propose(half_red(), "subject")
    found = np.asarray(signed)[30] / 255
    np.testing.assert_allclose(found[[0, -1]], 1 / (1 + np.exp([-1, 1])), atol=0.01)


def test_a_model_of_several_channels_needs_those_of_the_region(tmp_path: Path) -> None:
    path = make_model(tmp_path / "parts.onnx", [[20, 0, 0], [0, 20, 0], [0, 0, 20]])
    given = {"name": "onnx", "model": str(path), "pixels": "unit"}
    hair = Segmenter.parse({**given, "channels": [1, 2]})
    hair.check("hair")
    mask = np.asarray(hair.propose(half_red(), "hair"))
    assert mask[:, :40].max() <= 1 and mask[:, 50:].min() == 255
    with pytest.raises(UserError, match=r"channels is not given; it must name the output channels"):
        Segmenter.parse(given).check("hair")
    with pytest.raises(UserError, match="has 3 output channels; name those that show the region"):
        Segmenter.parse(given).check("subject")
    with pytest.raises(UserError, match=r"names 7, but .* they are 0 to 2"):
        Segmenter.parse({**given, "channels": [7]}).check("face")


def test_the_identity_has_the_models_hash_in_place_of_its_path(tmp_path: Path) -> None:
    path = make_model(tmp_path / "red.onnx", [[1, 0, 0]])
    found = Segmenter.parse({"name": "onnx", "model": str(path)}).identity()
    assert found["model"].startswith("sha256:") and str(tmp_path) not in str(found)
    make_model(path, [[0, 1, 0]])
    assert Segmenter.parse({"name": "onnx", "model": str(path)}).identity() != found
    assert Segmenter().identity() == {"name": "grabcut"}


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    for name, reason in (("gone.onnx", "no such file"), ("text.onnx", "no ONNX model")):
        segmenter = Segmenter.parse({"name": "onnx", "model": str(tmp_path / name)})
        with pytest.raises(UserError, match=rf"segmenter.model .*{name}: {reason}"):
            segmenter.check("subject")
    with pytest.raises(UserError, match="the segmenter onnx needs a model"):
        Segmenter.parse({"name": "onnx"})


def test_rounding_makes_no_logits_and_shares_are_taken_as_they_are(tmp_path: Path) -> None:
    given = {"name": "onnx", "pixels": "unit"}
    over = make_model(tmp_path / "over.onnx", [[1.000001, 0, 0]])
    mask = np.asarray(Segmenter.parse({**given, "model": str(over)}).propose(half_red(), "subject"))
    assert (mask[30, 0], mask[30, -1]) == (255, 0)
    # Of red, green and blue one is 1 and the others 0, as after a softmax.
    parts = make_model(tmp_path / "parts.onnx", [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    hair = Segmenter.parse({**given, "model": str(parts), "channels": [1]})
    mask = np.asarray(hair.propose(half_red(), "hair"))
    assert (mask[30, 0], mask[30, -1]) == (0, 255)


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Identity", ["picture"], ["mask"])],
        "test",
        [helper.make_tensor_value_info("picture", kinds.FLOAT16, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("mask", kinds.FLOAT16, [1, 3, 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = tmp_path / "half.onnx"
    path.write_bytes(model.SerializeToString())
    given = {"name": "onnx", "model": str(path), "channels": [0]}
    with pytest.raises(UserError, match=r"half\.onnx: cannot be run \("):
        Segmenter.parse(given).check("face")
