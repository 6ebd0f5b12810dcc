"""Saving, loading and compacting of style bundles; damaged bundles are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.bundles.style import Style, load_style, save_style
from osasis.errors import UserError
from osasis.images.tensors import load_square
from osasis.palette import Palette

Images = Callable[..., Tensor]
Styles = Callable[..., Style]


def save(folder: Path, style: Style, images: Images, dtype: str = "float32") -> int:
    """Save and return the weights' size in bytes."""
    save_style(folder, style, images(1, 40)[0], images(1, 41)[0], dtype=dtype)
    return (folder / "style.safetensors").stat().st_size


def norm(tensors: dict[str, Tensor]) -> float:
    return float(sum(v.pow(2).sum() for v in tensors.values())) ** 0.5


def difference(a: Style, b: Style) -> float:
    assert set(a.delta) == set(b.delta)
    return norm({k: a.delta[k] - b.delta[k] for k in a.delta})


def test_round_trip_is_exact(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    style = tiny_style("ink", content_cutoff=16)
    info = save_style(tmp_path / "ink", style, images(1, 40)[0], images(1, 41)[0])
    again = load_style(tmp_path / "ink", tiny_base)
    assert again.id == "ink" and again.settings == style.settings
    for part in ("delta", "spn"):
        before, after = getattr(style, part), getattr(again, part)
        assert set(before) == set(after)
        assert all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(again.z_style, style.z_style)
    assert torch.equal(again.z_counterpart, style.z_counterpart)
    assert again.palette is not None and style.palette is None
    own = Palette.of(images(1, 40)[0])
    assert torch.equal(again.palette.mean, own.mean)
    assert torch.equal(again.palette.covariance, own.covariance)
    assert again.info == info == json.loads((tmp_path / "ink" / "style.json").read_text())
    assert info["base"] == tiny_base.fingerprint and len(info["weights_sha256"]) == 64


def test_style_image_and_counterpart_are_saved(
    tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    save(tmp_path, tiny_style(), images)
    for name, seed in (("style", 40), ("counterpart", 41)):
        picture = load_square(tmp_path / f"{name}.png", 32)
        assert (picture - images(1, seed)[0]).abs().max() <= 0.5 / 127.5 + 1e-6


def test_float16_halves_the_difference(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    style = tiny_style()
    full = save(tmp_path / "full", style, images)
    half = save(tmp_path / "half", style, images, "float16")
    count = sum(v.numel() for v in style.delta.values())
    assert full - half == pytest.approx(2 * count, rel=0.01)
    again = load_style(tmp_path / "half", tiny_base)
    assert 0 < difference(again, style) < 1e-3 * norm(style.delta)


def test_compact_by_rank(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    style = tiny_style()
    small = style.compact(rank=2)
    for key, value in small.delta.items():
        assert value.shape == style.delta[key].shape
        if value.dim() < 2:
            assert torch.equal(value, style.delta[key])
        else:
            assert torch.linalg.matrix_rank(value.flatten(1), rtol=1e-4) <= 2
    assert small.info["compact"] == {"rank": 2, "energy": None}
    full = save(tmp_path / "full", style, images)
    reduced = save(tmp_path / "small", small, images)
    spn = 4 * sum(v.numel() for v in style.spn.values())
    assert reduced - spn < 0.4 * (full - spn)
    again = load_style(tmp_path / "small", tiny_base)
    assert {k: v.shape for k, v in again.delta.items()} == {
        k: v.shape for k, v in style.delta.items()
    }
    assert difference(again, small) < 1e-5 * norm(small.delta)
    # ``compact`` does not change the original.
    assert difference(style, tiny_style()) == 0


def test_compact_of_full_rank_changes_nothing(tiny_style: Styles) -> None:
    style = tiny_style()
    assert difference(style.compact(rank=10_000), style) < 1e-5 * norm(style.delta)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_compact_keeps_the_energy_of_each_matrix(tiny_style: Styles, energy: float) -> None:
    style = tiny_style()
    small = style.compact(energy=energy)
    ranks = small.info["ranks"]
    for key, value in style.delta.items():
        if value.dim() < 2:
            continue
        kept = float(small.delta[key].pow(2).sum() / value.pow(2).sum())
        assert energy - 1e-4 <= kept <= 1 + 1e-5, key
        if ranks[key] == 0:  # the factors are larger than the matrix
            assert torch.equal(small.delta[key], value)
        elif ranks[key] > 1:
            # The next lower rank keeps less than ``energy``.
            s = torch.linalg.svdvals(value.flatten(1))
            less = s[: ranks[key] - 1].pow(2).sum() / s.pow(2).sum()
            assert float(less) < energy
    assert energy > 0.5 or max(ranks.values()) > 1


def test_compact_never_grows_the_file(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    """Matrices whose factors are larger are stored whole."""
    style = tiny_style()
    full = save(tmp_path / "full", style, images)
    small = style.compact(energy=0.9999)
    # The file's header is longer because it lists more tensors.
    assert save(tmp_path / "small", small, images) <= full + 10_000
    assert difference(load_style(tmp_path / "small", tiny_base), small) < 1e-4 * norm(style.delta)


def test_saving_a_loaded_style_keeps_it_small(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    first = save(tmp_path / "a", tiny_style().compact(rank=2), images)
    again = load_style(tmp_path / "a", tiny_base)
    assert save(tmp_path / "b", again, images) <= first + 2000


def test_tampered_weights_are_refused(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    save(tmp_path, tiny_style(), images)
    path = tmp_path / "style.safetensors"
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"style\.safetensors: its SHA-256 differs"):
        load_style(tmp_path, tiny_base)
    assert load_style(tmp_path, tiny_base, verify=False).id == "a"


def test_a_style_of_another_base_is_refused(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    save(tmp_path, replace(tiny_style(), info={"base": "0123456789abcdef"}), images)
    with pytest.raises(UserError) as e:
        load_style(tmp_path, tiny_base)
    assert "0123456789abcdef" in str(e.value) and tiny_base.fingerprint in str(e.value)
    assert load_style(tmp_path).info["base"] == "0123456789abcdef"


def test_incomplete_folders_are_refused(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="not a style"):
        load_style(tmp_path / "absent", tiny_base)
    save(tmp_path, tiny_style(), images)
    path = tmp_path / "style.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "format": 99}))
    with pytest.raises(UserError, match="format 99; this version reads 1"):
        load_style(tmp_path, tiny_base)
    (tmp_path / "style.safetensors").unlink()
    with pytest.raises(UserError, match="not a style"):
        load_style(tmp_path, tiny_base)


@pytest.mark.parametrize("what", ["json", "list", "no hash", "setting"])
def test_an_invalid_style_json_is_refused(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path, what: str
) -> None:
    save(tmp_path, tiny_style(), images)
    path = tmp_path / "style.json"
    info = json.loads(path.read_text())
    if what == "no hash":
        del info["weights_sha256"]
    elif what == "setting":
        info["settings"]["of_a_later_version"] = 1
    elif what == "list":
        info = [info]
    path.write_text("{" if what == "json" else json.dumps(info))
    with pytest.raises(UserError, match=r"style\.json"):
        load_style(tmp_path, tiny_base)
