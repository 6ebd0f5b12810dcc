"""The objective of one style: its losses at every step of the walk (OSASIS, Sec. 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from osasis.arithmetic import Arithmetic, autocast
from osasis.bundles.base import Base
from osasis.contents import Contents, invert_photos
from osasis.diffusion import Schedule, predict_x0
from osasis.losses import StyleLoss
from osasis.networks.spn import StructurePreservingNetwork
from osasis.networks.unet import UNet
from osasis.sampling import SOLVERS, denoising_walk
from osasis.settings import TrainSettings


class Networks(Protocol):
    """epsilon_B and the SPN of one style, as functions."""

    @property
    def unet(self) -> Callable[..., Tensor]: ...

    @property
    def spn(self) -> Callable[..., Tensor]: ...


class StyleNetworks(nn.Module):
    """epsilon_B and the SPN of one style."""

    def __init__(self, unet: UNet, spn: StructurePreservingNetwork) -> None:
        super().__init__()
        self.unet, self.spn = unet, spn


class StyleObjective:
    """What the networks of one style are trained for: the losses at every step of the walk.

    z_style: (1, D), condition of the style branch. style_x_t0: (1, 3, H, W), the noised photo
    counterpart, where its walk starts. schedule, denoising_steps, solve: of the walk.
    """

    def __init__(
        self,
        base: Base,
        style_image: Tensor,
        counterpart: Tensor,
        settings: TrainSettings,
        arithmetic: Arithmetic,
    ) -> None:
        """style_image, counterpart: (1, 3, H, W) in [-1, 1], at the base's size."""
        self.base, self.settings, self.arithmetic = base, settings, arithmetic
        self.style_image, self.counterpart = style_image, counterpart
        self.loss = StyleLoss(base.guide, base.perceptual, settings, style_image, counterpart)
        walk = denoising_walk(settings.spacing, settings.decode_steps, settings.t0)
        self.schedule, self.denoising_steps = walk.schedule, walk.count
        self.solve = SOLVERS[settings.decode_solver]
        with torch.no_grad(), autocast(base.device, self.arithmetic):
            source = counterpart if settings.style_condition == "counterpart" else style_image
            self.z_style = base.encode_z(source).float()
            z_counterpart = base.encode_z(counterpart).float()
            self.style_x_t0 = invert_photos(base, counterpart, z_counterpart, settings)

    def loss_at(
        self, networks: Networks, i: int, x_t: Tensor, contents: Contents
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """The loss at index i, with its graph, and its weighted parts.

        x_t: the contents' rows, then the style image's. Returns (x_t with the SPN's term, x_0,
        loss, parts).
        """
        with autocast(self.base.device, self.arithmetic):
            x_t, x0 = self._predict(networks, i, x_t, contents)
        # In float32: directions between nearby embeddings are lost in bfloat16.
        guide = self.loss.prepare_embeddings(contents.guide)
        return x_t, x0, *self.loss(x0[:-1], x0[-1:], contents.photo, guide)

    def _predict(
        self, networks: Networks, i: int, x_t: Tensor, contents: Contents
    ) -> tuple[Tensor, Tensor]:
        """Predict x_0 of contents and style image in one batch at index i.

        x_t: the contents' rows, then the style image's. Returns (x_t with the SPN's term, x_0).
        """
        s = self.settings
        if s.spn_weight > 0:
            photos = torch.cat([contents.photo, self.counterpart])
            x_t = x_t + self._structure(networks.spn, photos, i)
        z = torch.cat([contents.z, self.z_style])
        eps = networks.unet(x_t, self.schedule.timestep(i, x_t), z)
        return x_t.float(), predict_x0(self.schedule, i, x_t.float(), eps.float())

    def _structure(self, spn: Callable[..., Tensor], photos: Tensor, i: int) -> Tensor:
        """The SPN's term of x_t at index i (Eq. 12-14); the last row is the style branch."""
        s = self.settings
        scale = torch.full((len(photos), 1, 1, 1), s.spn_weight, device=photos.device)
        if s.spn_style_branch == "unscaled":
            # The published code adds the style branch's output without lambda.
            scale[-1] = 1.0
        return scale * spn(photos, spn_step(self.schedule, i, s.spn_time, photos))


def spn_step(schedule: Schedule, i: int, spn_time: str, like: Tensor) -> Tensor:
    """The SPN's time input (B,) at index i, for the batch of ``like``.

    It is the index itself, as published, or the timestep / 50. The timestep does not depend on the
    number of steps. Divided by the stride of the published training, it has the range of the index.
    """
    step = float(i) if spn_time == "index" else int(schedule.timesteps[i]) / 50
    return torch.full((len(like),), step, device=like.device)
