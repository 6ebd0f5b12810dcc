"""The shipped base: sizes of its files, reconstruction of photos, and the effect of a prompt."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.base import Base, load_base
from diffstyler.bundle import SHIPPED, shipped_bases
from diffstyler.inversion import encode
from diffstyler.passes import Request
from diffstyler.sampling import sample
from diffstyler.settings import make_sample_settings
from osasis.images.tensors import from_uint8
from osasis.storage import sha256_file


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(shipped_bases()["portraits64-sd"])


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    stored = load_file(shipped_bases()["portraits64-sd"] / "photos.safetensors")
    return from_uint8(stored["photos"][-1:])


def test_files() -> None:
    sizes = [p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file()]
    assert max(sizes) < 10_000_000
    assert sum(sizes) < 20_000_000
    folder = shipped_bases()["portraits64-sd"]
    info = json.loads((folder / "base.json").read_text())
    assert info["preset"] == "small"
    assert all(sha256_file(folder / name) == digest for name, digest in info["files"].items())


def test_photos_are_reconstructed(base: Base, photos: torch.Tensor) -> None:
    """Inversion and the way back lose little beside what the VAE loses."""
    settings = make_sample_settings("small", guidance=1.0, negative_prompt="")
    encodings = encode(base, photos, settings)
    back = torch.stack(sample(base, [Request(e, (), settings) for e in encodings]))
    latents = base.photo_latents(photos)
    # The latents have a standard deviation of about 1.
    assert float(((back - latents) ** 2).mean()) < 0.05
    assert float(((base.decode_latents(latents) - photos) ** 2).mean()) < 0.03
