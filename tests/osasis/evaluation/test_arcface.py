"""ArcFace with random weights: layout of its network, alignment, definition of the metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from osasis.bundles.base import Base
from osasis.errors import UserError
from osasis.evaluation.arcface import (
    DEPTHS,
    PREDICTOR,
    TEMPLATE,
    IResNet,
    arcface_metric,
    embed,
    five_points,
    load_arcface,
    similarity_transform,
)
from osasis.evaluation.choose import choose_metrics
from osasis.evaluation.identity import FaceFinder
from osasis.evaluation.metric import Picture
from osasis.images.tensors import image_to_tensor
from osasis.storage import save_tensors
from tests.osasis.evaluation.test_identity import needs_faces, pair, photo
from tests.tiny import picture, random_state


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of IResNet-50."""
    folder = tmp_path_factory.mktemp("weights")
    state = random_state(IResNet(DEPTHS[50]), seed=1)
    # Variances of batch norms are positive, and their counters integers.
    state = {k: v.abs() + 0.5 if k.endswith("running_var") else v for k, v in state.items()}
    save_tensors(
        folder / "arcface_r50.safetensors",
        {k: v.long() if k.endswith("tracked") else v for k, v in state.items()},
    )
    return folder


def test_layout_and_size_are_those_of_the_published_networks() -> None:
    # insightface gives 43.59 and 65.16 million parameters.
    sizes = {}
    for depth, blocks in DEPTHS.items():
        with torch.device("meta"):
            net = IResNet(blocks)
        sizes[depth] = sum(p.numel() for p in net.parameters())
    assert {d: round(n / 1e6, 2) for d, n in sizes.items()} == {50: 43.59, 100: 65.16}
    keys = set(net.state_dict())
    assert {"conv1.weight", "prelu.weight", "layer1.0.downsample.1.running_mean", "bn2.bias",
            "layer3.29.conv2.weight", "fc.bias", "features.running_var"} <= keys  # fmt: skip
    assert "layer3.1.downsample.0.weight" not in keys


def test_weights_are_checked_key_by_key(weights: Path, tmp_path: Path) -> None:
    net, depth = load_arcface(weights / "arcface_r50.safetensors")
    assert depth == 50 and not net.training
    assert net(torch.zeros(2, 3, 112, 112)).shape == (2, 512)
    state = net.state_dict()
    torch.save({k: v for k, v in state.items() if k != "fc.bias"}, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"short\.pth: not .* ArcFace IResNet-50 .*fc\.bias"):
        load_arcface(tmp_path / "short.pth")
    torch.save({k: v for k, v in state.items() if "layer3.13" not in k}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"\(3, 4, 13, 3\) are those of no ArcFace .*IResNet-50"):
        load_arcface(tmp_path / "other.pth")


def test_a_similarity_transform_is_found_from_its_points() -> None:
    angle, scale, shift = 0.3, 1.7, np.array([4.0, -9.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.random.RandomState(0).rand(5, 2) * 100
    matrix = similarity_transform(points, points @ (scale * turn).T + shift)
    assert np.allclose(matrix, np.c_[scale * turn, shift])


@needs_faces
@pytest.mark.parametrize("number", [1, 2, 3])
def test_alignment_moves_a_real_face_onto_the_template(number: int) -> None:
    landmarks = FaceFinder(PREDICTOR).find(photo(number))
    assert landmarks is not None and landmarks.shape == (68, 2)
    points = five_points(landmarks)
    matrix = similarity_transform(points, TEMPLATE)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    # Faces differ in shape and turn: a few of the 112 pixels.
    assert np.linalg.norm(moved - TEMPLATE, axis=1).max() < 8


@needs_faces
def test_the_metric_is_one_minus_the_cosine_of_aligned_faces(weights: Path) -> None:
    path = weights / "arcface_r50.safetensors"
    metric = arcface_metric(path)
    assert (metric.name, metric.backbone) == ("identity", "ArcFace IResNet-50")
    a, b = photo(1), photo(2)
    landmarks = FaceFinder(PREDICTOR).find(a)
    assert landmarks is not None
    matrix = similarity_transform(five_points(landmarks), TEMPLATE)
    net, _ = load_arcface(path)
    expected = 1 - F.cosine_similarity(embed(net, a, matrix), embed(net, b, matrix)).item()
    assert metric.of([pair(a, b)]) == pytest.approx(expected, abs=1e-5)
    assert expected > 1e-3
    assert metric.of([pair(a, a)]) == pytest.approx(0, abs=1e-6)
    plain = Picture(image_to_tensor(picture(1, (256, 256))))
    assert metric.measure(pair(plain, a)) is None


@needs_faces
def test_arcface_is_preferred_where_its_weights_are_given(
    weights: Path, tmp_path: Path, tiny_base: Base
) -> None:
    for folder, backbone in ((weights, "ArcFace IResNet-50"), (tmp_path, "dlib ResNet")):
        (metric,) = choose_metrics(tiny_base, ["identity"], folder).metrics
        assert metric.backbone == backbone
