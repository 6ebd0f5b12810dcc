"""`style-factory base train-guide`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from factory.cli import main
from osasis.guides.guide import open_clip_guide
from osasis.images.tensors import tensor_to_image


def test_train_guide(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vision = {"image_size": 32, "patch_size": 8, "layers": 1, "width": 32, "head_width": 32}
    text = {"context_length": 24, "vocab_size": 256, "width": 32, "heads": 1, "layers": 1}
    config = tmp_path / "tests-cli-clip.json"
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    photos, out = tmp_path / "photos", tmp_path / "guide"
    photos.mkdir()
    for i, x in enumerate(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))):
        tensor_to_image(2 * x - 1).save(photos / f"{i}.png")
    call = ["base", "train-guide", "--images", str(photos), "--out", str(out), "--json"]
    call += ["--config", str(config), "--paintings", "3", "--batch", "2"]
    assert main([*call, "--steps", "2"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["steps"] == 2 and report["model"] == config.stem
    guide = open_clip_guide(config.stem, str(out / "guide.safetensors"), out / config.name)
    assert guide.embed_text(["a mosaic of a face"]).shape == (1, 1, 16)

    assert main(call) == 2
    assert "either minutes or steps" in json.loads(capfd.readouterr().out)["error"]
    (out / "guide.state").unlink()
    assert main([*call, "--minutes", "0.0001"]) == 1
    assert "give more minutes" in json.loads(capfd.readouterr().out)["error"]
