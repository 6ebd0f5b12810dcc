"""Saving and loading of base bundles; damaged bundles are refused with a one-line error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from osasis.bundles.base import Deferred, load_base, save_base, suggested_preset
from osasis.errors import UserError
from osasis.networks.sizes import DiffAEConfig, load_config


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


def test_a_base_loads_as_it_was_saved(tiny_folder: Path) -> None:
    base = load_base(tiny_folder)
    assert base.fingerprint == json.loads((tiny_folder / "base.json").read_text())["fingerprint"]
    torch.testing.assert_close(base.z_mean[0], torch.linspace(-0.5, 0.5, 16))
    assert not any(p.requires_grad for p in base.diffae.parameters())


def test_the_preset_is_a_property_of_the_base(tiny_folder: Path) -> None:
    """Presets tuned on small bases are not the default of a base of the official size."""
    base = load_base(tiny_folder)
    assert base.preset == base.info["preset"] == "fast"
    assert suggested_preset(load_config("ffhq256")) == "default"
    assert base.replace(info={"preset": "reference"}).preset == "reference"
    # Bases from before the field.
    assert base.replace(config=load_config("ffhq256"), info={}).preset == "default"


def test_parts_unused_by_stylization_are_loaded_on_first_use(tiny_folder: Path) -> None:
    base = load_base(tiny_folder)
    photo = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    base.to("cpu").encode_z(photo)
    parts = ("_guide", "_perceptual", "_prior")
    assert all(isinstance(vars(base)[name], Deferred) for name in parts)
    assert base.prior is None
    whole = base.replace(photos=None)
    assert torch.equal(base.guide.embed(photo), whole.guide.embed(photo))
    # The guide shares the base's perceptual net.
    assert base.guide.net is base.perceptual and base.guide is base.guide
    assert not any(isinstance(vars(base)[name], Deferred) for name in parts)


def test_a_sharded_base_equals_the_unsharded_base(
    tiny_folder: Path, tiny_config: DiffAEConfig, tmp_path: Path
) -> None:
    whole = load_base(tiny_folder)
    limit = 40_000
    save_base(
        tmp_path,
        name="tiny",
        config=tiny_config,
        diffae={k: v.half() for k, v in whole.diffae.state_dict().items()},
        z_mean=whole.z_mean,
        z_std=whole.z_std,
        guide=whole.info["guide"],
        guide_weights=None,
        perceptual=whole.perceptual,
        prior=None,
        photos=None,
        provenance={},
        shard_bytes=limit,
    )
    parts = sorted(tmp_path.glob("diffae-*.safetensors"))
    assert len(parts) > 2 and not (tmp_path / "diffae.safetensors").exists()
    assert sum(p.stat().st_size > 2 * limit for p in parts) == 0
    again = load_base(tmp_path).diffae.state_dict()
    for key, value in whole.diffae.state_dict().items():
        torch.testing.assert_close(again[key], value, rtol=1e-3, atol=1e-4)
    parts[1].unlink()
    with pytest.raises(UserError, match="missing; import the base again"):
        load_base(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 7}, "format 7; this version reads 1"),
        ({"guide": None}, "guide.kind is None"),
        ({"guide": {"kind": "oracle"}}, "guide.kind is 'oracle'"),
        ({"files": {"other.safetensors": "0"}}, "other.safetensors: missing"),
    ],
)
def test_invalid_base_json_is_refused(copy: Path, change: dict[str, Any], reason: str) -> None:
    info = json.loads((copy / "base.json").read_text())
    (copy / "base.json").write_text(json.dumps({**info, **change}))
    with pytest.raises(UserError, match=reason) as e:
        load_base(copy)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text", ["[1]", "{", ""])
def test_unparsable_base_json_is_refused(copy: Path, text: str) -> None:
    (copy / "base.json").write_text(text)
    with pytest.raises(UserError, match="not valid JSON"):
        load_base(copy)


def test_tampered_weights_are_refused(copy: Path) -> None:
    path = copy / "diffae.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"diffae\.safetensors: its SHA-256 differs"):
        load_base(copy)
    assert load_base(copy, verify=False).config.name == "tiny"


def test_a_folder_without_a_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a base"):
        load_base(tmp_path)
