"""Precomputed encodings of a base's preview photos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base, load_base
from osasis.bundles.files import shipped_bases
from osasis.contents import HELD_OUT
from osasis.encode import EncodePlan, encode
from osasis.errors import UserError
from osasis.images.tensors import from_uint8
from osasis.preview_encodings import FILE, preview_plan, ship_previews, shipped_previews
from osasis.settings import TrainSettings, make_settings
from osasis.storage import save_tensors, sha256_file
from tests.tiny import SIZE

Settings = Callable[..., TrainSettings]
# Largest float32 difference between CPUs after ten inversion steps.
SHIPPED_TOLERANCE = 1e-3
PLAN = EncodePlan(0.5, 10, "float32")


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny base with the held-out photos and two more."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    shape, generator = (HELD_OUT + 2, 3, SIZE, SIZE), torch.Generator().manual_seed(0)
    photos = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    save_tensors(folder / "photos.safetensors", {"photos": photos})
    info = json.loads((folder / "base.json").read_text())
    info["files"]["photos.safetensors"] = sha256_file(folder / "photos.safetensors")
    (folder / "base.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def base(folder: Path) -> Base:
    return load_base(folder)


@pytest.fixture
def held_out(base: Base) -> Tensor:
    assert base.photos is not None
    return from_uint8(base.photos[-HELD_OUT:])


def test_shipped_encodings_equal_computed_ones(
    folder: Path, base: Base, held_out: Tensor, tiny_settings: Settings
) -> None:
    assert shipped_previews(folder, base, held_out, PLAN) is None
    settings = tiny_settings(stylize_encode_steps=10)
    assert ship_previews(folder, settings) == folder / FILE
    found = shipped_previews(folder, base, held_out, PLAN)
    made = encode(base, held_out, PLAN)
    assert found is not None and found.plan == PLAN
    for name in ("photo", "z", "x_t0"):
        assert torch.equal(getattr(found, name), getattr(made, name)), name
    assert made.x_t0.std() > 0.1


@pytest.mark.parametrize("other", [{"t0": 0.6}, {"steps": 20}, {"arithmetic": "bfloat16"}])
def test_encodings_with_another_plan_are_ignored(
    folder: Path, base: Base, held_out: Tensor, tiny_settings: Settings, other: dict[str, Any]
) -> None:
    ship_previews(folder, tiny_settings(stylize_encode_steps=10))
    assert shipped_previews(folder, base, held_out, replace(PLAN, **other)) is None


def test_encodings_of_other_photos_are_ignored(
    folder: Path, base: Base, held_out: Tensor, tiny_settings: Settings
) -> None:
    ship_previews(folder, tiny_settings(stylize_encode_steps=10))
    changed = held_out.clone()
    changed[0, 0, 0, 0] += 2 / 255
    for photos in (changed, held_out[:-1], held_out.flip(0)):
        assert shipped_previews(folder, base, photos, PLAN) is None


def test_encodings_of_another_base_are_ignored(
    folder: Path, base: Base, held_out: Tensor, tiny_settings: Settings
) -> None:
    """The base was replaced in the same folder."""
    ship_previews(folder, tiny_settings(stylize_encode_steps=10))
    assert shipped_previews(folder, base, held_out, PLAN) is not None
    base.info["fingerprint"] = "another"
    assert shipped_previews(folder, base, held_out, PLAN) is None


def test_a_base_without_photos_is_refused(tiny_folder: Path, tiny_settings: Settings) -> None:
    with pytest.raises(UserError, match="has no photos of its own"):
        ship_previews(tiny_folder, tiny_settings())


def test_the_shipped_base_has_the_encodings_of_preset_fast() -> None:
    """Run ``python -m osasis.preview_encodings`` after a change of the base or the preset."""
    torch.set_num_threads(1)
    folder, fast = shipped_bases()["portraits64"], make_settings("fast")
    base = load_base(folder)
    assert base.photos is not None
    photos = from_uint8(base.photos[-HELD_OUT:])
    found = shipped_previews(folder, base, photos, preview_plan(fast))
    assert found is not None
    made = encode(base, photos[:2], preview_plan(fast))
    for name in ("z", "x_t0"):
        was, now = getattr(found, name)[:2], getattr(made, name)
        assert (was - now).abs().max() < SHIPPED_TOLERANCE, name
