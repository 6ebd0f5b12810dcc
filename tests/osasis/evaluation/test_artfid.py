"""FID and ArtFID against torch-fidelity (extra `fid`), with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from osasis.errors import UserError
from osasis.evaluation.artfid import artfid_metrics
from osasis.evaluation.metric import Pair, Picture
from osasis.guides.perceptual import PerceptualNet
from osasis.images.tensors import image_to_tensor, to_uint8
from tests.tiny import make_perceptual_file, picture

pytest.importorskip("torch_fidelity", reason="the extra `fid` is not installed")


def test_fid_is_torch_fidelitys_and_artfid_its_product_with_lpips(tmp_path: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    class Random(FeatureExtractorInceptionV3):  # type: ignore[misc]
        """The network with the weights of its construction."""

        def load_state_dict(self, state: object) -> None:
            pass

    torch.manual_seed(0)
    torch.save({}, tmp_path / "empty.pth")
    network = Random("random", ["2048"], str(tmp_path / "empty.pth"))
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    net = PerceptualNet("alex", make_perceptual_file(tmp_path / "alex.safetensors"))
    images = [image_to_tensor(picture(i, (64, 64))) for i in range(6)]
    pairs = [Pair(*(Picture(images[k]) for k in (i, (i + 1) % 6, i % 2, 0))) for i in range(6)]
    fid, artfid = artfid_metrics(path, net, "AlexNet")

    def statistics(chosen: list[int]) -> dict[str, np.ndarray]:
        (features,) = network(to_uint8(torch.stack([images[k] for k in chosen])))
        return fid_features_to_statistics(features.double())

    expected = fid_statistics_to_metric(statistics([1, 2, 3, 4, 5, 0]), statistics([0, 1]), False)
    value = fid.of(pairs)
    assert value == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    lpips = torch.cat([net(p.photo.batch, p.stylized.batch) for p in pairs]).mean().item()
    assert artfid.of(pairs) == pytest.approx((1 + lpips) * (1 + value), rel=1e-5)
    torch.save({"conv": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"inception\.pth: not the weights of FID's Inception"):
        artfid_metrics(path, net, "AlexNet")
