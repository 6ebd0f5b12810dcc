"""The two stages: the VAE, then the UNet with its text encoder on the VAE's latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTokenizer

from diffstyler.pretraining.dataset import Pictures
from diffstyler.pretraining.settings import PretrainSettings
from diffstyler.schedule import Schedule
from osasis.images.tensors import from_uint8
from osasis.seeds import derived_generator

# Largest signal-to-noise ratio in loss weights (Min-SNR-gamma).
MAX_SNR = 5.0
ENCODE_BATCH = 64


class VaeObjective(nn.Module):
    """Absolute errors of pixels and of their differences, and the posterior's divergence."""

    def __init__(self, vae: Any, pictures: Tensor, settings: PretrainSettings) -> None:
        """pictures: (N, 3, S, S) uint8."""
        super().__init__()
        self.vae, self.settings = vae, settings
        self.pictures = pictures

    def forward(self, step: int) -> Tensor:
        s = self.settings
        g = derived_generator(s.seed, f"vae {step}")
        device = self.vae.device
        index = torch.randint(len(self.pictures), (s.vae_batch_size,), generator=g)
        flip = torch.rand((len(index), 1, 1, 1), generator=g) < 0.5
        x = from_uint8(self.pictures[index])
        x = torch.where(flip, x.flip(-1), x).to(device)
        posterior = self.vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=g).to(device)
        z = posterior.mean + posterior.std * noise
        made = self.vae.decode(z).sample.float()
        mean, log = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean**2 + log.exp() - 1 - log).mean()
        return reconstruction_error(made, x) + s.kl_weight * divergence


def reconstruction_error(made: Tensor, x: Tensor) -> Tensor:
    """Mean absolute error of pixels (B, 3, H, W) and, for sharp edges, of their differences."""
    error = made - x
    columns, rows = error.diff(dim=-1), error.diff(dim=-2)
    return error.abs().mean() + columns.abs().mean() + rows.abs().mean()


@dataclass(frozen=True)
class Latents:
    """Posteriors of all pictures and of their mirrors. mean, std: (2, N, C, h, w), not scaled."""

    mean: Tensor
    std: Tensor

    @property
    def scaling_factor(self) -> float:
        """Brings the latents to a standard deviation of 1."""
        return 1 / float(torch.sqrt(self.mean.var() + (self.std**2).mean()))


@torch.no_grad()
def encode_pictures(vae: Any, pictures: Tensor) -> Latents:
    """pictures: (N, 3, S, S) uint8."""
    means, stds = [], []
    for mirrored in (False, True):
        found = []
        for part in pictures.split(ENCODE_BATCH):
            x = from_uint8(part).to(vae.device)
            found.append(vae.encode(x.flip(-1) if mirrored else x).latent_dist)
        means.append(torch.cat([p.mean.cpu() for p in found]))
        stds.append(torch.cat([p.std.cpu() for p in found]))
    return Latents(torch.stack(means), torch.stack(stds))


class DiffusionObjective(nn.Module):
    """Noise prediction with captions, some of them empty (classifier-free guidance)."""

    def __init__(
        self,
        unet: Any,
        text_encoder: Any,
        tokenizer: CLIPTokenizer,
        schedule: Schedule,
        pictures: Pictures,
        latents: Latents,
        settings: PretrainSettings,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.tokenizer, self.schedule = tokenizer, schedule
        self.pictures, self.latents, self.settings = pictures, latents, settings
        self.scale = latents.scaling_factor
        a = schedule.alphas_cumprod
        snr = a / (1 - a)
        # Min-SNR-5 (Hang et al., 2023), for a prediction of the noise.
        self.weights = snr.clamp(max=MAX_SNR) / snr

    def forward(self, step: int) -> Tensor:
        s = self.settings
        g = derived_generator(s.seed, f"diffusion {step}")
        device = self.unet.device
        index = torch.randint(len(self.pictures.looks), (s.batch_size,), generator=g)
        mirrored = torch.randint(2, (s.batch_size,), generator=g)
        mean, std = self.latents.mean[mirrored, index], self.latents.std[mirrored, index]
        t = torch.randint(len(self.weights), (s.batch_size,), generator=g)
        posterior_noise, noise = (torch.randn(mean.shape, generator=g) for _ in range(2))
        z = (mean + std * posterior_noise) * self.scale
        x_t, target = (x.to(device) for x in self.schedule.noised(z, noise, t))
        context = self.text_encoder(self._ids(index, g).to(device)).last_hidden_state
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        predicted = self.unet(x_t, t.to(device), encoder_hidden_states=context).sample
        errors = F.mse_loss(predicted.float(), target, reduction="none").mean(dim=(1, 2, 3))
        return (self.weights[t].to(device) * errors).mean()

    def _ids(self, index: Tensor, g: torch.Generator) -> Tensor:
        """Token ids (B, 77) of random captions."""
        captions = [self.pictures.caption(i, g) for i in index.tolist()]
        dropped = torch.rand(len(captions), generator=g) < self.settings.caption_dropout
        texts = ["" if d else c for c, d in zip(captions, dropped.tolist(), strict=True)]
        encoded = self.tokenizer(texts, padding="max_length", return_tensors="pt")
        return torch.as_tensor(encoded.input_ids)
