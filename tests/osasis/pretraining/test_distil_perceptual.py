"""The small perceptual net, its distillation, and training within a budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from osasis.errors import UserError
from osasis.guides.guide import StatisticsGuide
from osasis.guides.perceptual import PerceptualNet
from osasis.images.tensors import tensor_to_image, to_uint8
from osasis.networks.small_features import DISTANCE, STAGES, SmallFeatures
from osasis.pretraining import distil_perceptual as module
from osasis.pretraining.budgeted_training import (
    BudgetTooShortError,
    TrainingBudget,
    learning_rate_factor,
    train_within_budget,
)
from osasis.pretraining.distil_perceptual import Distiller
from osasis.pretraining.distillation_targets import (
    DistillationTargets,
    compute_targets,
    fit_principal_components,
)
from osasis.pretraining.image_pairs import distort, make_pairs
from osasis.storage import save_tensors, to_float16

Images = Callable[..., Tensor]


@pytest.fixture(scope="module")
def targets(vgg_file: Path, images: Images) -> DistillationTargets:
    pairs = make_pairs(to_uint8(images(6, size=64)), 9, 32, seed=0)
    return compute_targets(PerceptualNet("vgg", vgg_file), pairs)


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_tensors(path, SmallFeatures().state_dict())
    return path


@pytest.mark.parametrize("kind", range(7))
def test_distortions_change_the_image(kind: int, images: Images) -> None:
    x = images(1)[0]
    y = distort(x, kind, torch.Generator().manual_seed(3))
    assert y.shape == x.shape and y.abs().max() <= 1
    assert (x - y).abs().mean() > 1e-3
    assert torch.equal(y, distort(x, kind, torch.Generator().manual_seed(3)))


def test_projections_keep_distances() -> None:
    """A projection on all components is exact."""
    maps = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    maps = maps * torch.arange(1, 7).view(1, 6, 1, 1)
    for channels in (6, 9):
        project = fit_principal_components(maps, channels)
        small = project(maps) * project.scale
        assert small.shape == (4, channels, 5, 5)
        gap = (maps[0] - maps[1]).pow(2).sum()
        torch.testing.assert_close((small[0] - small[1]).pow(2).sum(), gap, rtol=1e-4, atol=0)
    first = fit_principal_components(maps, 1)(maps)
    assert float(first.var()) > 0.3, "the largest component is not the first"


def test_target_distances_are_lpips(targets: DistillationTargets, vgg_file: Path) -> None:
    net = PerceptualNet("vgg", vgg_file)
    x = targets.pairs.float() / 127.5 - 1
    torch.testing.assert_close(targets.distances, net(x[:, 0], x[:, 1]), rtol=1e-3, atol=1e-5)
    assert [t.shape[2] for t in targets.maps] == [*DISTANCE, *STAGES]


def test_the_loss_falls(targets: DistillationTargets) -> None:
    trainer = Distiller(targets, batch=4)
    rows = [trainer.step(0.5) for _ in range(30)]
    for key in ("maps", "stages"):
        first, last = (sum(r[key] for r in part) / 5 for part in (rows[:5], rows[-5:]))
        assert last < 0.95 * first, key
    figures = trainer.evaluate(targets)
    assert figures["pearson"] > 0.5 and 0 < figures["lost_1"] < 1.5


def test_initialisation_from_the_teacher(targets: DistillationTargets, vgg_file: Path) -> None:
    """Before any step, the student explains most of the maps that it was fitted on."""
    trainer = Distiller(targets, teacher=PerceptualNet("vgg", vgg_file))
    started, random = trainer.evaluate(targets), Distiller(targets).evaluate(targets)
    for key in ("lost_1", "lost_stage_1", "lost_stage_2"):
        assert started[key] < 0.7 * random[key], key
    assert started["pearson"] > 0.8
    trainer.calibrate()
    assert trainer.evaluate(targets)["median_ratio"] == pytest.approx(1.0, abs=0.02)


def test_resumed_equals_uninterrupted(targets: DistillationTargets, tmp_path: Path) -> None:
    budget, identity = TrainingBudget(steps=6), {"seed": 0}
    whole = Distiller(targets, batch=2)
    curve = train_within_budget(whole, budget, tmp_path / "whole", identity)
    part = Distiller(targets, batch=2)
    train_within_budget(part, budget, tmp_path / "part", identity, stop_after=3)
    rest = Distiller(targets, batch=2)
    assert train_within_budget(rest, budget, tmp_path / "part", identity) == curve
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[key]), key
    assert len(curve) == 6
    with pytest.raises(UserError, match="another training"):
        train_within_budget(Distiller(targets), budget, tmp_path / "part", {"seed": 1})


def test_budgets() -> None:
    assert (
        TrainingBudget(minutes=2).progress(5, 60) == 0.5
        and TrainingBudget(steps=10).progress(5, 1e9) == 0.5
    )
    for bad in ({}, {"minutes": 1.0, "steps": 1}, {"steps": 0}, {"minutes": -1.0}):
        with pytest.raises(UserError):
            TrainingBudget(**bad)  # type: ignore[arg-type]
    rates = [learning_rate_factor(p / 100) for p in range(101)]
    assert max(rates) > 0.99 and rates[0] < 0.1 and rates[-1] == pytest.approx(0.01)


def test_too_few_minutes_raise(targets: DistillationTargets, tmp_path: Path) -> None:
    trainer = Distiller(targets, batch=1)
    with pytest.raises(BudgetTooShortError, match="give more minutes"):
        train_within_budget(trainer, TrainingBudget(minutes=0.001), tmp_path / "state", {})


@torch.no_grad()
def test_the_small_net_as_perceptual_net(small_file: Path, images: Images, tmp_path: Path) -> None:
    net = PerceptualNet("small", small_file)
    a, b = images(3, 1, size=48), images(3, 2, size=48)
    assert [f.shape[1] for f in net.features(a)] == list(DISTANCE)
    assert [f.shape[2] for f in net.features(a)] == [48, 24, 12, 6, 3]
    d = net(a, b)
    assert d.shape == (3,) and d.min() > 0 and net(a, a).abs().max() == 0
    torch.testing.assert_close(net(a[:1], b), net(a[:1].expand(3, -1, -1, -1), b))
    assert sum(p.numel() for p in net.parameters()) <= 1_100_000
    save_tensors(tmp_path / "half.safetensors", to_float16(net.model.state_dict()))
    assert (tmp_path / "half.safetensors").stat().st_size < 2_200_000
    half = PerceptualNet("small", tmp_path / "half.safetensors")
    torch.testing.assert_close(half(a, b), d, rtol=2e-2, atol=0)


@torch.no_grad()
def test_the_small_nets_statistics(small_file: Path, images: Images) -> None:
    net = PerceptualNet("small", small_file)
    x = images(2)
    guide = StatisticsGuide(net, (0, 1, 2, 3))
    out = guide.embed(x)
    assert out.shape == (2, 4, 2 * max(STAGES))
    torch.testing.assert_close(out[:, 2, : STAGES[1]], net.stages(x, 3)[1].mean(dim=(2, 3)))
    assert len(net.stages(x, 1)) == 1
    with pytest.raises(UserError, match="choose some of 0 to 3"):
        StatisticsGuide(net, (4,))


def test_the_small_net_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights to download"):
        PerceptualNet("small")


@pytest.mark.slow
def test_the_command(
    vgg_file: Path, images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, x in enumerate(images(4, size=64)):
        tensor_to_image(x).save(photos / f"{i}.png")
    out = tmp_path / "out" / "small.safetensors"
    call = ["--images", str(photos), "--teacher", str(vgg_file), "--out", str(out)]
    assert module.main([*call, "--steps", "2", "--pairs", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"] == 2 and report == json.loads(out.with_suffix(".json").read_text())
    assert all(v.dtype == torch.float16 for v in load_file(out).values())
    PerceptualNet("small", out)
    assert module.main(call) == 2
    assert "either minutes or steps" in capsys.readouterr().err
    assert module.main([*call, "--minutes", "0.0001", "--pairs", "4"]) == 2
    assert "another training" in capsys.readouterr().err
    out.with_suffix(".state").unlink()
    assert module.main([*call, "--minutes", "0.0001", "--pairs", "3"]) == 1
    assert "give more minutes" in capsys.readouterr().err
