"""One recorded run of the published code, and comparison with it."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffstyler.adapter import Adapter, adapter_layout
from diffstyler.adapter_files import load_adapter
from diffstyler.base import Base, load_base
from diffstyler.inversion import Encoding
from diffstyler.passes import Layer, Request
from diffstyler.settings import LayerSettings, make_sample_settings


class Recorded:
    """One recorded run: the pipeline, adapters and golden tensors."""

    def __init__(self, path: Path) -> None:
        self.folder, self.name = path.parent, path.stem
        self.json = json.loads(path.read_text())
        self.golden = load_file(self.file("golden"))

    def file(self, part: str) -> Path:
        return self.folder / f"{self.name}.{part}.safetensors"

    @cached_property
    def base(self) -> Base:
        return load_base(self.folder / self.json["pipeline"])

    @cached_property
    def adapters(self) -> dict[str, Adapter]:
        layout = adapter_layout(self.base.unet)
        return {n: load_adapter(self.file(f"lora_{n}"), layout) for n in self.json["adapters"]}

    @property
    def encoded_size(self) -> tuple[int, int]:
        h, w = self.golden["vae.latent"].shape[-2:]
        return h, w

    def request(self, case: str) -> Request:
        """A recorded case of sampling, from the recorded inversion."""
        c, g = self.json["cases"][case], self.golden
        timesteps = self.base.schedule.timesteps(c["steps"])
        assert list(timesteps) == c["timesteps"][::-1]
        latents = torch.stack([g[f"invert999.x.t{t}"] for t in timesteps])
        fields = {k: c[k] for k in ("guidance", "negative_prompt")}
        fields["base_prompt"] = c["prompt"]
        fields["encode_prompt"] = self.json["inversion"]["prompt"]
        settings = make_sample_settings("reference", decode_steps=c["steps"], **fields)
        layers = tuple(
            Layer(
                self.adapters[style["adapter"]],
                LayerSettings(prompt=style["prompt"]),
                g[f"mask.{style['mask']}.image"],
                style["mask"],
            )
            for style in c["styles"]
        )
        return Request(Encoding(g["vae.latent"], latents, timesteps), layers, settings)


def close(actual: Tensor, expected: Tensor, allowed: float, name: str) -> None:
    """The largest difference relative to the largest recorded value is allowed."""
    assert actual.shape == expected.shape, name
    found = float((actual - expected).abs().max() / expected.abs().max())
    print(f"{name}: {found:.1e} of {allowed:.0e}")
    assert found <= allowed, name
