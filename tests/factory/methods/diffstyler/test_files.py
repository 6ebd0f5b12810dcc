"""Files of bases, styles and adapters of DiffStyler."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.adapter_files import published_tensors, save_adapter
from diffstyler.style import Style
from factory.methods import load_base, load_style, read_base_info
from factory.methods.diffstyler.base import DiffStylerBase
from osasis.bundles.base import load_base as load_osasis_base
from osasis.bundles.files import shipped_bases
from osasis.errors import UserError
from osasis.storage import save_tensors
from tests.tiny import picture, write_style


def test_a_base_needs_an_image_size(folder: Path, tmp_path: Path) -> None:
    info = json.loads((folder / "base.json").read_text())
    (tmp_path / "base.json").write_text(json.dumps(info | {"image_size": 100}))
    with pytest.raises(UserError, match="image_size is 100; it must be a multiple of 8"):
        read_base_info(tmp_path)
    (tmp_path / "base.json").write_text(json.dumps(info | {"method": "other"}))
    with pytest.raises(UserError, match="method 'other' is unknown; this version has osasis, diff"):
        read_base_info(tmp_path)


def test_a_style_of_the_other_method_is_refused(base: DiffStylerBase, tmp_path: Path) -> None:
    shipped = shipped_bases()["portraits64"]
    write_style(tmp_path, shipped, "oil")
    with pytest.raises(UserError, match="a style of method osasis, but base tiny-sd is of method"):
        load_style(tmp_path, base)
    with pytest.raises(UserError, match="a base of method diffstyler, but one of method osasis is"):
        load_osasis_base(base.folder)


def test_a_damaged_file_of_a_base_is_named(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "base"
    shutil.copytree(folder, copied)
    info = json.loads((copied / "base.json").read_text())
    (copied / "base.json").write_text(json.dumps(info | {"files": {"unet/config.json": "0" * 64}}))
    with pytest.raises(UserError, match=r"unet/config\.json: its SHA-256 differs from base\.json"):
        load_base(copied)


def peft_layout(style: Style) -> dict[str, Tensor]:
    """The tensors as peft names them."""
    sides = {"down": "lora_A", "up": "lora_B"}
    found = {}
    for key, value in published_tensors(style.adapter).items():
        at, side = key.removesuffix(".weight").rsplit(".", 1)
        at = at.replace(".processor", "").removesuffix("_lora").replace("to_out", "to_out.0")
        found[f"{at}.{sides[side]}.weight"] = value
    return found


@pytest.mark.parametrize("layout", ["published", "peft"])
def test_adapter_files_become_styles(
    base: DiffStylerBase, styles: dict[str, Style], tmp_path: Path, layout: str
) -> None:
    file = tmp_path / "lora.safetensors"
    if layout == "published":
        save_adapter(file, styles["a"].adapter)
    else:
        save_tensors(file, peft_layout(styles["a"]))
    picture(5).save(tmp_path / "oil.png")
    made, save = base.import_style("oil", file, tmp_path / "oil.png", None, "painting of <sss>")
    save(tmp_path / "style")
    assert (made.id, made.low_rank) == ("oil", True)
    loaded = load_style(tmp_path / "style", base)
    assert isinstance(loaded, Style) and loaded.prompt == "painting of <sss>"
    expected = published_tensors(styles["a"].half().adapter)
    found = published_tensors(loaded.adapter)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    with pytest.raises(UserError, match="--counterpart is for styles of OSASIS"):
        base.import_style("oil", file, tmp_path / "oil.png", file, None)
