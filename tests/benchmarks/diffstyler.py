"""Cost of a photo with DiffStyler, beside the published way of computing it.

    python -m tests.benchmarks.diffstyler [--base FOLDER] [--styles 2] [--size SIDE]

``ours`` is ``sample``: one UNet, the rows that are seen, one source for all styles, all in one
pass a step. ``published`` has a copy of the UNet for each style; at every step the base and each
style compute three rows of their own, seen or not. Rows are forward passes of one latent through
the UNet. ``masks`` divide the photo among the styles, so that no row of the base is seen.
``sd21`` counts floating-point operations of Stable Diffusion 2.1 at 512 px on the meta device, two
for each multiplication with an addition. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffstyler.base import Base, load_base
from diffstyler.inversion import encode
from diffstyler.passes import Layer, Request, RowBatch, base_pass, layer_pass
from diffstyler.prediction import predict_eps
from diffstyler.prompts import embed_prompts
from diffstyler.sampling import bank_of, sample
from diffstyler.settings import LayerSettings, SampleSettings, make_sample_settings
from diffstyler.stylize import decode
from tests.diffstyler.tiny_sd import SIZE, picture, random_adapter, write_pipeline

# Steps of the published inversion and sampling.
INVERSION, SAMPLING = 999, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="folder of a base (default: tiny, random)")
    parser.add_argument("--styles", type=int, default=2)
    parser.add_argument("--size", type=int, help="side of the photo (default: the base's)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        base = load_base(args.base or write_pipeline(Path(folder)))
    side = args.size or (base.image_size if args.base else SIZE)
    photo = picture(0, side, side)
    result: dict[str, Any] = {
        "weights_mb": round(sum(p.nbytes for p in base.unet.parameters()) / 1e6, 1),
        "ours": ours(base, photo, args.styles, args.rank),
        "published": published(base, photo, args.styles, args.rank),
        "sd21": sd21(args.styles),
    }
    print(json.dumps({**vars(args), **result}, indent=1, default=str))


class Rows:
    """Counts the rows of a UNet's forward passes."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.count = 0
        unet.register_forward_pre_hook(self._add)

    def _add(self, module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        self.count += len(args[0])

    def of(self, work: Callable[[], Any]) -> dict[str, Any]:
        """Rows and seconds of a call."""
        self.count, started = 0, time.perf_counter()
        work()
        return {"rows": self.count, "seconds": round(time.perf_counter() - started, 2)}


def make_request(base: Base, photo: Tensor, styles: int, rank: int, s: SampleSettings) -> Request:
    """The photo in vertical stripes of random styles. The encoding has the latents of s."""
    (encoding,) = encode(base, photo[None], s)
    width = photo.shape[-1]
    layers = []
    for n in range(styles):
        mask = torch.zeros(photo.shape[-2:], dtype=torch.uint8)
        mask[:, n * width // styles : (n + 1) * width // styles] = 255
        adapter = random_adapter(base, n, rank, 0.01)
        layers.append(Layer(adapter, LayerSettings(prompt="a"), mask))
    return Request(encoding, tuple(layers), s)


def ours(base: Base, photo: Tensor, styles: int, rank: int) -> dict[str, Any]:
    rows = Rows(base.unet)
    settings = make_sample_settings()
    request = make_request(base, photo, styles, rank, settings)
    return {
        "inversion": rows.of(lambda: encode(base, photo[None], settings)),
        "sampling": rows.of(lambda: sample(base, [request])),
        "with_vae": rows.of(lambda: decode(base, [request], [photo])),
        "adapters_mb": round(sum(layer.adapter.nbytes for layer in request.layers) / 1e6, 2),
    }


def published(base: Base, photo: Tensor, styles: int, rank: int) -> dict[str, Any]:
    """Passes of the published settings, one network after the other, without their results."""
    settings = make_sample_settings("reference", encode_steps=INVERSION, decode_steps=SAMPLING)
    rows = Rows(base.unet)
    request = make_request(base, photo, styles, rank, settings)
    inversion = rows.of(lambda: encode(base, photo[None], settings))
    contexts = embed_prompts(base, request.prompts)
    bank, indices = bank_of(base, [layer.adapter for layer in request.layers])
    copies = [replace(base, unet=copy.deepcopy(base.unet)) for _ in range(styles)]

    def sampling() -> None:
        for i, t in enumerate(reversed(base.schedule.timesteps(SAMPLING))):
            passes = [base_pass(settings, i, t)]
            passes += [layer_pass(request, n, i, t) for n in range(styles)]
            for network, p in zip((base, *copies), passes, strict=True):
                batch = RowBatch(t, contexts, indices)
                batch.add_pass(request, p, request.encoding.photo)
                # The source is computed at every step, read or not.
                found = batch.rows if len(batch.rows) == 3 else [*batch.rows, batch.rows[0]]
                predict_eps(network, found, t, bank)

    counted = rows.of(sampling)
    counted["rows"] *= 1 + styles  # that of the base is counted
    return {
        "inversion": inversion,
        "sampling": counted,
        "copies_mb": round(sum(p.nbytes for c in copies for p in c.unet.parameters()) / 1e6, 1),
    }


def sd21(styles: int) -> dict[str, Any]:
    """Operations of the UNet of Stable Diffusion 2.1 for one photo of 512 px, in TFLOP."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
        x, context = torch.empty(1, 4, 64, 64), torch.empty(1, 77, 1024)
        t = torch.zeros(1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(x, t, encoder_hidden_states=context)
    row = counter.get_total_flops() / 1e12
    settings = make_sample_settings()
    injected = max(
        settings.window(settings.attention_window), settings.window(settings.feature_window)
    )
    ours = settings.encode_steps + settings.decode_steps * 2 * styles + injected
    theirs = INVERSION + SAMPLING * 3 * (1 + styles)
    return {
        "parameters_m": round(sum(p.numel() for p in unet.parameters()) / 1e6, 1),
        "tflop_a_row": round(row, 3),
        "ours": {"rows": ours, "tflop": round(ours * row, 1)},
        "published": {"rows": theirs, "tflop": round(theirs * row, 1)},
    }


if __name__ == "__main__":
    main()
