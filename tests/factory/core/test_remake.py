"""The printed command contains every option that decides an image's bytes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory.core.remake import provenance_of, remake_command
from osasis.bundles.provenance import Provenance, UsedStyle, encode_image, read_provenance
from osasis.errors import UserError
from osasis.images.photo_options import CropBox
from osasis.mix import Mix

OIL, INK = UsedStyle(reference="oil:3", fingerprint="a"), UsedStyle(reference="ink:1")


def options(provenance: Provenance) -> dict[str, Any]:
    """The command's options; lists for repeatable options."""
    program, command, *parts = shlex.split(remake_command(provenance))
    assert (program, command) == ("style-factory", "stylize")
    found: dict[str, Any] = {}
    while parts:
        name = parts.pop(0)
        value = parts.pop(0) if parts and not parts[0].startswith("--") else True
        if name in ("--mix", "--mask"):
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


def test_one_style_with_everything_at_its_default() -> None:
    assert options(Provenance(styles=(OIL,), mix=Mix.of("oil"), fit="crop", source="a b.jpg")) == {
        "--styles": "oil:3",
        "--fit": "crop",
        "--size": "photo",
        "--metadata": "strip",
        "--input": "a b.jpg",
        "--output": "OUTPUT",
    }


def test_a_crop_box_is_in_the_command() -> None:
    box = CropBox(x=10, y=0, side=64)
    written = Provenance(styles=(OIL,), mix=Mix.of("oil"), fit="crop", crop=box, detail=True)
    image = encode_image(Image.new("RGB", (8, 8)), written)
    assert read_provenance(image) == written
    assert options(written)["--crop"] == "10,0,64"


def test_transparency_and_a_path_are_in_the_command() -> None:
    written = Provenance(styles=(OIL,), mix=Mix.of("oil"), alpha="drop", source="in/a.png")
    found = options(written)
    assert (found["--alpha"], found["--provenance"], found["--input"]) == (
        "drop",
        "full",
        "in/a.png",
    )


def test_a_blend_with_masks_is_one_mix() -> None:
    mix = Mix.parse(
        {
            "styles": [{"style": "oil", "weight": 0.3, "mask": "hair"}, "ink"],
            "blend": "noise",
            "t0": 0.5,
            "text_edit": "12",
            "level_weights": [0.25, 1.0],
        }
    )
    written = Provenance(
        styles=(OIL, INK), mix=mix, arithmetic="float32", fit="pad", size="base", format="webp",
        quality=95, masks={"hair": "0" * 64},
    )  # fmt: skip
    found = options(written)
    fields = dict(item.split("=", 1) for item in found.pop("--mix"))
    assert json.loads(fields.pop("styles")) == [
        {"style": "oil:3", "weight": 0.3, "mask": "hair"},
        {"style": "ink:1", "weight": 1.0},
    ]
    assert fields == {
        "blend": "noise", "t0": "0.5", "text_edit": '"12"', "level_weights": "[0.25, 1.0]",
    }  # fmt: skip
    assert found == {
        "--mask": ["hair=hair.png"],
        "--fit": "pad",
        "--size": "base",
        "--metadata": "strip",
        "--precision": "float32",
        "--format": "webp",
        "--quality": "95",
        "--input": "PHOTO",
        "--output": "OUTPUT",
    }


def test_a_weight_of_a_single_style_is_kept() -> None:
    mix = Mix.parse({"styles": [{"style": "oil", "weight": 2.0}]})
    found = options(Provenance(styles=(OIL,), mix=mix))
    assert "--styles" not in found
    assert found["--mix"] == ['styles=[{"style": "oil:3", "weight": 2.0}]']


def test_files_without_provenance(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(UserError, match=r"plain\.png: no provenance"):
        provenance_of(tmp_path / "plain.png")
    written = Provenance(styles=(OIL,), mix=Mix.of("oil"), format="jpeg", quality=90)
    image = encode_image(Image.new("RGB", (8, 8)), written)
    pq.write_table(pa.table({"stylized": [b"", image]}), tmp_path / "part.parquet")
    assert provenance_of(tmp_path / "part.parquet", 1) == written
    for row, message in ((2, "no row 2; there are 2, from 0"), (0, "row 0")):
        with pytest.raises(UserError, match=message):
            provenance_of(tmp_path / "part.parquet", row)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet"):
        provenance_of(tmp_path / "other.parquet")
