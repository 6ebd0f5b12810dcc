"""Training of a base on photos and their painted versions: the VAE, then the UNet.

A run has one folder: ``run.json`` records its inputs, ``<stage>.state.safetensors`` is the
checkpoint of a stage, ``samples/`` has pictures of its progress, and ``base/`` is the base as it
was at the last pictures, in the diffusers layout. A second call continues an interrupted run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTokenizer

from diffstyler.base import load_base, load_schedule
from diffstyler.model_files import save_model
from diffstyler.pretraining.dataset import Pictures, words
from diffstyler.pretraining.loop import StageLoop
from diffstyler.pretraining.networks import (
    SCHEDULER,
    make_text_encoder,
    make_unet,
    make_vae,
)
from diffstyler.pretraining.samples import PROMPTS, sample_prompts
from diffstyler.pretraining.settings import PretrainSettings, Sizes
from diffstyler.pretraining.stages import (
    DiffusionObjective,
    Latents,
    VaeObjective,
    encode_pictures,
)
from diffstyler.pretraining.tokenizer import token_count, write_tokenizer
from osasis.checkpoints import check_same_run
from osasis.images.grid import save_image_grid
from osasis.images.tensors import from_uint8
from osasis.seeds import seeded
from osasis.storage import write_json

RUN, BASE, SAMPLES = "run.json", "base", "samples"
VAE, DIFFUSION = "vae", "diffusion"
SHOWN = 8
# Steps that each reported loss averages.
LOG_EVERY = 50
# Settings that may change when a run is resumed; ``steps`` so that a run can be continued.
CHANGEABLE = ("steps", "checkpoint_seconds", "samples_every")

Report = Callable[[str], None]


class BaseTraining:
    """One training run. A folder with a run continues it, and requires its inputs."""

    def __init__(
        self,
        folder: Path,
        pictures: Pictures,
        sizes: Sizes,
        settings: PretrainSettings,
        *,
        device: torch.device | str = "cpu",
        minutes: float | None = None,
        report: Report = lambda line: None,
    ) -> None:
        """minutes: time limit; the run then saves a checkpoint and stops. Raises UserError for
        inputs that differ from those of the folder's run.
        """
        self.folder, self.pictures = folder, pictures
        self.sizes, self.settings = sizes, settings
        self.device, self.report = torch.device(device), report
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._check_run()
        self.base = folder / BASE
        if not (self.base / "tokenizer").is_dir():
            write_tokenizer(self.base / "tokenizer", words())
        self.tokens = token_count(self.base / "tokenizer")
        write_json(self.base / "scheduler" / "scheduler_config.json", SCHEDULER)
        with seeded(settings.seed, "pretrain init"):
            self.vae = self._placed(make_vae(sizes))
            unet = self._placed(make_unet(sizes))
            text_encoder = make_text_encoder(sizes, self.tokens).to(self.device)
        self.denoiser = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})

    def _placed(self, network: Any) -> Any:
        if self.device.type == "cpu":
            # Plain products: with few channels PyTorch's fused attention takes longer.
            network.set_attn_processor(AttnProcessor())
        # Channels last is twice as fast in bfloat16 on a CPU.
        return network.to(self.device).to(memory_format=torch.channels_last)

    def run(self) -> bool:
        """Train what is unfinished. Returns False if the time limit ended the run."""
        return self._train_vae() and self._train_denoiser()

    def _train_vae(self) -> bool:
        s = self.settings
        objective = VaeObjective(self.vae, self.pictures.images, s)
        loop = StageLoop(self.vae, objective, s, steps=s.vae_steps, lr=s.vae_lr)
        finished = self._train(VAE, loop, lambda: self._show_vae(loop))
        self.vae.load_state_dict(loop.averaged.state_dict())
        self.vae.requires_grad_(False).eval()
        return finished

    def _train_denoiser(self) -> bool:
        s = self.settings
        latents = encode_pictures(self.vae, self.pictures.images)
        self.report(f"scaling factor of the latents: {latents.scaling_factor:.4f}")
        objective = DiffusionObjective(
            **self.denoiser,
            tokenizer=CLIPTokenizer.from_pretrained(self.base / "tokenizer"),
            schedule=load_schedule(self.base / "scheduler"),
            pictures=self.pictures,
            latents=latents,
            settings=s,
        )
        loop = StageLoop(self.denoiser, objective, s, steps=s.steps, lr=s.lr)
        return self._train(DIFFUSION, loop, lambda: self._show_base(loop, latents))

    def _train(self, stage: str, loop: StageLoop, show: Callable[[], None]) -> bool:
        """Train a stage to its end; False at the time limit."""
        path = self.folder / f"{stage}.state.safetensors"
        loop.resume(path)
        losses: list[float] = []
        first = loop.step_count
        began = saved = time.monotonic()
        while loop.step_count < loop.steps and time.monotonic() < self.deadline:
            losses.append(loop.step())
            i, now = loop.step_count, time.monotonic()
            if i % LOG_EVERY == 0 or i == loop.steps:
                seconds = (now - began) / len(losses)
                mean = sum(losses) / len(losses)
                self.report(f"{stage} {i}/{loop.steps}  loss {mean:.4f}  {seconds:.2f} s a step")
                losses, began = [], now
            if i % self.settings.samples_every == 0 and i < loop.steps:
                show()
            if now - saved > self.settings.checkpoint_seconds:
                loop.save(path)
                saved = now
        if loop.step_count > first or not path.is_file():
            loop.save(path)
            show()
        return loop.step_count >= loop.steps

    @torch.no_grad()
    def _show_vae(self, loop: StageLoop) -> None:
        """Photos and paintings, and what the averaged VAE makes of them."""
        vae: Any = loop.averaged
        count = len(self.pictures.images)
        x = from_uint8(self.pictures.images[:: max(1, count // SHOWN)][:SHOWN]).to(self.device)
        made = vae.decode(vae.encode(x).latent_dist.mean).sample
        self._save_samples(VAE, loop, torch.cat([x, made]))

    def _show_base(self, loop: StageLoop, latents: Latents) -> None:
        """Write the base with averaged weights, and what it draws of prompts."""
        self.vae.register_to_config(scaling_factor=latents.scaling_factor)
        networks = dict(cast(nn.ModuleDict, loop.averaged)) | {"vae": self.vae}
        save_model(self.base, networks, self.base, torch.float16)
        base = load_base(self.base, self.device)
        images = sample_prompts(base, PROMPTS * 2, self.sizes.image_size)
        self._save_samples(DIFFUSION, loop, images)

    def _save_samples(self, stage: str, loop: StageLoop, images: Tensor) -> None:
        path = self.folder / SAMPLES / f"{stage}-{loop.step_count:07}.png"
        save_image_grid(path, images.cpu(), columns=SHOWN)

    def _check_run(self) -> None:
        """Raise UserError, naming the differences, if the folder contains another run."""
        inputs: dict[str, Any] = {
            "sizes": self.sizes.to_dict(),
            "settings": self.settings.to_dict(),
            "pictures": self.pictures.fingerprint(),
        }
        path = self.folder / RUN
        if not path.is_file():
            write_json(path, inputs)
            return
        check_same_run(path, inputs, CHANGEABLE)
