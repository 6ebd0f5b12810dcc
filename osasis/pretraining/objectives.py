"""Training objectives of a base's networks.

An objective is a module whose ``forward(rows, t, noise)`` returns (B,) losses. It is a module so
that DistributedDataParallel can wrap it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from osasis.diffusion import LATENT_BETA, TRAIN_STEPS, linear_alphas_cumprod
from osasis.networks.diffae import DiffAE
from osasis.networks.latent import LatentNet
from osasis.networks.unet import UNet, alpha_bars

# Weight of the variational bound that trains the prior's variance (Improved DDPM, Sec. 3.1).
VLB_WEIGHT = 0.001
# Upper limit of the signal-to-noise ratio for weighting min_snr (Hang et al., 2023).
SNR_LIMIT = 5.0


class DiffAEObjective(nn.Module):
    """The diffusion autoencoder's loss: MSE of eps or v, given z (DiffAE, Eq. 6).

    rows: (B, 3, H, W) photos in [-1, 1]. weighting: "uniform", or "min_snr" (Hang et al., 2023).
    """

    def __init__(self, diffae: DiffAE, *, train_encoder: bool, weighting: str) -> None:
        super().__init__()
        self.unet, self.encoder = diffae.unet, diffae.encoder
        self.weighting = weighting
        self.encoder.requires_grad_(train_encoder)

    def forward(self, rows: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        z = self.encoder(rows)
        a = alpha_bars(rows.device)[t].view(-1, 1, 1, 1)
        x_t = a.sqrt() * rows + (1 - a).sqrt() * noise
        velocity = self.unet.config.prediction == "v"
        target = a.sqrt() * noise - (1 - a).sqrt() * rows if velocity else noise
        loss = (self.unet.raw(x_t, t, z).float() - target).pow(2).mean(dim=(1, 2, 3))
        if self.weighting == "uniform":
            return loss
        snr = (a / (1 - a)).flatten()
        return loss * snr.clamp_max(SNR_LIMIT) / (snr + 1 if velocity else snr)


class LatentObjective(nn.Module):
    """The latent DDIM's loss: L1 of eps (DiffAE, Sec. 3.5). rows: normalised z, (B, D)."""

    def __init__(self, net: LatentNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, rows: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        a = (1.0 - LATENT_BETA) ** (t.float() + 1).view(-1, 1)
        z_t = a.sqrt() * rows + (1 - a).sqrt() * noise
        return (self.net(z_t, t).float() - noise).abs().mean(dim=1)


class PriorObjective(nn.Module):
    """The photo prior's loss: MSE of eps plus the variational bound (Improved DDPM, Eq. 16).

    Only the variance receives gradients of the bound. rows: (B, 3, H, W) photos in [-1, 1].
    """

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net
        bars = torch.from_numpy(linear_alphas_cumprod())
        before = torch.cat([torch.ones(1, dtype=bars.dtype), bars[:-1]])
        betas = 1 - bars / before
        smallest = betas * (1 - before) / (1 - bars)
        smallest[0] = smallest[1]
        coefficients = torch.stack([betas.log(), smallest.log(), before, bars]).float()
        self.register_buffer("coefficients", coefficients, persistent=False)

    coefficients: Tensor

    def forward(self, rows: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        largest, smallest, _, a = self.coefficients[:, t].view(4, -1, 1, 1, 1)
        x_t = a.sqrt() * rows + (1 - a).sqrt() * noise
        eps, share = self.net(x_t, t).float().chunk(2, dim=1)
        simple = (eps - noise).pow(2).mean(dim=(1, 2, 3))
        share = (share + 1) / 2
        log_variance = share * largest + (1 - share) * smallest
        # Posterior and predicted mean differ only by the noise, scaled.
        beta = largest.exp()
        scale = beta / ((1 - beta).sqrt() * (1 - a).sqrt())
        mean_error = (scale * (eps.detach() - noise)).pow(2)
        divergence = 0.5 * (
            log_variance - smallest - 1 + (smallest - log_variance).exp()
            + mean_error * (-log_variance).exp()
        )  # fmt: skip
        bound = divergence.mean(dim=(1, 2, 3)) / math.log(2)
        return simple + VLB_WEIGHT * TRAIN_STEPS * bound / 1000
