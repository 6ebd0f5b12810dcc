"""Saving, loading and compacting of style bundles; damaged bundles are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from osasis.bundles.base import Base
from osasis.bundles.style import Style, load_style, save_style
from osasis.errors import UserError
from osasis.images.tensors import load_square
from osasis.networks.adapters import Change, LowRank, dense
from osasis.palette import Palette
from osasis.storage import save_tensors

Images = Callable[..., Tensor]
Styles = Callable[..., Style]


def save(folder: Path, style: Style, images: Images) -> int:
    """Save and return the weights' size in bytes."""
    save_style(folder, style, images(1, 40)[0], images(1, 41)[0])
    return (folder / "style.safetensors").stat().st_size


def norm(changes: Mapping[str, Change]) -> float:
    return float(sum(dense(c).pow(2).sum() for c in changes.values())) ** 0.5


def difference(a: Style, b: Style) -> float:
    assert set(a.delta) == set(b.delta)
    return norm({k: dense(a.delta[k]) - dense(b.delta[k]) for k in a.delta})


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


def test_compact_by_rank(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    style = tiny_style()
    small = style.compact(rank=2)
    for key, change in small.delta.items():
        assert change.shape == style.delta[key].shape
        if isinstance(change, LowRank):
            assert change.rank == 2 and change.up.dtype == torch.float16
        else:
            torch.testing.assert_close(change, style.delta[key].half())
    assert small.low_rank and not style.low_rank
    error = difference(small, style) ** 2 / norm(style.delta) ** 2
    assert small.info["compact"] == {
        "rank": 2, "energy": None, "error": pytest.approx(error, abs=1e-5)
    }  # fmt: skip
    full = save(tmp_path / "full", style, images)
    reduced = save(tmp_path / "small", small, images)
    spn = sum(v.numel() for v in style.spn.values())
    assert reduced - 2 * spn < 0.2 * (full - 4 * spn)
    again = load_style(tmp_path / "small", tiny_base)
    assert difference(again, small) == 0
    # ``compact`` does not change the original.
    assert difference(style, tiny_style()) == 0


def test_compact_of_full_rank_changes_nothing(tiny_style: Styles) -> None:
    style = tiny_style()
    assert difference(style.compact(rank=10_000), style) < 1e-3 * norm(style.delta)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_compact_keeps_the_energy_of_each_matrix(tiny_style: Styles, energy: float) -> None:
    style = tiny_style()
    ranks = []
    for key, change in style.compact(energy=energy).delta.items():
        value = dense(style.delta[key])
        kept = float(dense(change).pow(2).sum() / value.pow(2).sum())
        assert energy - 1e-3 <= kept <= 1 + 1e-3, key
        if isinstance(change, LowRank):
            ranks.append(change.rank)
            # The next lower rank keeps less than ``energy``.
            s = torch.linalg.svdvals(value.flatten(1))
            less = s[: change.rank - 1].pow(2).sum() / s.pow(2).sum()
            assert float(less) < energy
    assert energy > 0.5 or max(ranks) > 1


def test_compact_never_grows_the_file(tiny_style: Styles, images: Images, tmp_path: Path) -> None:
    """Matrices whose factors are larger are stored whole."""
    style = tiny_style()
    full = save(tmp_path / "full", style, images)
    small = style.compact(energy=0.9999)
    # The file's header is longer because it lists more tensors.
    assert save(tmp_path / "small", small, images) <= full / 2 + 20_000


def test_factors_of_older_files_are_read(
    tiny_base: Base, tiny_style: Styles, images: Images, tmp_path: Path
) -> None:
    """Older files hold them in float32, flattened, as ``left`` and ``right``."""
    small = tiny_style().compact(rank=2)
    save(tmp_path, small, images)
    tensors = load_file(tmp_path / "style.safetensors")
    older = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "up":
            older[f"left.{name}"] = value.float()
        elif kind == "down":
            older[f"right.{name}"] = value.float().flatten(1)
        else:
            older[key] = value.float()
    save_tensors(tmp_path / "style.safetensors", older)
    assert difference(load_style(tmp_path, tiny_base, verify=False), small) == 0


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
