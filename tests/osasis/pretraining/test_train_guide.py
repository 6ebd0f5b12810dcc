"""Training a guide on looks and captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.errors import UserError
from osasis.guides.guide import open_clip_guide
from osasis.images.tensors import from_uint8, tensor_to_image, to_uint8
from osasis.looks.dataset import LookDataset, make_look_dataset
from osasis.pretraining import train_guide as module
from osasis.pretraining.budgeted_training import TrainingBudget, train_within_budget
from osasis.pretraining.train_guide import (
    GuideTrainer,
    direction_separation,
    info_nce,
    measure_looks,
    new_guide,
)

Images = Callable[..., Tensor]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vision = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32}
    text = {"context_length": 24, "vocab_size": 256, "width": 32, "heads": 2, "layers": 1}
    path = tmp_path_factory.mktemp("guide") / "tests-words-clip.json"
    path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    return path


@pytest.fixture(scope="module")
def pool(images: Images) -> LookDataset:
    photos = to_uint8(images(8, seed=4, size=64))
    return make_look_dataset(photos, 26, 2, 32, seed=0)


def trainer(config: Path, pool: LookDataset, batch: int = 8) -> GuideTrainer:
    return GuideTrainer(new_guide(config, 0), measure_looks(pool), seed=0, batch=batch)


def test_info_nce_is_lower_for_matching_pairs() -> None:
    a = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    assert info_nce(a, 2 * a) < 0.3 < info_nce(a, a.flip(0))


def test_losses_fall_and_directions_separate(config: Path, pool: LookDataset) -> None:
    t = trainer(config, pool, 26)
    before = direction_separation(t.guide, pool)
    rows = [t.step(1.0) for _ in range(40)]
    for key in ("clip", "look", "words"):
        first, last = (sum(r[key] for r in part) / 4 for part in (rows[:4], rows[-4:]))
        assert last < 0.9 * first, key
    t.guide.model.eval()
    after = direction_separation(t.guide, pool)
    assert after["found"] >= before["found"] and after["same"] > after["different"] + 0.2


def test_text_directions_match_image_directions(config: Path, pool: LookDataset) -> None:
    t = trainer(config, pool, 26)
    for _ in range(60):
        t.step(1.0)
    guide = t.guide
    guide.model.eval()
    rows = [i for i, name in enumerate(pool.looks) if name in ("cyanotype", "silver")]
    with torch.no_grad():
        e = guide.embed(from_uint8(pool.pictures[rows, 0]))[:, 0]
        texts = ["a cyanotype of a person", "a black and white photo of a person"]
        words = guide.embed_text(texts)[:, 0]
    order = [0 if pool.looks[i] == "cyanotype" else 1 for i in rows]
    d = F.normalize(e, dim=-1)[order.index(0)] - F.normalize(e, dim=-1)[order.index(1)]
    w = F.normalize(words, dim=-1)
    assert F.cosine_similarity(d, w[0] - w[1], dim=0) > 0.2


def test_resumed_equals_uninterrupted(config: Path, pool: LookDataset, tmp_path: Path) -> None:
    budget = TrainingBudget(steps=4)
    whole = trainer(config, pool, 4)
    curve = train_within_budget(whole, budget, tmp_path / "whole", {})
    train_within_budget(trainer(config, pool, 4), budget, tmp_path / "part", {}, stop_after=2)
    rest = trainer(config, pool, 4)
    assert train_within_budget(rest, budget, tmp_path / "part", {}) == curve
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[key]), key


def test_a_resumed_training_keeps_its_arithmetic(
    config: Path, pool: LookDataset, tmp_path: Path
) -> None:
    budget = TrainingBudget(steps=2)
    begun = trainer(config, pool, 4)
    begun.arithmetic = "bfloat16"
    train_within_budget(begun, budget, tmp_path / "state", {}, stop_after=1)
    resumed = trainer(config, pool, 4)
    assert resumed.arithmetic == "float32"
    train_within_budget(resumed, budget, tmp_path / "state", {})
    assert resumed.arithmetic == "bfloat16"


def test_the_command_writes_a_guide_that_loads(
    config: Path, images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, x in enumerate(images(4, size=64)):
        tensor_to_image(x).save(photos / f"{i}.png")
    out = tmp_path / "out"
    call = ["--images", str(photos), "--out", str(out), "--config", str(config)]
    call += ["--paintings", "5", "--batch", "4", "--precision", "float32"]
    assert module.main([*call, "--steps", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"] == 2 and report == json.loads((out / "guide.json").read_text())
    # The metadata of the weights file contains the facts.
    copied = out / config.name
    guide = open_clip_guide(config.stem, str(out / "guide.safetensors"), copied)
    assert guide.metadata == report["facts"]
    x = images(2)
    by_facts = open_clip_guide(config.stem, None, copied, report["facts"])
    by_facts.model.load_state_dict(guide.model.state_dict())
    assert torch.equal(guide.embed(x), by_facts.embed(x))
    texts = ["an ink drawing of a person", "a photo of a person"]
    assert torch.equal(guide.embed_text(texts), by_facts.embed_text(texts))
    with pytest.raises(UserError, match="does not know the word 'unicorn'"):
        guide.embed_text(["a unicorn"])


def test_the_command_refuses_invalid_input(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--images", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
    assert module.main([*call, "--steps", "2"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert module.main([*call, "--steps", "2", "--precision", "float8"]) == 2
    assert "auto, float32, bfloat16" in capsys.readouterr().err
    assert module.main([*call, "--steps", "2", "--config", str(tmp_path / "no.json")]) == 2
    assert "no such open_clip model configuration" in capsys.readouterr().err


def test_the_shipped_configuration_is_small() -> None:
    guide = new_guide(module.CONFIG, 0)
    assert sum(p.numel() for p in guide.model.parameters()) <= 1_600_000
    assert guide.size == 64 and guide.has_text
