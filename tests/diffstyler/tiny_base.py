"""A tiny base of DiffStyler in the layout of a home's bases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from osasis.storage import save_tensors
from tests.diffstyler.tiny_sd import SIZE, picture, write_pipeline

# Overrides of preset `default` with few steps.
FEW: dict[str, Any] = {
    "steps": 4,
    "rank": 2,
    "lr": 1e-2,
    "encode_steps": 4,
    "decode_steps": 4,
    "guidance": 2.0,
    "precision": "float32",
}


def write_base(folder: Path, name: str = "tiny-sd") -> Path:
    """Write the base with two photos of its own; returns its folder."""
    write_pipeline(folder)
    photos = torch.stack([picture(seed) for seed in (300, 301)])
    save_tensors(
        folder / "photos.safetensors",
        {"photos": ((photos + 1) * 127.5).round().to(torch.uint8)},
    )
    info = {
        "format": 1,
        "name": name,
        "method": "diffstyler",
        "fingerprint": f"of-{name}",
        "image_size": SIZE,
    }
    (folder / "base.json").write_text(json.dumps(info))
    return folder
