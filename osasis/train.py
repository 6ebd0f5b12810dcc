"""Training one style (OSASIS, Sec. 3.2 and 3.3)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from osasis.arithmetic import Arithmetic, autocast, resolve
from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.checkpoints import adam_tensors, load_adam_tensors
from osasis.contents import Contents, ContentSource, invert_photos
from osasis.diffusion import Schedule, predict_x0
from osasis.errors import DivergedError
from osasis.losses import LOSS_NAMES, StyleLoss
from osasis.memory import fit_memory
from osasis.networks.adapters import train_low_rank, trained_adapter
from osasis.networks.spn import StructurePreservingNetwork
from osasis.networks.unet import UNet
from osasis.palette import Palette
from osasis.recompute import recompute_activations
from osasis.sampling import SOLVERS, denoising_walk
from osasis.seeds import derived_seed, seeded
from osasis.settings import TrainSettings


class StyleTrainer:
    """Trains epsilon_B and the SPN of one style.

    The random draws of iteration i come from a generator seeded with (seed, i). A resumed training
    therefore equals an uninterrupted one without stored generator states.
    """

    def __init__(
        self,
        base: Base,
        style_image: Tensor,
        counterpart: Tensor,
        contents: ContentSource,
        settings: TrainSettings,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        """style_image, counterpart: (1, 3, H, W) in [-1, 1], at the base's size.

        arithmetic: of the forward passes; None derives it from ``settings.precision``.
        """
        self.base, self.contents, self.settings = base, contents, settings
        self.arithmetic = arithmetic or resolve(settings.precision, base.device)
        self.style_image, self.counterpart = style_image, counterpart
        self.iteration = 0
        self.history: list[dict[str, float]] = []
        with seeded(settings.seed, "init"):
            self.spn = StructurePreservingNetwork().to(base.device)
            self.unet = trainable_copy(base.diffae.unet, settings)
        self.networks = nn.ModuleDict({"unet": self.unet, "spn": self.spn})
        self.loss = StyleLoss(base.guide, base.perceptual, settings, style_image, counterpart)
        # One kernel for all parameters.
        fused = base.device.type == "cuda"
        self.optimisers = {
            "unet": torch.optim.Adam(
                [p for p in self.unet.parameters() if p.requires_grad],
                settings.lr_unet,
                betas=(0.9, settings.adam_beta2),
                fused=fused,
            ),
            "spn": torch.optim.Adam(self.spn.parameters(), settings.lr_spn, fused=fused),
        }
        walk = denoising_walk(settings.spacing, settings.decode_steps, settings.t0)
        self.schedule, self.denoising_steps = walk.schedule, walk.count
        self.solve = SOLVERS[settings.decode_solver]
        with torch.no_grad(), autocast(base.device, self.arithmetic):
            source = counterpart if settings.style_condition == "counterpart" else style_image
            self.z_style = base.encode_z(source).float()
            z_counterpart = base.encode_z(counterpart).float()
            self.style_x_t0 = invert_photos(base, counterpart, z_counterpart, settings)
        if settings.memory is not None:
            self.settings = fit_memory(self, settings.memory)
        if self.settings.recompute:
            recompute_activations(self.unet, self.spn)

    def step(self) -> list[dict[str, float]]:
        """One iteration: draw contents, then train at every denoising step.

        Returns the weighted losses of each denoising step and appends their mean to ``history``.
        Raises DivergedError naming the iteration where a loss is not finite.
        """
        seed = derived_seed(self.settings.seed, f"iteration {self.iteration}")
        contents = self.contents.draw(self.settings.batch_size, torch.Generator().manual_seed(seed))
        # Dropout draws from the global generator.
        with seeded(seed, "dropout"):
            rows = self._train_on(contents)
        self.iteration += 1
        self.history.append({k: sum(r[k] for r in rows) / len(rows) for k in rows[0]})
        return rows

    def _train_on(self, contents: Contents) -> list[dict[str, float]]:
        """Denoise contents and style image from t0 to 0, with an optimiser step at every step."""
        x_t = torch.cat([contents.x_t0, self.style_x_t0])
        before, rows = None, []
        for i in range(self.denoising_steps - 1, -1, -1):
            self._set_learning_rates(i)
            for optimiser in self.optimisers.values():
                optimiser.zero_grad()
            x_t, x0, row = self._accumulate(i, x_t, contents)
            for optimiser in self.optimisers.values():
                optimiser.step()
            rows.append(row)
            with torch.no_grad():
                x_t, before = self.solve(self.schedule, i, i - 1, x_t, x0, before), x0
        return rows

    def _accumulate(
        self, i: int, x_t: Tensor, contents: Contents
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Add the gradients of the loss at index i, micro-batch by micro-batch.

        x_t: the contents' rows, then the style image's. The style image is a row of every
        micro-batch; weighed by their contents, the losses sum to that of the whole batch. Returns
        x_t with the SPN's term, x_0, and the weighted losses.
        """
        n = len(contents)
        size = self.settings.micro_batch or n
        x_parts, x0_parts = [], []
        row = dict.fromkeys(LOSS_NAMES, 0.0)
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            part = contents.take(rows)
            x, x0, total, losses = self.loss_at(i, torch.cat([x_t[rows], x_t[n:]]), part)
            share = len(part) / n
            row = {k: v + share * float(losses.get(k, 0.0)) for k, v in row.items()}
            if not torch.isfinite(total):
                raise DivergedError(
                    f"training diverged at iteration {self.iteration + 1}, step {i}: the loss is "
                    f"{float(total.detach())}; lower lr_unet, or use precision float32"
                )
            (share * total).backward()
            x_parts.append(x.detach())
            x0_parts.append(x0.detach())
        x_t, x0 = (
            torch.cat([*(p[:-1] for p in parts), parts[-1][-1:]]) for parts in (x_parts, x0_parts)
        )
        return x_t, x0, row

    def loss_at(
        self, i: int, x_t: Tensor, contents: Contents
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """The loss at index i, with its graph, and its weighted parts.

        x_t: the contents' rows, then the style image's. Returns (x_t with the SPN's term, x_0,
        loss, parts).
        """
        with autocast(self.base.device, self.arithmetic):
            x_t, x0 = self._predict(i, x_t, contents)
        # In float32: directions between nearby embeddings are lost in bfloat16.
        guide = self.loss.prepare_embeddings(contents.guide)
        return x_t, x0, *self.loss(x0[:-1], x0[-1:], contents.photo, guide)

    def _set_learning_rates(self, i: int) -> None:
        """Set the rates of step i, a function of iteration and step only, as resuming needs."""
        s, steps = self.settings, self.denoising_steps
        left = (s.iterations - self.iteration) * steps - (steps - 1 - i)
        decay = s.lr_decay * s.iterations * steps
        share = min(1.0, left / decay) if decay > 0 else 1.0
        for name, rate in (("unet", s.lr_unet), ("spn", s.lr_spn)):
            for group in self.optimisers[name].param_groups:
                group["lr"] = rate * share

    def _predict(self, i: int, x_t: Tensor, contents: Contents) -> tuple[Tensor, Tensor]:
        """Predict x_0 of contents and style image in one batch at index i.

        x_t: the contents' rows, then the style image's. Returns (x_t with the SPN's term, x_0).
        """
        s = self.settings
        if s.spn_weight > 0:
            x_t = x_t + self._structure(torch.cat([contents.photo, self.counterpart]), i)
        z = torch.cat([contents.z, self.z_style])
        eps = self.unet(x_t, self.schedule.timestep(i, x_t), z)
        return x_t.float(), predict_x0(self.schedule, i, x_t.float(), eps.float())

    def _structure(self, photos: Tensor, i: int) -> Tensor:
        """The SPN's term of x_t at index i (Eq. 12-14); the last row is the style branch."""
        s = self.settings
        scale = torch.full((len(photos), 1, 1, 1), s.spn_weight, device=photos.device)
        if s.spn_style_branch == "unscaled":
            # The published code adds the style branch's output without lambda.
            scale[-1] = 1.0
        return scale * self.spn(photos, spn_step(self.schedule, i, s.spn_time, photos))

    def style(self, style_id: str) -> Style:
        """The current state of the training as a style."""
        delta = trained_adapter(self.unet, self.base.diffae.unet)
        spn = {k: v.detach().clone() for k, v in self.spn.state_dict().items()}
        with torch.no_grad():
            z_style = self.base.encode_z(self.style_image)
            z_counterpart = self.base.encode_z(self.counterpart)
        info = {"base": self.base.fingerprint, "arithmetic": self.arithmetic}
        palette = Palette.of(self.style_image[0])
        style = Style(style_id, delta, spn, z_style, z_counterpart, self.settings, info, palette)
        return style.half() if style.low_rank else style

    def weights(self) -> dict[str, Tensor]:
        """Copies of the trained weights of epsilon_B and the SPN, without the optimisers' state."""
        return {key: p.detach().clone() for key, p in self._trained()}

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load weights that ``weights`` returned."""
        for key, p in self._trained():
            p.copy_(weights[key])

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(key, p) for key, p in self.networks.named_parameters() if p.requires_grad]

    def state_tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU of weights and optimisers' state, as flat names for safetensors."""
        tensors: dict[str, Tensor] = dict(self._trained())
        for optimiser in self.optimisers.values():
            tensors |= adam_tensors(optimiser, self.networks.named_parameters())
        return {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}

    def state_info(self) -> dict[str, Any]:
        """The part of the state that is stored as JSON."""
        return {
            "iteration": self.iteration,
            "history": list(self.history),
            "arithmetic": self.arithmetic,
        }

    def load_state(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Resume from ``state_tensors`` and ``state_info``, bit for bit."""
        self.iteration, self.history = info["iteration"], list(info["history"])
        self.load_weights(tensors)
        for name, network in self.networks.items():
            load_adam_tensors(self.optimisers[name], network.named_parameters(name), tensors)


def trainable_copy(unet: UNet, settings: TrainSettings) -> UNet:
    """A copy of epsilon_A with gradients, dropout and adapter: epsilon_B before training."""
    copied = copy.deepcopy(unet).requires_grad_(True).train()
    for module in copied.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.dropout
    if settings.adapter == "lora":
        rank = settings.adapter_rank
        train_low_rank(copied, rank, settings.adapter_alpha / rank)
    return copied


def spn_step(schedule: Schedule, i: int, spn_time: str, like: Tensor) -> Tensor:
    """The SPN's time input (B,) at index i, for the batch of ``like``.

    It is the index itself, as published, or the timestep / 50. The timestep does not depend on the
    number of steps. Divided by the stride of the published training, it has the range of the index.
    """
    step = float(i) if spn_time == "index" else int(schedule.timesteps[i]) / 50
    return torch.full((len(like),), step, device=like.device)
